"""TEMPO: GPT-2 over the patches of every lead's trend, season and remainder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.experts import stl, weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.pooling import LEADS, POOLS, check_choice, pooled_leads
from enecg.experts.preparation import resample_fourier, z_scored
from enecg.experts.sizes import Sizes, read_sizes

PERIOD = 50
"""Season of the decomposition, in samples: 1.5 s, as EnECG has it."""
EPSILON = 1e-5
"""Added to variances (and, squared, to the scale of the forecast) by RevIN."""
COMPONENTS = {"trend": "trend", "season": "season", "noise": "residual"}
"""The parts of a series in the order they are read: the layers' ending → the prompt's last word."""
TOKEN_IDS: dict[str, tuple[int, ...]] = {
    "trend": (47, 17407, 262, 2003, 640, 2239, 1813, 262, 5182),
    "season": (47, 17407, 262, 2003, 640, 2239, 1813, 262, 1622),
    "residual": (47, 17407, 262, 2003, 640, 2239, 1813, 262, 29598),
}
"""GPT-2's tokens of "Predict the future time step given the trend" (season, residual)."""
GPT2 = "gpt2_trend.base_model.model."
"""What PEFT put before the names of GPT-2's tensors in the published file."""
IGNORED = re.compile(r"time_attn\.weight|.*\.attn\.(bias|masked_bias)")
"""Names of tensors that may be in a file: EnECG's addition, and masks of older transformers."""


class _GPT2Sizes(BaseModel):
    """What differs from GPT-2 as published."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    n_head: PositiveInt = 12
    vocab_size: PositiveInt = 50257
    n_positions: PositiveInt = 1024


class _LoRASizes(BaseModel):
    """The adapter inside the published weights."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    r: PositiveInt = 16
    alpha: float = 16.0


class TempoSizes(Sizes):
    """The authors' configuration; what the network does not read of it is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    seq_len: PositiveInt = 336
    pred_len: PositiveInt = 96
    patch_size: PositiveInt = 16
    stride: PositiveInt = 8
    d_model: PositiveInt = 768
    gpt_layers: PositiveInt = 6
    gpt2: _GPT2Sizes = _GPT2Sizes()
    lora: _LoRASizes = _LoRASizes()
    stub_token_ids: dict[str, tuple[int, ...]] = TOKEN_IDS
    """Prompts of a small vocabulary; GPT-2's own ones where it is not given."""

    @property
    def n_patches(self) -> int:
        """Patches per component; the last sample is repeated for one more."""
        return (self.seq_len - self.patch_size) // self.stride + 2

    @model_validator(mode="after")
    def _prompts_fit(self) -> Self:
        if set(self.stub_token_ids) != set(COMPONENTS.values()):
            raise ValueError(f"stub_token_ids needs the keys {', '.join(COMPONENTS.values())}")
        if len({len(ids) for ids in self.stub_token_ids.values()}) > 1:
            raise ValueError("stub_token_ids: prompts must be of one length")
        if not 0 <= self.used_tokens[0] <= self.used_tokens[-1] < self.gpt2.vocab_size:
            raise ValueError(f"stub_token_ids: tokens must be below {self.gpt2.vocab_size}")
        if self.d_model % self.gpt2.n_head:
            raise ValueError(f"d_model must be a multiple of gpt2.n_head, {self.gpt2.n_head}")
        return self

    @property
    def used_tokens(self) -> list[int]:
        """The rows of the token table that the prompts read, in order."""
        return sorted({token for ids in self.stub_token_ids.values() for token in ids})


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
            network = _Network(sizes)
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
            pretraining_corpora=("forecasting-benchmarks",),
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


