"""From many vectors per record to one: segments of a long record, and pooling over them.

A backbone whose window is shorter than the record sees the record as segments; what it gives for
each segment, frame, patch or lead is pooled into the record's one feature vector.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from enecg import signals
from enecg.errors import UserError, brief, did_you_mean

POOLS: dict[str, int] = {"mean": 1, "max": 1, "mean_std": 2}
"""Kinds of pooling, and how many numbers each gives per channel: the value of a ``pool`` option."""
LEADS = ("pooled", "apart")
"""What a backbone that sees one lead at a time can do with its twelve: a ``leads`` option."""


def check_pool(expert: str, pool: str) -> None:
    """Raise UserError unless ``pool`` is one of `POOLS`."""
    check_choice(expert, "pool", pool, POOLS)


def check_choice(expert: str, option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise UserError unless an option has one of the values allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        near = did_you_mean(value, allowed) if isinstance(value, str) else ""
        listing = ", ".join(allowed)
        raise UserError(f"expert {expert}: {option} is {brief(value)}{near} (allowed: {listing})")


def check_range(expert: str, option: str, value: float, least: float, most: float) -> None:
    """Raise UserError unless a number is in a range, ends included; NaN is in none."""
    if not least <= value <= most:
        raise UserError(
            f"expert {expert}: {option} is {brief(value)}; it must be from {least:,} to {most:,}"
        )


def check_rate(expert: str, sampling_rate_hz: float, window: int) -> None:
    """Raise UserError unless a record at this rate has a whole number of samples, a window's or
    more, and no more than are stored."""
    lowest, highest = window / signals.DURATION_S, signals.SAMPLING_RATE_HZ
    n_samples = sampling_rate_hz * signals.DURATION_S
    if not lowest <= sampling_rate_hz <= highest or abs(n_samples - round(n_samples)) > 1e-6:
        raise UserError(
            f"expert {expert}: sampling_rate_hz is {sampling_rate_hz} (allowed: {lowest:g} to "
            f"{highest}, a whole number of samples in {signals.DURATION_S} s)"
        )


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


def pooled_leads(f_BLND: Tensor, pool: str, leads: str) -> Tensor:
    """Pool what a backbone gives for each lead by itself.

    Parameters
    ----------
    f_BLND : floating tensor, shape (B, L, N, D)
        N vectors per lead.
    pool : str
        See `pooled`.
    leads : {"pooled", "apart"}
        Pool over leads and vectors together, or over each lead's vectors; then leads follow each
        other.

    Returns
    -------
    tensor, shape (B, D * POOLS[pool]) or (B, L * D * POOLS[pool])
    """
    if leads == "pooled":
        return pooled(f_BLND.flatten(1, 2), pool)
    return pooled(f_BLND.flatten(0, 1), pool).unflatten(0, f_BLND.shape[:2]).flatten(1)
