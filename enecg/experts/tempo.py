"""TEMPO: GPT-2 over the patches of every lead's trend, season and remainder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from enecg import signals
from enecg.experts import stl, weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.pooling import LEADS, POOLS, check_choice, pooled_leads
from enecg.experts.preparation import resample_fourier, z_scored
from enecg.experts.sizes import read_sizes
from enecg.experts.tempo_net import TempoNetwork, TempoSizes

PERIOD = 50
"""Season of the decomposition, in samples: 1.5 s, as EnECG has it."""
GPT2 = "gpt2_trend.base_model.model."
"""What PEFT put before the names of GPT-2's tensors in the published file."""
IGNORED = re.compile(r"time_attn\.weight|.*\.attn\.(bias|masked_bias)")
"""Names of tensors that may be in a file: EnECG's addition, and masks of older transformers."""


class Tempo(Expert):
    """Pooled states of GPT-2 that reads every lead as trend, season and remainder.

    Cao et al., "TEMPO: Prompt-based Generative Pre-trained Transformer for Time Series
    Forecasting", ICLR 2024, in the form EnECG uses: STL gives the three components; each is cut
    into 42 patches and put after a prompt of nine tokens; the 153 tokens pass six layers of GPT-2.
    The model is univariate: every lead is a series of its own.

    Parameters
    ----------
    config : str, Path or mapping, optional
        Other sizes than TEMPO-80M's, by the names of the authors' configuration.
    pool : {"mean", "max", "mean_std", "forecast"}
        What is made of a lead's states: pooled over its 126 patches, or (what EnECG feeds its
        heads) the forecast of the next 96 samples.
    leads : {"pooled", "apart"}
        Whether patches of all leads are pooled together (forecasts: averaged), or the features of
        the twelve leads follow each other.
    stl : {"matrix", "statsmodels"}
        ``matrix`` decomposes in batch on the device, equal to statsmodels up to rounding, since
        STL is linear. ``statsmodels`` runs it lead by lead, 11 ms each, on CPU workers.
    seed : int
        Seed of the initial weights.

    Notes
    -----
    The published weights hold a LoRA adapter of rank 16. It is merged into the weights it adapts,
    so that an adapter put in later is a fresh one, and the only one that trains. Of the token
    table only the rows of the prompts' twelve tokens are kept.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "tempo"
    version = 1
    published: ClassVar = {"TEMPO-80M_v1.pth": None}

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        pool: str = "mean",
        leads: str = "pooled",
        stl: str = "matrix",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, TempoSizes, config)
        check_choice(self.name, "leads", leads, LEADS)
        check_choice(self.name, "stl", stl, ("matrix", "statsmodels"))
        check_choice(self.name, "pool", pool, (*POOLS, "forecast"))
        with drawing_from(seed):
            network = TempoNetwork(sizes)
        width = sizes.pred_len if pool == "forecast" else sizes.d_model * POOLS[pool]
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=sizes.seq_len / signals.DURATION_S,
            n_samples=sizes.seq_len,
            leads=signals.LEADS,
            units="standard deviations of the lead",
            normalisation="each lead scaled to mean 0 and deviation 1, missing samples 0; split "
            f"by STL of period {PERIOD} into trend, season and remainder",
            width=width * (1 if leads == "pooled" else len(signals.LEADS)),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="Apache-2.0 (DC-research/TEMPO)",
            pretraining_corpora=("forecasting",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("c_attn",),
        )
        options = {
            "config": None if config is None else sizes.model_dump(mode="json"),
            "pool": pool, "leads": leads, "stl": stl, "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
        self.sizes = sizes
        self.network = network
        if stl == "statsmodels":
            self.prepares_on = "cpu"
        if pool != "forecast":
            for part in ("out_layer_trend", "out_layer_season", "out_layer_noise", "rev_in_trend"):
                network.get_submodule(part).requires_grad_(False)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Scale every lead, resample it to 33.6 Hz and decompose it.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 12, 3, 336)
            Trend, season and remainder of each lead.
        """
        check_input(x_BLT)
        x_BLT = resample_fourier(z_scored(x_BLT.float()), self.sizes.seq_len)
        x_NT = x_BLT.flatten(0, 1)
        if self.options["stl"] == "matrix":
            parts_N3T = stl.decompose_in_batch(x_NT, PERIOD)
        else:
            parts = stl.decompose(x_NT.double().cpu().numpy(), PERIOD)
            parts_N3T = torch.from_numpy(parts).to(x_NT)
        return parts_N3T.unflatten(0, x_BLT.shape[:2])

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what ``pool`` says of the leads, float32 of shape (B, D)."""
        parts_N3T = prepared.flatten(0, 1)
        if self.options["pool"] == "forecast":
            f_NPD, pool = self._forecast(parts_N3T.sum(dim=1), parts_N3T)[:, None], "mean"
        else:
            h_N3PD = self.network.patch_states(self.network.states(parts_N3T))
            f_NPD, pool = h_N3PD.flatten(1, 2), self.options["pool"]
        f_BLPD = f_NPD.float().unflatten(0, prepared.shape[:2])
        return pooled_leads(f_BLPD, pool, self.options["leads"])

    def forecast(self, x: Tensor, trend: Tensor, season: Tensor, resid: Tensor) -> Tensor:
        """Forecast the samples that follow, as EnECG's copy of TEMPO does.

        Parameters
        ----------
        x, trend, season, resid : float32 tensors, shape (B, 336, M)
            M series per record and their components; of ``x`` only mean and deviation are used.

        Returns
        -------
        tensor, shape (B, 96, M)
        """
        x_NT = x.transpose(1, 2).flatten(0, 1)
        parts_N3T = torch.stack([trend, season, resid], dim=1).permute(0, 3, 1, 2).flatten(0, 1)
        y_NP = self._forecast(x_NT, parts_N3T)
        return y_NP.unflatten(0, (len(x), -1)).transpose(1, 2)

    def _forecast(self, x_NT: Tensor, parts_N3T: Tensor) -> Tensor:
        return self.network.forecast(x_NT, self.network.states(parts_N3T))

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of ``TEMPO-80M_v1.pth``, see `Expert`.

        Tensor names of PEFT before and since 0.6 are known. ``time_attn.weight``, an addition of
        EnECG's without effect, may be absent; nothing else may.
        """
        tensors = {
            _since_peft_06(name): tensor
            for name, tensor in weights.tensors_of(weights.read(path), path).items()
            if not IGNORED.fullmatch(name)
        }
        weights.check(_published_layout(self.network, self.sizes), tensors, path)
        self.network.load_state_dict(_merged(self.network, self.sizes, tensors), strict=True)


