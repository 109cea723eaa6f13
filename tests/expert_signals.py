"""Small ECG-like signals and golden files for the tests of experts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enecg import signals


def ecg_like(n_records: int, seed: int = 0) -> Tensor:
    """Return (n, 12, 5000) float32 mV at 500 Hz: narrow and wide waves at a record's own rate."""
    random = np.random.default_rng(seed)
    time_T = np.arange(signals.N_SAMPLES) / signals.SAMPLING_RATE_HZ
    x_BLT = np.empty((n_records, len(signals.LEADS), signals.N_SAMPLES))
    for x_LT in x_BLT:
        beats = np.arange(random.uniform(0, 0.5), 10.5, random.uniform(0.5, 1.2))
        away_NT = time_T - beats[:, None]
        narrow_T = np.exp(-0.5 * (away_NT / 0.012) ** 2).sum(axis=0)
        wide_T = np.exp(-0.5 * ((away_NT - 0.28) / 0.05) ** 2).sum(axis=0)
        size_L1 = random.uniform(-1.5, 1.5, (len(signals.LEADS), 1))
        x_LT[:] = size_L1 * narrow_T + 0.25 * size_L1 * wide_T
        x_LT += 0.1 * np.sin(2 * np.pi * 0.3 * time_T) + random.normal(0, 0.02, x_LT.shape)
    return torch.from_numpy(np.round(x_BLT, 3).astype(np.float32))


def golden_folder(expert: str) -> Path:
    """Return an expert's folder of golden vectors; skip the test where there is none."""
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    return Path(folder).resolve() / expert


def published_shapes(path: Path) -> list[dict[str, tuple[int, ...]]]:
    """Read the names and shapes of a published model's tensors, a dict per heading in the file."""
    models: list[dict[str, tuple[int, ...]]] = []
    was_heading = False
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            models += [] if was_heading else [{}]
        else:
            name, shape, *_ = line.split("\t")
            models[-1][name] = tuple(int(size) for size in shape.strip("(),").split(",") if size)
        was_heading = line.startswith("#")
    return models
