"""Writing small WFDB records for tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb

from enecg.signals import LEADS


def some_signal(n_samples: int = 5000, n_leads: int = 12, seed: int = 0) -> npt.NDArray[np.int64]:
    """Digital samples (T, L) that are neither flat nor alike."""
    rng = np.random.default_rng(seed)
    return rng.integers(-900, 900, (n_samples, n_leads)).cumsum(axis=0) % 3000 - 1500


def write_record(
    folder: Path,
    name: str,
    digital_TL: npt.NDArray[np.int64],
    leads: Sequence[str] = LEADS,
    rate: float = 500,
    gain: float = 1000.0,
    baseline: int = 0,
    unit: str = "mV",
    fmt: str = "16",
) -> Path:
    """Write one record; return its path without ``.hea``."""
    folder.mkdir(parents=True, exist_ok=True)
    count = digital_TL.shape[1]
    wfdb.wrsamp(
        name,
        fs=rate,
        units=[unit] * count,
        sig_name=list(leads),
        d_signal=digital_TL,
        fmt=[fmt] * count,
        adc_gain=[gain] * count,
        baseline=[baseline] * count,
        write_dir=os.fspath(folder),
    )
    return folder / name
