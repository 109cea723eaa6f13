"""ECGFounder's network: sizes, convolutions that keep the length, bottleneck blocks.

Modules bear the names of the authors' Net1D, so that their checkpoints fit. It is theirs as they
use it (``use_bn=False, use_do=False``): without batch normalisation and dropout.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from enecg.experts.sizes import Depth, Sizes, Small, Width

MOST_BLOCKS = 512


class Net1dSizes(Sizes):
    """Arguments of the authors' constructor; the defaults are the published ones."""

    in_channels: Literal[1, 12] = 12
    base_filters: Width = 64
    ratio: Small = 1
    filter_list: tuple[Width, ...] = (64, 160, 160, 400, 400, 1024, 1024)
    m_blocks_list: tuple[Depth, ...] = (2, 2, 2, 3, 3, 4, 4)
    kernel_size: Width = 16
    stride: Width = 2
    groups_width: Width = 16
    n_classes: Annotated[int, Field(ge=0, le=100_000)] = 150
    """Outputs of the classifier; 0: without one."""
    use_bn: Literal[False] = False
    use_do: Literal[False] = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.filter_list or len(self.filter_list) != len(self.m_blocks_list):
            raise ValueError("filter_list and m_blocks_list must be equally long, and not empty")
        if sum(self.m_blocks_list) > MOST_BLOCKS:
            raise ValueError(f"m_blocks_list: the sum may be {MOST_BLOCKS} at most")
        for before, width in zip(
            (self.base_filters, *self.filter_list), self.filter_list, strict=False
        ):
            if width < before:
                raise ValueError("filter_list must not fall, nor start below base_filters")
            middle = int(width * self.ratio)
            if width < 2 or middle < 1 or width % self.groups_width or middle % self._groups(width):
                raise ValueError(f"groups_width {self.groups_width} does not divide width {width}")
        return self

    def _groups(self, width: int) -> int:
        return width // self.groups_width


class Net1d(nn.Module):
    """Residual network over time.

    Parameters
    ----------
    sizes : Net1dSizes
    """

    def __init__(self, sizes: Net1dSizes) -> None:
        super().__init__()
        self.first_conv = _SameConv(sizes.in_channels, sizes.base_filters, sizes.kernel_size, 2)
        width = sizes.base_filters
        stages: list[nn.Module] = []
        for number, wider in enumerate(sizes.filter_list):
            blocks: list[nn.Module] = []
            for place in range(sizes.m_blocks_list[number]):
                blocks.append(_Block(sizes, width, wider, number == place == 0, place == 0))
                width = wider
            stages.append(_Stage(blocks))
        self.stage_list = nn.ModuleList(stages)
        self.dense = nn.Linear(width, sizes.n_classes) if sizes.n_classes else None

    def stages(self, x_BLT: Tensor) -> Tensor:
        """Return the last stage's output, shape (B, C, about T / 2**(stages + 1))."""
        y_BCT: Tensor = functional.silu(self.first_conv(x_BLT))
        for stage in self.stage_list:
            y_BCT = stage(y_BCT)
        return y_BCT


class _SameConv(nn.Module):
    """A convolution padded so that its output has ceil(T / stride) samples."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(before, after, kernel, stride, groups=groups)
        self.kernel, self.stride = kernel, stride

    def forward(self, x_BCT: Tensor) -> Tensor:
        n_samples = x_BCT.shape[-1]
        steps = -(-n_samples // self.stride) - 1
        missing = max(0, steps * self.stride + self.kernel - n_samples)
        y_BCT: Tensor = self.conv(functional.pad(x_BCT, (missing // 2, missing - missing // 2)))
        return y_BCT


class _Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(blocks)

    def forward(self, y_BCT: Tensor) -> Tensor:
        for block in self.block_list:
            y_BCT = block(y_BCT)
        return y_BCT


class _Block(nn.Module):
    """Pre-activation bottleneck with squeeze-and-excitation; no activation after the sum."""

    def __init__(
        self, sizes: Net1dSizes, before: int, after: int, is_first: bool, shortens: bool
    ) -> None:
        super().__init__()
        middle = int(after * sizes.ratio)
        self.is_first = is_first
        self.stride = sizes.stride if shortens else 1
        self.widening = after - before
        self.conv1 = _SameConv(before, middle, 1, 1)
        self.conv2 = _SameConv(
            middle, middle, sizes.kernel_size, self.stride, after // sizes.groups_width
        )
        self.conv3 = _SameConv(middle, after, 1, 1)
        self.se_fc1 = nn.Linear(after, after // 2)
        self.se_fc2 = nn.Linear(after // 2, after)

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_BCT = self.conv1(x_BCT if self.is_first else functional.silu(x_BCT))
        y_BCT = self.conv3(functional.silu(self.conv2(functional.silu(y_BCT))))
        share_BC = self.se_fc2(functional.silu(self.se_fc1(y_BCT.mean(dim=-1)))).sigmoid()
        return y_BCT * share_BC[..., None] + self._shortcut(x_BCT)

    def _shortcut(self, x_BCT: Tensor) -> Tensor:
        """Return the input, as short and wide as the block's output."""
        if self.stride > 1:
            # Padded with zeros, as in the authors' code, so a negative last sample may become 0.
            missing = self.stride - 1
            padded_BCT = functional.pad(x_BCT, (missing // 2, missing - missing // 2))
            x_BCT = functional.max_pool1d(padded_BCT, self.stride)
        front = self.widening // 2
        return functional.pad(x_BCT, (0, 0, front, self.widening - front))
