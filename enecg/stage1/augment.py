"""Changes that a recording could have had without another diagnosis; for training alone.

What a record gets is a function of seed, epoch and record id: not of its batch, worker or order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from enecg.signals import SAMPLING_RATE_HZ

Change = Literal["lead_dropout", "crop", "scale", "noise", "wander"]

LEAD_DROPOUT = 0.1
"""Chance of a lead to be missing; one always stays."""
LEAST_KEPT = 0.8
"""Cropping keeps at least this share of the recording, the rest is missing."""
LARGEST_SCALE = 1.25
"""All leads are multiplied by one factor between this and its inverse."""
LARGEST_NOISE_MV = 0.03
"""Largest standard deviation of white noise."""
LARGEST_WANDER_MV = 0.15
WANDER_HZ = (0.05, 0.5)

Signals = npt.NDArray[np.float32]


def augment(
    x_BLT: Signals, record_ids: Iterable[str], changes: Sequence[Change], seed: int, epoch: int
) -> Signals:
    """Return changed copies of some records.

    Parameters
    ----------
    x_BLT : float32 array, shape (B, 12, 5000)
        mV, NaN where missing.
    record_ids : iterable of str, length B
    changes : sequence of str
        Which of the changes to make, in any order.
    seed, epoch : int
    """
    changed = x_BLT.copy()
    for x_LT, record in zip(changed, record_ids, strict=True):
        digest = hashlib.sha256(f"{seed}/{epoch}/{record}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        _change(x_LT, changes, random)
    return changed


def _change(x_LT: Signals, changes: Sequence[Change], random: np.random.Generator) -> None:
    """Change one record in place; every change draws, so that none depends on the others."""
    n_leads, n_samples = x_LT.shape
    factor = LARGEST_SCALE ** random.uniform(-1, 1)
    noise_mv = random.uniform(0, LARGEST_NOISE_MV)
    noise_LT = random.standard_normal(x_LT.shape, dtype=np.float32)
    frequency, phase = random.uniform(*WANDER_HZ), random.uniform(0, 2 * np.pi)
    wander_mv_L1 = random.uniform(-LARGEST_WANDER_MV, LARGEST_WANDER_MV, (n_leads, 1))
    dropped_L = np.less(random.random(n_leads), LEAD_DROPOUT)
    dropped_L[random.integers(n_leads)] = False
    kept = int(n_samples * random.uniform(LEAST_KEPT, 1))
    first = int(random.integers(n_samples - kept + 1))
    if "scale" in changes:
        x_LT *= np.float32(factor)
    if "noise" in changes:
        x_LT += np.float32(noise_mv) * noise_LT
    if "wander" in changes:
        time_T = np.arange(n_samples) / SAMPLING_RATE_HZ
        wave_T = np.sin(2 * np.pi * frequency * time_T + phase)
        x_LT += (wander_mv_L1 * wave_T).astype(np.float32)
    if "lead_dropout" in changes:
        x_LT[dropped_L] = np.nan
    if "crop" in changes:
        x_LT[:, :first] = np.nan
        x_LT[:, first + kept :] = np.nan
