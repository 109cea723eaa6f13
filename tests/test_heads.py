"""Feed-forward heads: how large the features may be that they are given."""

from __future__ import annotations

import torch

from enecg.stage1.heads import LARGEST_DEVIATION, Head
from problems import AGE


def test_heads_of_trained_backbones_take_features_of_any_size() -> None:
    """Their layer norm does; a limit would stop a backbone whose features grow from learning."""
    torch.manual_seed(0)
    head = Head(16, AGE, (8,), trained_backbone=True)
    f_BD = torch.randn(4, 16)
    torch.testing.assert_close(head(1000 * f_BD), head(f_BD), rtol=1e-4, atol=1e-4)
    large_BD = (100 * f_BD).requires_grad_()
    head(large_BD).sum().backward()
    assert large_BD.grad is not None
    assert (large_BD.grad != 0).all()


def test_features_of_frozen_backbones_are_cut_off_in_deviations() -> None:
    torch.manual_seed(0)
    head = Head(3, AGE, (8,))
    f_BD = torch.randn(50, 3)
    head.scale_features(f_BD, torch.arange(50))
    far_D = head.feature_mean + head.feature_std * LARGEST_DEVIATION
    torch.testing.assert_close(head((far_D * 2)[None]), head(far_D[None]))
