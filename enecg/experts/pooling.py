"""From many vectors per record to one: segments of a long record, and pooling over them.

A backbone whose window is shorter than the record sees the record as segments; what it gives for
each segment, frame, patch or lead is pooled into the record's one feature vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enecg.errors import UserError, did_you_mean

POOLS: dict[str, int] = {"mean": 1, "max": 1, "mean_std": 2}
"""Kinds of pooling, and how many numbers each gives per channel: the value of a ``pool`` option."""


def check_pool(expert: str, pool: str) -> None:
    """Raise UserError unless ``pool`` is one of `POOLS`."""
    if pool not in POOLS:
        near = did_you_mean(str(pool), POOLS)
        raise UserError(f"expert {expert}: pool is {pool!r}{near} (allowed: {', '.join(POOLS)})")


def segments(x_BLT: Tensor, window: int) -> Tensor:
    """Cut records into as few windows as cover them, evenly spread from first to last sample.

    Parameters
    ----------
    x_BLT : tensor, shape (B, L, T)
    window : int
        Length W of a segment, at most T. They are disjoint where W divides T, else they overlap.

    Returns
    -------
    tensor, shape (B, S, L, W)
        S = ceil(T / W) segments.
    """
    n_samples = x_BLT.shape[-1]
    if not 1 <= window <= n_samples:
        raise ValueError(f"segments of {window} samples cannot be cut out of {n_samples}")
    n = -(-n_samples // window)
    starts = [round(i * (n_samples - window) / max(1, n - 1)) for i in range(n)]
    return torch.stack([x_BLT[..., start : start + window] for start in starts], dim=1)


def pooled(f_BND: Tensor, pool: str) -> Tensor:
    """Pool N vectors per record into one.

    Parameters
    ----------
    f_BND : floating tensor, shape (B, N, D)
    pool : str
        ``mean``, ``max``, or ``mean_std``: the mean, then the population standard deviation.

    Returns
    -------
    tensor, shape (B, D * POOLS[pool])
    """
    if pool == "max":
        return f_BND.amax(dim=1)
    mean_BD = f_BND.mean(dim=1)
    if pool == "mean":
        return mean_BD
    # Away from the square root's infinite slope at 0, so that gradients stay finite.
    variance_BD = (f_BND - mean_BD[:, None]).square().mean(dim=1)
    return torch.cat([mean_BD, (variance_BD + 1e-12).sqrt()], dim=1)
