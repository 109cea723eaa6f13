"""MOMENT: a T5 encoder over patches of every lead, by momentfm."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict
from torch import Tensor

from enecg import signals
from enecg.experts import weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
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

UNUSED = ("encoder.embed_tokens.weight", "head.linear.weight", "head.linear.bias")
"""In the published files: T5's table of words, and the head of pretraining."""


class _T5Sizes(Sizes):
    """T5's own configuration, as far as it says what is computed; FLAN-T5 large by default."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    d_model: Width = 1024
    d_ff: Width = 2816
    d_kv: Width = 64
    num_layers: Depth = 24
    num_heads: Width = 16
    feed_forward_proj: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "gated-gelu"
    relative_attention_num_buckets: Length = 32
    relative_attention_max_distance: Length = 128
    layer_norm_epsilon: Small = 1e-6
    dropout_rate: Dropout = 0.1


class MomentSizes(Sizes):
    """The authors' config.json; MOMENT-1-large by default."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    seq_len: Length = 512
    patch_len: Length = 8
    t5_config: _T5Sizes = _T5Sizes()


class Moment(Expert):
    """Embedding of MOMENT-1 (small, base or large).

    Goswami et al., "MOMENT: A Family of Open Time-series Foundation Models", ICML 2024, by its
    authors' package momentfm. Every lead is a series of its own: scaled to mean 0 and deviation 1
    (RevIN), cut into 64 patches of 8 samples, and encoded by T5.

    Parameters
    ----------
    config : str, Path or mapping, optional
        Other sizes than MOMENT-1-large's, by the names of the authors' config.json. A folder of
        weights brings its own.
    sampling_rate_hz : float
        Rate at which it sees the record. At 51.2 Hz one window of 512 samples is the whole record;
        at a higher rate the record is covered by several windows, which overlap if they must, and
        their patches are pooled together.
    pool : {"mean", "max", "mean_std"}
        How patches are pooled; momentfm's own embedding is the mean.
    leads : {"pooled", "apart"}
        Whether patches of all leads are pooled together, as momentfm does, or the features of the
        twelve leads follow each other.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    ImportError
        If momentfm is not installed.
    UserError
        If an option has an impossible value.
    """

    name = "moment"
    version = 1
    published: ClassVar = {"MOMENT-1-small": None, "MOMENT-1-base": None, "MOMENT-1-large": None}

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        sampling_rate_hz: float = 51.2,
        pool: str = "mean",
        leads: str = "pooled",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, MomentSizes, config)
        check_rate(self.name, sampling_rate_hz, sizes.seq_len)
        check_pool(self.name, pool)
        check_choice(self.name, "leads", leads, LEADS)
        with drawing_from(seed):
            network = _network(sizes)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=sampling_rate_hz,
            n_samples=sizes.seq_len,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted, missing samples 0 (the network scales "
            "every window of a lead to mean 0 and deviation 1)",
            width=sizes.t5_config.d_model
            * POOLS[pool]
            * (1 if leads == "pooled" else len(signals.LEADS)),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="MIT (AutonLab/MOMENT-1)",
            pretraining_corpora=("time-series-pile",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("SelfAttention.q", "SelfAttention.v"),
        )
        options = {
            "config": None if config is None else sizes.model_dump(mode="json"),
            "sampling_rate_hz": sampling_rate_hz, "pool": pool, "leads": leads, "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
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
        tensors = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
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
        """Return what ``pool`` says of the leads' patches, float32 of shape (B, D)."""
        window_BSLW = segments(prepared, self.spec.n_samples)
        h_NLPD = self.patches(window_BSLW.flatten(0, 1))
        h_BLSPD = h_NLPD.float().unflatten(0, window_BSLW.shape[:2]).transpose(1, 2)
        return pooled_leads(h_BLSPD.flatten(2, 3), self.options["pool"], self.options["leads"])

    def patches(self, x_BLW: Tensor) -> Tensor:
        """Return momentfm's unreduced embedding of one window: (B, L, 512) → (B, L, 64, D)."""
        h_NLPD: Tensor = self.network.embed(x_enc=x_BLW, reduction="none").embeddings
        return h_NLPD


def _network(sizes: MomentSizes) -> Any:
    """Build momentfm's network, without what embedding does not use."""
    try:
        from momentfm.models.moment import MOMENT
    except ImportError as error:
        raise ImportError(
            "expert moment needs momentfm: pip install --no-deps momentfm==0.1.4"
        ) from error
    t5_config = sizes.t5_config.model_dump() | {
        "vocab_size": 1,
        "use_cache": False,
        "eos_token_id": None,
    }
    config = {
        "task_name": "embedding",
        "transformer_backbone": "T5 of the sizes below",
        "transformer_type": "encoder_only",
        "d_model": sizes.t5_config.d_model,
        "seq_len": sizes.seq_len,
        "patch_len": sizes.patch_len,
        "patch_stride_len": sizes.patch_len,
        "freeze_embedder": False,
        "freeze_encoder": False,
        "enable_gradient_checkpointing": False,
        "t5_config": t5_config,
    }
    with _quiet():
        network = MOMENT({}, model_kwargs=config)
    network.encoder.embed_tokens = None
    network.patch_embedding.mask_embedding.requires_grad_(False)  # no sample is masked
    return network


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep momentfm from warning of its heads, and its messages from setting up logging."""
    listener = logging.NullHandler()
    logging.root.addHandler(listener)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeHandler(listener)
