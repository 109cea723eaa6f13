"""Writing small WFDB records for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import wfdb

from enecg.signals import LEADS

REPOSITORY = Path(__file__).parents[1]


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


def corpus(folder: Path, count: int) -> Path:
    """``count`` good records of which the last two are identical, and labels."""
    for number in range(count):
        write_record(
            folder, f"r{number:03d}", some_signal(5000, 12, min(number, count - 2)), gain=500.0
        )
    (folder / "labels.csv").write_text(
        "record_id,subject_id,age,gender,rr_interval,ward\n"
        "r000,s1,50,male,800,a\nr001,s1,300,female,9000,b\nr002,s2,x,?,,\n"
    )
    return folder


def run_convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``convert.py``."""
    return run_job("convert.py", *arguments)


def run_job(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of ``ray_jobs/``."""
    return subprocess.run(
        [sys.executable, f"ray_jobs/{job}", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
