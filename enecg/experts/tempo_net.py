"""TEMPO's network: prompts and patches through GPT-2, and its sizes."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor, nn
from torch.nn import functional

from enecg.experts.sizes import Depth, Length, Sizes, Small, Width

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


class _GPT2Sizes(Sizes):
    """What differs from GPT-2 as published."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    n_head: Width = 12
    vocab_size: Length = 50257
    n_positions: Length = 1024


class _LoRASizes(Sizes):
    """The adapter inside the published weights."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    r: Width = 16
    alpha: Small = 16.0


class TempoSizes(Sizes):
    """The authors' configuration; what the network does not read of it is ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    seq_len: Length = 336
    pred_len: Length = 96
    patch_size: Length = 16
    stride: Length = 8
    d_model: Width = 768
    gpt_layers: Depth = 6
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
        if self.seq_len < self.patch_size:
            raise ValueError(f"seq_len must be at least patch_size, {self.patch_size}")
        n_words = len(self.stub_token_ids["trend"])
        n_tokens = len(COMPONENTS) * (n_words + self.n_patches)
        if n_tokens > self.gpt2.n_positions:
            raise ValueError(f"gpt2.n_positions must be at least {n_tokens}, the tokens of a lead")
        if self.d_model % self.gpt2.n_head:
            raise ValueError(f"d_model must be a multiple of gpt2.n_head, {self.gpt2.n_head}")
        return self

    @property
    def used_tokens(self) -> list[int]:
        """The rows of the token table that the prompts read, in order."""
        return sorted({token for ids in self.stub_token_ids.values() for token in ids})


class TempoNetwork(nn.Module):
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
