"""The made-up cohort: repeatable, convertible, and with something in it to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enecg.errors import UserError
from enecg.files import sha256_of_file
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort
from enecg.records.synthetic_beats import Patient, simulate
from enecg.tasks import TASKS


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    write_synthetic_cohort(tmp_path / "a", 6, seed=1)
    write_synthetic_cohort(tmp_path / "b", 6, seed=1)
    write_synthetic_cohort(tmp_path / "c", 6, seed=2)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") != hashes(tmp_path / "c")
    with pytest.raises(UserError, match="--overwrite"):
        write_synthetic_cohort(tmp_path / "a", 6)
    write_synthetic_cohort(tmp_path / "a", 3, seed=1, overwrite=True)
    assert len(list((tmp_path / "a" / "records").iterdir())) == 6


def test_the_cohort_converts_with_its_few_damaged_records(
    tmp_path: Path, ray_cluster: None
) -> None:
    labels = write_synthetic_cohort(tmp_path / "in", 50, seed=3)
    store = convert("wfdb", tmp_path / "in", tmp_path / "store", labels)
    counts = store.description["counts"]
    assert counts["listed"] == 50 and counts["rejected"] == 2
    assert counts["subjects"] < counts["accepted"]
    for name in TASKS:
        found = store.description["labels"][name]
        assert found["missing"] == found["made_missing_as_impossible"] == 0
    assert (store.index["changed"].map(len) == 0).all()
    table = pd.read_csv(labels)
    assert 400 < table["rr_interval"].median() < 1500


def patient(**changes: object) -> Patient:
    settings = {
        "subject_id": "p", "age": 55.0, "gender": "female", "potassium": "normal", "habitus": 5,
    }  # fmt: skip
    return Patient(**{**settings, **changes})  # type: ignore[arg-type]


def signal(person: Patient, rhythm: str = "SR", rate: float = 70.0):
    return simulate(person, rhythm, rate, np.random.default_rng(8))


def test_each_label_leaves_its_mark() -> None:
    usual, interval = signal(patient())
    assert usual.shape == (12, 5000) and np.isfinite(usual).all()
    assert interval == pytest.approx(60_000 / 70, rel=0.05)
    # Einthoven and Goldberger
    np.testing.assert_allclose(usual[0] + usual[2], usual[1], atol=1e-9)
    np.testing.assert_allclose(usual[3] + usual[4] + usual[5], 0, atol=1e-9)
    male, _ = signal(patient(gender="male"))
    assert np.ptp(male[7]) > 1.1 * np.ptp(usual[7])
    old, _ = signal(patient(age=90.0))
    assert np.ptp(old[1]) < 0.9 * np.ptp(usual[1])
    _, interval = signal(patient(), "STACH", 120.0)
    assert interval == pytest.approx(500, rel=0.05)
