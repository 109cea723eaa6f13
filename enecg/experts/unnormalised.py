"""Parts of residual networks that normalise nothing: neither a record nor a batch.

Amplitudes tell of age and sex, so a record must not be normalised; statistics of a batch would tie
its records together. Instead each output's weights are standardised, and activations scaled so that
variances stay (Brock et al., "Characterizing signal propagation to close the performance gap in
unnormalized ResNets", ICLR 2021).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVE = 1.7
"""GELU of standard normal numbers, times this, has a variance of one."""
BRANCH = 0.3
"""How much of a block's branch is added to its shortcut, at first."""


def active(x: Tensor) -> Tensor:
    """Return GELU, scaled."""
    return ACTIVE * functional.gelu(x)


def standardised(weight: Tensor, gain: Tensor) -> Tensor:
    """Return weights, shape (outputs, …), with a mean of zero and a norm of ``gain`` per output."""
    inner = tuple(range(1, weight.ndim))
    centred = weight - weight.mean(inner, keepdim=True)
    return gain * centred / centred.square().sum(inner, keepdim=True).clamp(min=1e-4).sqrt()


class Conv(nn.Conv1d):
    """A convolution with standardised weights; padded so that at stride 1 it keeps the length.

    Parameters
    ----------
    width_in, width : int
    kernel : int
        Odd.
    stride : int
    """

    def __init__(self, width_in: int, width: int, kernel: int, stride: int = 1) -> None:
        super().__init__(width_in, width, kernel, stride, padding=kernel // 2)
        self.gain = nn.Parameter(torch.ones(width, 1, 1))
        nn.init.zeros_(cast(Tensor, self.bias))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return shape (B, C, T / stride)."""
        weight = standardised(self.weight, self.gain)
        return functional.conv1d(x_BCT, weight, self.bias, self.stride, self.padding)


class Linear(nn.Linear):
    """A linear layer with standardised weights.

    Not for LoRA: a change that is merged into the weights would be standardised with them.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__(width_in, width)
        self.gain = nn.Parameter(torch.ones(width, 1))
        nn.init.zeros_(self.bias)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return shape (B, D)."""
        return functional.linear(x_BD, standardised(self.weight, self.gain), self.bias)


class Block(nn.Module):
    """Two convolutions beside a shortcut, activation first; halves the length.

    He et al., "Identity mappings in deep residual networks", ECCV 2016.

    Parameters
    ----------
    width_in, width : int
    kernel : int
        Odd.
    """

    def __init__(self, width_in: int, width: int, kernel: int) -> None:
        super().__init__()
        self.first = Conv(width_in, width, kernel, stride=2)
        self.second = Conv(width, width, kernel)
        self.shortcut = Conv(width_in, width, 1) if width_in != width else None
        self.share = nn.Parameter(torch.tensor([BRANCH]))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return shape (B, C, T / 2)."""
        y_BCT = active(x_BCT)
        short_BCT = functional.avg_pool1d(
            x_BCT if self.shortcut is None else y_BCT, 2, ceil_mode=True
        )
        if self.shortcut is not None:
            short_BCT = self.shortcut(short_BCT)
        return short_BCT + self.share * self.second(active(self.first(y_BCT)))