def _since_peft_06(name: str) -> str:
    """Return a tensor's name as PEFT writes it since 0.6."""
    return re.sub(r"\.c_attn\.(weight|bias)$", r".c_attn.base_layer.\1", name)


def _published(name: str) -> str:
    """Return the name in the published file of one of the network's tensors."""
    if not name.startswith("gpt2."):
        return name
    return _since_peft_06(GPT2 + name.removeprefix("gpt2."))


def _published_layout(network: TempoNetwork, sizes: TempoSizes) -> dict[str, Tensor]:
    """Return tensors without values of all names and shapes that a published file has."""
    shapes = {_published(name): tuple(t.shape) for name, t in network.state_dict().items()}
    length, width, rank = sizes.seq_len, sizes.d_model, sizes.lora.r
    shapes[f"{GPT2}wte.weight"] = (sizes.gpt2.vocab_size, width)
    for i in range(sizes.gpt_layers):
        adapter = f"{GPT2}h.{i}.attn.c_attn.lora"
        shapes[f"{adapter}_A.default.weight"] = (rank, width)
        shapes[f"{adapter}_B.default.weight"] = (3 * width, rank)
    # Layers that EnECG's copy still has and no longer calls: STL takes their place.
    shapes |= {"mul_season.a": (2, 1), "mul_season.b": (2, 1)}
    for layer, n_in, n_out in (
        ("map_trend", length, length),
        ("map_season.0", length, 4 * length),
        ("map_season.2", 4 * length, length),
        ("map_resid", length, length),
    ):
        shapes |= {f"{layer}.weight": (n_out, n_in), f"{layer}.bias": (n_out,)}
    for component in ("season", "noise"):
        shapes |= {f"rev_in_{component}.affine_{kind}": (1,) for kind in ("weight", "bias")}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def _merged(
    network: TempoNetwork, sizes: TempoSizes, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the network's state dict out of a published file's: its adapter merged."""
    state = {name: tensors[_published(name)] for name in network.state_dict()}
    state["gpt2.wte.weight"] = state["gpt2.wte.weight"][sizes.used_tokens]
    for i in range(sizes.gpt_layers):
        down_RD, up_ER = (
            tensors[f"{GPT2}h.{i}.attn.c_attn.lora_{part}.default.weight"] for part in "AB"
        )
        scale = sizes.lora.alpha / sizes.lora.r
        # GPT-2 keeps its weights as (in, out).
        name = f"gpt2.h.{i}.attn.c_attn.weight"
        state[name] = state[name] + scale * (up_ER @ down_RD).T
    return state
