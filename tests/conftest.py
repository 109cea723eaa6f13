"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort

torch.set_num_threads(1)  # workers of the same machine are at work beside the tests


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests of a session."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_ecgs() -> Path:
    """The folder of real recordings, or a reason to skip."""
    folder = os.environ.get("ENECG_ECG_DIR")
    if not folder:
        pytest.skip("ENECG_ECG_DIR is not set: no real ECGs to test on")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def synthetic_store(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> RecordStore:
    """A record store of some simulated recordings."""
    folder = tmp_path_factory.mktemp("synthetic")
    labels = write_synthetic_cohort(folder / "wfdb", n_records=72, seed=3)
    return convert("wfdb", folder / "wfdb", folder / "store", labels)