class _Network(nn.Module):
    """The layers that matter, under their published names; GPT-2's without what PEFT put before."""

    def __init__(self, sizes: TempoSizes) -> None:
        from transformers import GPT2Config, GPT2Model

        super().__init__()
        self.gpt2 = GPT2Model(
            GPT2Config(
                vocab_size=len(sizes.used_tokens),
                n_positions=sizes.gpt2.n_positions,
                n_embd=sizes.d_model,
                n_layer=sizes.gpt_layers,
                n_head=sizes.gpt2.n_head,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        for component in COMPONENTS:
            flat = sizes.n_patches * sizes.d_model
            self.add_module(f"in_layer_{component}", nn.Linear(sizes.patch_size, sizes.d_model))
            self.add_module(f"prompt_layer_{component}", nn.Linear(sizes.d_model, sizes.d_model))
            self.add_module(f"out_layer_{component}", nn.Linear(flat, sizes.pred_len))
        self.rev_in_trend = nn.ParameterDict(
            {"affine_weight": torch.ones(1), "affine_bias": torch.zeros(1)}
        )
        place = {token: row for row, token in enumerate(sizes.used_tokens)}
        rows = [[place[token] for token in sizes.stub_token_ids[p]] for p in COMPONENTS.values()]
        self.register_buffer("prompt_3W", torch.tensor(rows), persistent=False)
        self.patching = (sizes.patch_size, sizes.stride)

    prompt_3W: Tensor

    def tokens(self, parts_N3T: Tensor) -> Tensor:
        """Return what GPT-2 reads, (N, 3 * (9 + 42), D): per component its prompt, its patches."""
        size, stride = self.patching
        patches_N3PS = functional.pad(parts_N3T, (0, stride), mode="replicate").unfold(
            -1, size, stride
        )
        read: list[Tensor] = []
        for i, component in enumerate(COMPONENTS):
            words_WD = self.gpt2.wte(self.prompt_3W[i])
            prompt_WD = self.get_submodule(f"prompt_layer_{component}")(words_WD)
            patch_NPD = self.get_submodule(f"in_layer_{component}")(patches_N3PS[:, i])
            read += [prompt_WD.expand(len(patch_NPD), -1, -1), patch_NPD]
        return torch.cat(read, dim=1)

    def states(self, parts_N3T: Tensor) -> Tensor:
        """Return GPT-2's last states of all tokens, (N, 153, D)."""
        read_NSD = self.tokens(parts_N3T)
        return self.gpt2(inputs_embeds=read_NSD, use_cache=False).last_hidden_state

    def patch_states(self, h_NSD: Tensor) -> Tensor:
        """Leave the prompts out of states: (N, 3, 42, D)."""
        return h_NSD.unflatten(1, (len(COMPONENTS), -1))[:, :, self.prompt_3W.shape[1] :]

    def forecast(self, x_NT: Tensor, h_NSD: Tensor) -> Tensor:
        """Turn states into the forecast in the scale of ``x_NT``, (N, 96)."""
        h_N3PD = self.patch_states(h_NSD)
        y_NP = torch.stack(
            [
                self.get_submodule(f"out_layer_{component}")(h_N3PD[:, i].flatten(1))
                for i, component in enumerate(COMPONENTS)
            ]
        ).sum(dim=0)
        scale, shift = self.rev_in_trend["affine_weight"], self.rev_in_trend["affine_bias"]
        y_NP = (y_NP - shift) / (scale + EPSILON**2)
        mean_N1 = x_NT.mean(dim=1, keepdim=True)
        std_N1 = (x_NT.var(dim=1, keepdim=True, unbiased=False) + EPSILON).sqrt()
        return y_NP * std_N1 + mean_N1


def _since_peft_06(name: str) -> str:
    """Return a tensor's name as PEFT writes it since 0.6."""
    return re.sub(r"\.c_attn\.(weight|bias)$", r".c_attn.base_layer.\1", name)


def _published(name: str) -> str:
    """Return the name in the published file of one of the network's tensors."""
    if not name.startswith("gpt2."):
        return name
    return _since_peft_06(GPT2 + name.removeprefix("gpt2."))


def _published_layout(network: _Network, sizes: TempoSizes) -> dict[str, Tensor]:
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
    network: _Network, sizes: TempoSizes, tensors: Mapping[str, Tensor]
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
