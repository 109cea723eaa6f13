"""ECG-FM's network: sizes, convolutions, positional convolution, transformer.

Modules and parameters bear fairseq-signals' names, so that its checkpoints fit.
"""

from __future__ import annotations

import ast
import re
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from enecg.experts.sizes import WIDEST, Depth, Sizes, Width

MOST_CONVOLUTIONS = 64


class EcgFmSizes(Sizes):
    """Sizes under the names of fairseq-signals' configuration; the defaults are the published."""

    conv_feature_layers: str = "[(256, 2, 2)] * 4"
    conv_bias: bool = False
    extractor_mode: Literal["default"] = "default"
    in_d: Literal[12] = 12
    encoder_embed_dim: Width = 768
    encoder_layers: Depth = 12
    encoder_ffn_embed_dim: Width = 3072
    encoder_attention_heads: Width = 12
    layer_norm_first: bool = False
    conv_pos: Width = 128
    conv_pos_groups: Width = 16
    num_labels: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Outputs of the classifier; 0 where there is none."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for key in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, key):
                raise ValueError(f"{key} must divide encoder_embed_dim ({self.encoder_embed_dim})")
        conv_layers(self.conv_feature_layers)
        return self


def conv_layers(text: str) -> list[tuple[int, int, int]]:
    """Read fairseq's notation of a stack of convolutions, ``[(256, 2, 2)] * 4 + [(512, 2, 2)]``.

    Parameters
    ----------
    text : str
        A Python expression: lists of (channels, kernel, stride), repeated and joined. It is
        parsed, never evaluated.

    Raises
    ------
    ValueError
        If it is anything else.
    """
    layers: list[tuple[int, int, int]] = []
    for term in text.split("+"):
        parts = re.fullmatch(r"\s*(\[[\d\s,()]{0,1000}\])\s*(?:\*\s*(\d{1,2}))?\s*", term)
        try:
            found = ast.literal_eval(parts[1]) if parts else []
        except (SyntaxError, ValueError):
            found = []
        sized = [isinstance(one, tuple) and len(one) == 3 and min(one) > 0 for one in found]
        if parts is None or not sized or not all(sized):
            raise ValueError("conv_feature_layers must be lists of (channels, kernel, stride)")
        layers += found * int(parts[2] or 1)
        if len(layers) > MOST_CONVOLUTIONS or max((max(one) for one in layers), default=0) > WIDEST:
            raise ValueError(
                f"conv_feature_layers: at most {MOST_CONVOLUTIONS} layers, no number above {WIDEST}"
            )
    if not layers:
        raise ValueError("conv_feature_layers must be lists of at least one layer")
    return layers


