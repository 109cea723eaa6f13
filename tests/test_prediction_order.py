"""Rows of predictions: in the order of a store's index, of a folder in that of its paths."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from enecg.predict import predict_file
from enecg.records import convert as convert_module
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort
from models import adapted_expert, bundle
from problems import AGE

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def made_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "age"
    bundle(AGE, rocket=adapted_expert("rocket", AGE)).save(folder)
    return folder


def test_rows_come_as_listed(
    made_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several shards of a few records each, so that dealing and reading could mix them."""
    monkeypatch.setattr(convert_module, "RECORDS_PER_SHARD", 7)
    write_synthetic_cohort(tmp_path / "wfdb", n_records=40, seed=8)
    store = convert("wfdb", tmp_path / "wfdb", tmp_path / "store", max_rejected=1.0)
    in_index = store.index["record_id"].tolist()
    assert in_index != sorted(in_index), "records are dealt at random"
    predict_file(made_bundle, tmp_path / "store", tmp_path / "store.parquet")
    assert pd.read_parquet(tmp_path / "store.parquet")["record_id"].tolist() == in_index

    predict_file(made_bundle, tmp_path / "wfdb", tmp_path / "wfdb.parquet")
    listed = sorted(path.stem for path in (tmp_path / "wfdb").rglob("*.hea"))
    readable = [record for record in listed if record in set(in_index)]
    assert len(readable) > 30
    assert pd.read_parquet(tmp_path / "wfdb.parquet")["record_id"].tolist() == readable
