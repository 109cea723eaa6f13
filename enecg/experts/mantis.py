"""Mantis: a small transformer over patches of every lead, by mantis-tsfm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights
from enecg.experts.contract import (
    ADAPTATIONS,
    MOST_NUMBERS,
    Expert,
    ExpertSpec,
    check_input,
    drawing_from,
)
from enecg.experts.pooling import (
    LEADS,
    POOLS,
    check_choice,
    check_pool,
    check_rate,
    pooled_leads,
    segments,
)
from enecg.experts.preparation import centred, resample_fourier
from enecg.experts.sizes import Depth, Dropout, Length, Sizes, Small, Width, read_sizes

TOKENS = ("cls_token", "mean_token", "combined")


class MantisSizes(Sizes):
    """The package's config.json; Mantis-8M by default."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    seq_len: Length = 512
    hidden_dim: Width = 256
    num_patches: Length = 32
    kernel_size: Width | None = None
    """Of the second version's convolutions; None in the first version."""
    scalar_scales: Annotated[tuple[Small, ...], Field(max_length=100)] | None = None
    hidden_dim_scalar_enc: Width = 32
    epsilon_scalar_enc: Small = 1.1
    transf_depth: Depth = 6
    transf_num_heads: Width = 8
    transf_mlp_dim: Width = 512
    transf_dim_head: Width = 128
    transf_dropout: Dropout = 0.1

    @model_validator(mode="after")
    def _not_beyond_memory(self) -> Self:
        """The package's network cannot be counted before it is built, as the others are."""
        attention = 4 * self.transf_num_heads * self.transf_dim_head
        numbers = self.transf_depth * self.hidden_dim * (attention + 2 * self.transf_mlp_dim)
        scalars = self.hidden_dim_scalar_enc * len(self.scalar_scales or range(9))
        numbers += self.hidden_dim * (self.num_patches + 2 * scalars)
        numbers += self.hidden_dim**2 * (self.kernel_size or 1)
        if numbers > MOST_NUMBERS:
            raise ValueError(
                f"the sizes ask for about {numbers:.1e} parameters; at most {MOST_NUMBERS:.1e}"
            )
        return self


class Mantis(Expert):
    """Embedding of Mantis-8M, MantisPlus or MantisV2.

    Feofanov et al., "Mantis: Lightweight Calibrated Foundation Model for User-Friendly Time Series
    Classification", 2025 (arXiv 2502.15637), by its authors' package mantis-tsfm. Every lead is a
    series of its own: 32 patches, each read as shape, slope, mean and deviation.

    Parameters
    ----------
    config : str, Path or mapping, optional
        Other sizes than Mantis-8M's, by the names of the package's config.json; with a
        ``kernel_size`` it is the second version. A folder of weights brings its own.
    sampling_rate_hz : float
        Rate at which it sees the record. At 51.2 Hz one window of 512 samples is the whole record;
        at a higher rate the record is covered by several windows, which are pooled.
    token : {"cls_token", "mean_token", "combined"}
        The package's ``output_token``: what stands for a window.
    layer : int
        The package's ``return_transf_layer``: number, from 0, of the layer whose output is taken;
        -1 is the last. The authors advise ``layer: 2, token: combined`` for the second version.
    pool : {"mean", "max", "mean_std"}
        How windows (and leads, if together) are pooled.
    leads : {"apart", "pooled"}
        Whether the embeddings of the twelve leads follow each other, as the authors do, or are
        pooled too.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    ImportError
        If mantis-tsfm is not installed.
    UserError
        If an option has an impossible value.
    """

    name = "mantis"
    version = 1
    published: ClassVar = {"Mantis-8M": None, "MantisPlus": None, "MantisV2": None}

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        sampling_rate_hz: float = 51.2,
        token: str = "cls_token",
        layer: int = -1,
        pool: str = "mean",
        leads: str = "apart",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, MantisSizes, config)
        if sizes.seq_len % sizes.num_patches:
            raise UserError(
                f"expert mantis: config: seq_len must be a multiple of num_patches, "
                f"{sizes.num_patches}, not {sizes.seq_len}"
            )
        check_rate(self.name, sampling_rate_hz, sizes.seq_len)
        check_choice(self.name, "token", token, TOKENS)
        check_pool(self.name, pool)
        check_choice(self.name, "leads", leads, LEADS)
        if not -1 <= layer < sizes.transf_depth:
            highest = sizes.transf_depth - 1
            raise UserError(f"expert mantis: layer is {layer} (allowed: -1 to {highest})")
        with drawing_from(seed):
            network = _network(sizes, token, layer)
        width = sizes.hidden_dim * (2 if token == "combined" else 1) * POOLS[pool]
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=sampling_rate_hz,
            n_samples=sizes.seq_len,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted, amplitude kept, missing samples 0",
            width=width * (1 if leads == "pooled" else len(signals.LEADS)),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="MIT (paris-noah/Mantis-8M; the package is Apache-2.0)",
            pretraining_corpora=("mantis-corpus",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("to_qkv",) if sizes.kernel_size is None else ("wQKV",),
        )
        options = {
            "config": None if config is None else sizes.model_dump(mode="json"),
            "sampling_rate_hz": sampling_rate_hz, "token": token, "layer": layer, "pool": pool,
            "leads": leads, "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
        self.network = network

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build the expert of a mantis-tsfm folder's sizes and weights, see `Expert`."""
        config, tensors = weights.read_folder(path)
        expert = cls(**{"config": config, **options})
        expert._assign(tensors, path)
        return expert

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of a mantis-tsfm folder of the same sizes."""
        self._assign(weights.read_folder(path)[1], path)

    def _assign(self, tensors: dict[str, Tensor], path: str | Path) -> None:
        """Take over tensors, also by the names of Mantis8M; the head of pretraining is not used."""
        tensors = {
            name.replace("vit_unit.", "transf_unit.", 1): tensor
            for name, tensor in tensors.items()
            if not name.startswith("prj.")
        }
        weights.assign(self.network, tensors, path)

    network: Any

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Centre every lead and resample it.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 12, 10 * sampling_rate_hz)
            Millivolts.
        """
        check_input(x_BLT)
        n_samples = round(self.spec.sampling_rate_hz * signals.DURATION_S)
        return resample_fourier(centred(x_BLT.double()), n_samples).float()

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what ``pool`` says of the leads' windows, float32 of shape (B, D)."""
        window_BLSW = segments(prepared, self.spec.n_samples).transpose(1, 2)
        h_ND = self.network(window_BLSW.flatten(0, 2)[:, None])
        h_BLSD = h_ND.float().unflatten(0, window_BLSW.shape[:3])
        return pooled_leads(h_BLSD, self.options["pool"], self.options["leads"])


def _network(sizes: MantisSizes, token: str, layer: int) -> Any:
    """Build the package's network, without what an embedding does not use."""
    try:
        from mantis.architecture import MantisV1, MantisV2
    except ImportError as error:
        raise ImportError("expert mantis needs mantis-tsfm: pip install 'enecg[mantis]'") from error
    settings = sizes.model_dump() | {"device": "cpu"}
    if sizes.scalar_scales is not None:
        settings["scalar_scales"] = list(sizes.scalar_scales)
    unknown = "kernel_size" if sizes.kernel_size is None else "seq_len"
    del settings[unknown]
    build = MantisV1 if sizes.kernel_size is None else MantisV2
    network: Any = build(**settings, output_token=token, return_transf_layer=layer)
    network.prj = nn.Identity()
    if layer >= 0:
        network.transf_unit.transformer.layers[layer + 1 :].requires_grad_(False)
    return network