class EcgFmEncoder(nn.Module):
    """From scaled signals to frames.

    Parameters
    ----------
    sizes : EcgFmSizes
    """

    def __init__(self, sizes: EcgFmSizes) -> None:
        super().__init__()
        layers = conv_layers(sizes.conv_feature_layers)
        width, channels = sizes.encoder_embed_dim, layers[-1][0]
        self.strides = [(kernel, stride) for _, kernel, stride in layers]
        self.feature_extractor = _ConvStem(sizes.in_d, layers, sizes.conv_bias)
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, width) if channels != width else nn.Identity()
        self.conv_pos = _PositionalConv(width, sizes.conv_pos, sizes.conv_pos_groups)
        self.encoder = _Transformer(sizes)

    def forward(self, x_BLT: Tensor, padded_BN: Tensor | None) -> Tensor:
        """Return a vector per frame, shape (B, N, E); padded frames are not attended to."""
        conv_BCN = self.feature_extractor(x_BLT)
        y_BNE = self.post_extract_proj(self.layer_norm(conv_BCN.transpose(1, 2)))
        y_BNE = y_BNE + self.conv_pos(y_BNE)
        if padded_BN is not None:
            y_BNE = y_BNE.masked_fill(padded_BN[..., None], 0.0)
        frames_BNE: Tensor = self.encoder(y_BNE, padded_BN)
        return frames_BNE

    def n_frames(self, n_samples: Tensor) -> Tensor:
        """Return how many frames so many samples give."""
        for kernel, stride in self.strides:
            n_samples = ((n_samples - kernel) // stride + 1).clamp(min=0)
        return n_samples


class _ConvStem(nn.Module):
    """Convolutions with GELU; the first is normalised over time, per record and channel."""

    def __init__(self, width: int, layers: list[tuple[int, int, int]], bias: bool) -> None:
        super().__init__()
        stack = []
        for place, (channels, kernel, stride) in enumerate(layers):
            conv = nn.Conv1d(width, channels, kernel, stride, bias=bias)
            nn.init.kaiming_normal_(conv.weight)
            norm = [nn.GroupNorm(channels, channels)] if place == 0 else []
            # The place in between is that of fairseq's dropout: names count it.
            stack.append(nn.Sequential(conv, nn.Identity(), *norm))
            width = channels
        self.conv_layers = nn.ModuleList(stack)

    def forward(self, y_BCT: Tensor) -> Tensor:
        for layer in self.conv_layers:
            y_BCT = _gelu(layer(y_BCT))
        return y_BCT


class _PositionalConv(nn.Module):
    """A grouped, weight-normalised convolution over frames: g * v / |v|, one g per tap."""

    def __init__(self, width: int, taps: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        deviation = (4 / (taps * width)) ** 0.5
        self.weight_v = nn.Parameter(deviation * torch.randn(width, width // groups, taps))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(0, 1), keepdim=True))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, y_BNE: Tensor) -> Tensor:
        norm = self.weight_v.norm(dim=(0, 1), keepdim=True)
        weight = self.weight_v * (self.weight_g / norm)
        n_taps = weight.shape[-1]
        z_BEN = functional.conv1d(
            y_BNE.transpose(1, 2), weight, self.bias, padding=n_taps // 2, groups=self.groups
        )
        return _gelu(z_BEN[..., : y_BNE.shape[1]]).transpose(1, 2)


class _Transformer(nn.Module):
    def __init__(self, sizes: EcgFmSizes) -> None:
        super().__init__()
        self.norm_first = sizes.layer_norm_first
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.encoder_layers))
        self.layer_norm = nn.LayerNorm(sizes.encoder_embed_dim)

    def forward(self, y_BNE: Tensor, padded_BN: Tensor | None) -> Tensor:
        seen_B11N = None if padded_BN is None else ~padded_BN[:, None, None]
        if not self.norm_first:
            y_BNE = self.layer_norm(y_BNE)
        for layer in self.layers:
            y_BNE = layer(y_BNE, seen_B11N)
        return self.layer_norm(y_BNE) if self.norm_first else y_BNE


class _Layer(nn.Module):
    def __init__(self, sizes: EcgFmSizes) -> None:
        super().__init__()
        width = sizes.encoder_embed_dim
        self.norm_first = sizes.layer_norm_first
        self.self_attn = _Attention(width, sizes.encoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = _linear(width, sizes.encoder_ffn_embed_dim)
        self.fc2 = _linear(sizes.encoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, y_BNE: Tensor, seen_B11N: Tensor | None) -> Tensor:
        if self.norm_first:
            y_BNE = y_BNE + self.self_attn(self.self_attn_layer_norm(y_BNE), seen_B11N)
            return y_BNE + self.fc2(_gelu(self.fc1(self.final_layer_norm(y_BNE))))
        y_BNE = self.self_attn_layer_norm(y_BNE + self.self_attn(y_BNE, seen_B11N))
        normed: Tensor = self.final_layer_norm(y_BNE + self.fc2(_gelu(self.fc1(y_BNE))))
        return normed


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj = _linear(width, width), _linear(width, width)
        self.v_proj, self.out_proj = _linear(width, width), _linear(width, width)

    def forward(self, y_BNE: Tensor, seen_B11N: Tensor | None) -> Tensor:
        q, k, v = (
            proj(y_BNE).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out_BHND = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen_B11N)
        out_BNE: Tensor = self.out_proj(out_BHND.transpose(1, 2).flatten(2))
        return out_BNE


def _linear(before: int, after: int) -> nn.Linear:
    """Return a linear layer with the initial weights of BERT."""
    layer = nn.Linear(before, after)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def _gelu(x: Tensor) -> Tensor:
    """Return the exact GELU, computed in float32 as in fairseq."""
    return functional.gelu(x.float()).to(x.dtype)
