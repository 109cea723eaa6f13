"""A record's result does not depend on which row of a batch it is in, whatever the processor."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import enecg  # noqa: F401  (sets MKL's reproducible mode)
from enecg.predictor import AT_A_TIME


@pytest.mark.parametrize("width_in", [40, 333, 512, 1001])
@pytest.mark.parametrize("width_out", [1, 2, 4, 5, 8, 64])
def test_equal_rows_have_equal_products(width_in: int, width_out: int) -> None:
    generator = torch.Generator().manual_seed(width_in)
    x_BD = torch.randn(1, width_in, generator=generator).repeat(AT_A_TIME, 1)
    layer = nn.Linear(width_in, width_out)
    for out_BC in (layer(x_BD), x_BD @ torch.randn(width_in, width_out, generator=generator)):
        assert (out_BC == out_BC[0]).all()
