"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort
from enecg.stage1.jobs import train_experts

torch.set_num_threads(1)  # workers of the same machine are at work beside the tests


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests of a session; its workers know the tests' experts."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    site = str(Path(__file__).parent / "extra_experts_site")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")]))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def extra_experts() -> Iterator[None]:
    """The tests' experts, loadable in this process while a test runs."""
    with _extra_experts():
        yield


@contextmanager
def _extra_experts() -> Iterator[None]:
    import enecg.experts

    folder = str(Path(__file__).parent / "extra_experts")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(enecg.experts, "__path__", [*enecg.experts.__path__, folder])
        enecg.experts._classes.cache_clear()
        yield
    enecg.experts._classes.cache_clear()


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


@pytest.fixture(scope="session")
def calm_outputs(synthetic_store: RecordStore, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Outputs of the probe, trained whole by two workers that nothing strikes."""
    from struck import experiment_in, outputs_of

    with _extra_experts():
        folder = tmp_path_factory.mktemp("calm")
        experiment = experiment_in(folder, synthetic_store, "full", workers=2)
        train_experts(experiment)
        return outputs_of(experiment)
