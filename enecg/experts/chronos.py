"""Chronos: encoder states of Chronos-2 or Chronos-Bolt over patches, by chronos-forecasting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.pooling import LEADS, POOLS, check_choice, check_rate, pooled_leads
from enecg.experts.preparation import centred, resample_fourier
from enecg.experts.sizes import Depth, Dropout, Length, Sizes, Small, Width, read_sizes

CHRONOS_2, BOLT = "Chronos2Model", "ChronosBoltModelForForecasting"
UNUSED = ("decoder.", "output_patch_embedding.", "lm_head.", "encoder.embed_tokens.")
"""How the names begin of tensors that only forecasts need."""
RECORDS_TOGETHER = 4
"""Chronos-2 compares every series with every other, and then masks out other records: so few."""


class _Forecasting(Sizes):
    """The part ``chronos_config`` of the package's config.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    context_length: Length = 8192
    input_patch_size: Length = 16
    input_patch_stride: Length = 16
    output_patch_size: Length = 16
    prediction_length: Length = 64
    quantiles: Annotated[tuple[float, ...], Field(min_length=1, max_length=1000)] = (0.5,)
    use_reg_token: bool = True
    use_arcsinh: bool = True
    time_encoding_scale: Length | None = None


class ChronosSizes(Sizes):
    """The package's config.json; Chronos-2 by default."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    architectures: tuple[str, ...] = (CHRONOS_2,)
    d_model: Width = 768
    d_kv: Width = 64
    d_ff: Width = 3072
    num_layers: Depth = 12
    num_heads: Width = 12
    feed_forward_proj: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "relu"
    layer_norm_epsilon: Small = 1e-6
    dropout_rate: Dropout = 0.1
    initializer_factor: Small = 0.05
    rope_theta: Small = 10000.0
    relative_attention_num_buckets: Length = 32
    relative_attention_max_distance: Length = 128
    chronos_config: _Forecasting = _Forecasting()


class Chronos(Expert):
    """Encoder states of Chronos-2 or Chronos-Bolt.

    Ansari et al., "Chronos-2: From Univariate to Universal Forecasting", 2025 (arXiv 2510.15821),
    and "Chronos: Learning the Language of Time Series", TMLR 2024, by their authors' package
    chronos-forecasting: what its pipelines call the embedding. Chronos-2 reads the twelve leads of
    a record together (its group attention), Chronos-Bolt each by itself.

    Parameters
    ----------
    config : str, Path or mapping, optional
        Other sizes than Chronos-2's, by the names of the package's config.json, whose
        ``architectures`` say which of the two it is. A folder of weights brings its own.
    sampling_rate_hz : float
        Rate at which it sees the record; all of it must fit into the context (2,048 samples of
        Chronos-Bolt, 8,192 of Chronos-2). At 102.4 Hz the record is 64 patches of 16 samples.
    pool : {"mean", "max", "mean_std", "reg"}
        How a lead's patches are pooled; ``reg`` takes the state of the [REG] token instead, which
        follows the patches.
    leads : {"pooled", "apart"}
        Whether patches of all leads are pooled together, or the features of the twelve leads
        follow each other.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    ImportError
        If chronos-forecasting is not installed.
    UserError
        If an option has an impossible value.
    """

    name = "chronos"
    version = 1
    published: ClassVar = {
        "chronos-2": None,
        "chronos-bolt-tiny": None,
        "chronos-bolt-mini": None,
        "chronos-bolt-small": None,
        "chronos-bolt-base": None,
    }

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        sampling_rate_hz: float = 102.4,
        pool: str = "mean",
        leads: str = "pooled",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, ChronosSizes, config)
        if sizes.architectures[:1] not in ((CHRONOS_2,), (BOLT,)):
            raise UserError(
                f"expert chronos: config: architectures is {list(sizes.architectures)} "
                f"(allowed: [{CHRONOS_2}], [{BOLT}])"
            )
        forecasting = sizes.chronos_config
        check_choice(self.name, "pool", pool, (*POOLS, "reg"))
        check_choice(self.name, "leads", leads, LEADS)
        if pool == "reg" and not forecasting.use_reg_token:
            raise UserError("expert chronos: pool is 'reg', and these weights have no [REG] token")
        check_rate(self.name, sampling_rate_hz, forecasting.input_patch_size)
        n_samples = round(sampling_rate_hz * signals.DURATION_S)
        if n_samples > forecasting.context_length:
            raise UserError(
                f"expert chronos: sampling_rate_hz is {sampling_rate_hz}, which gives {n_samples} "
                f"samples (allowed: the context of {forecasting.context_length})"
            )
        with drawing_from(seed):
            network = _network(sizes)
        width = sizes.d_model * POOLS.get(pool, 1)
        attention = "self_attention" if sizes.architectures[0] == CHRONOS_2 else "SelfAttention"
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=sampling_rate_hz,
            n_samples=n_samples,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted, missing samples 0 (the network scales "
            "every lead to mean 0 and deviation 1)",
            width=width * (1 if leads == "pooled" else len(signals.LEADS)),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="Apache-2.0 (amazon/chronos-2, amazon/chronos-bolt)",
            pretraining_corpora=("chronos-corpus",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=(f"{attention}.q", f"{attention}.v"),
        )
        options = {
            "config": None if config is None else sizes.model_dump(mode="json"),
            "sampling_rate_hz": sampling_rate_hz, "pool": pool, "leads": leads, "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
        self.sizes = sizes
        self.network = network

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build the expert of a Hugging Face folder's sizes and weights, see `Expert`."""
        config, tensors = weights.read_folder(path)
        expert = cls(**{"config": config, **options})
        expert._assign(tensors, path)
        return expert

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of a Hugging Face folder of the same sizes."""
        self._assign(weights.read_folder(path)[1], path)

    def _assign(self, tensors: dict[str, Tensor], path: str | Path) -> None:
        tensors = {name: t for name, t in tensors.items() if not name.startswith(UNUSED)}
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
        return resample_fourier(centred(x_BLT.double()), self.spec.n_samples).float()

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what ``pool`` says of the leads' patches, float32 of shape (B, D)."""
        h_BLPD = self.states(prepared).float()
        n_patches = -(-self.spec.n_samples // self.sizes.chronos_config.input_patch_size)
        pool, leads = self.options["pool"], self.options["leads"]
        if pool == "reg":
            return pooled_leads(h_BLPD[:, :, n_patches : n_patches + 1], "mean", leads)
        return pooled_leads(h_BLPD[:, :, :n_patches], pool, leads)

    def states(self, x_BLT: Tensor) -> Tensor:
        """Return the package's embedding: (B, L, T) → (B, L, P, D).

        P counts the patches, then the [REG] token where there is one, and then, of Chronos-2, one
        patch of the future.
        """
        n_leads = x_BLT.shape[1]
        if self.sizes.architectures[0] == BOLT:
            h_NPD = self.network.encode(context=x_BLT.flatten(0, 1))[0]
            return h_NPD.unflatten(0, (-1, n_leads))
        parts = []
        for part_BLT in x_BLT.split(RECORDS_TOGETHER):
            group_N = torch.arange(len(part_BLT), device=x_BLT.device).repeat_interleave(n_leads)
            encoded = self.network.encode(context=part_BLT.flatten(0, 1), group_ids=group_N)[0]
            parts.append(encoded.last_hidden_state.unflatten(0, (-1, n_leads)))
        return torch.cat(parts)


def _network(sizes: ChronosSizes) -> Any:
    """Build the package's network, without what only forecasts need."""
    try:
        from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model
        from chronos.chronos_bolt import ChronosBoltModelForForecasting
    except ImportError as error:
        raise ImportError(
            "expert chronos needs chronos-forecasting: pip install 'enecg[chronos]'"
        ) from error
    from transformers import T5Config

    settings = sizes.model_dump()
    forecasting = {k: v for k, v in settings["chronos_config"].items() if v is not None}
    if sizes.architectures[0] == CHRONOS_2:
        del forecasting["prediction_length"]
        kind, model = Chronos2CoreConfig, Chronos2Model
    else:
        for key in ("output_patch_size", "use_arcsinh", "time_encoding_scale"):
            forecasting.pop(key, None)
        kind, model = T5Config, ChronosBoltModelForForecasting
        settings |= {"decoder_start_token_id": 0, "num_decoder_layers": 1, "vocab_size": 2}
    settings |= {"architectures": list(sizes.architectures), "chronos_config": forecasting}
    network: Any = model(kind(**settings))
    network.output_patch_embedding = None
    if sizes.architectures[0] == BOLT:
        network.decoder = None
        network.encoder.embed_tokens = None
    if not sizes.chronos_config.use_reg_token:
        network.shared.requires_grad_(False)
    return network
