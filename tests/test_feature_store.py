"""The feature store: parts are there and whole, or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enecg.errors import JobFailed
from enecg.stage1 import feature_store
from enecg.stage1.feature_store import FeatureStore

KEYS = ["aa", "bb", "cc"]
F_BD = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "probe")


def test_an_empty_store_holds_nothing_and_creates_nothing(store: FeatureStore) -> None:
    assert store.keys() == set()
    assert store.parts == []
    assert not store.folder.exists()


def test_what_is_added_comes_back_bit_for_bit(store: FeatureStore) -> None:
    store.add(KEYS, F_BD)
    store.add(["dd"], F_BD[:1] + 1)
    assert store.keys() == {*KEYS, "dd"}
    found = {}
    for part in store.parts:
        table = pq.read_table(part)
        features = table["features"].combine_chunks()
        assert isinstance(features.type, pa.FixedShapeTensorType)
        rows = features.to_numpy_ndarray()
        assert rows.dtype == np.float32
        found.update(zip(table["physical_sha256"].to_pylist(), rows, strict=True))
    for key, row in zip([*KEYS, "dd"], [*F_BD, F_BD[0] + 1], strict=True):
        np.testing.assert_array_equal(found[key], row)


def test_rows_come_in_the_order_asked_for(store: FeatureStore) -> None:
    store.add(KEYS, F_BD)
    store.add(["dd"], F_BD[:1] + 1)
    asked = ["dd", "bb", "aa", "bb"]
    np.testing.assert_array_equal(store.rows(asked), [F_BD[0] + 1, F_BD[1], F_BD[0], F_BD[1]])
    with pytest.raises(JobFailed, match="features of some records are not here"):
        store.rows(["aa", "ee"])


def test_adding_again_is_the_same_part(store: FeatureStore) -> None:
    first = store.add(KEYS, F_BD)
    before = first.read_bytes()
    assert store.add(KEYS, F_BD) == first
    assert store.parts == [first]
    assert first.read_bytes() == before


def test_strided_features_are_stored_as_they_are(store: FeatureStore) -> None:
    turned = np.asfortranarray(F_BD)
    table = pq.read_table(store.add(KEYS, turned))
    np.testing.assert_array_equal(table["features"].combine_chunks().to_numpy_ndarray(), F_BD)


def test_features_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    large_BD = np.float32([[1, 2], [1, 1e5]])
    with pytest.raises(JobFailed, match="features of record bb are too large for float16"):
        FeatureStore(tmp_path / "half", "float16").add(["aa", "bb"], large_BD)
    full = FeatureStore(tmp_path / "full")
    full.add(["aa", "bb"], large_BD)
    with pytest.raises(JobFailed, match="features of record cc are not finite"):
        full.add(["cc"], np.float32([[1, np.nan]]))
    assert full.keys() == {"aa", "bb"}


def test_a_failed_write_leaves_no_part(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(table: pa.Table, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"PAR1 half of a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(feature_store.pq, "write_table", half)
    with pytest.raises(JobFailed, match=r"features cannot be kept in .*: no space left on device"):
        store.add(KEYS, F_BD)
    assert list(store.folder.iterdir()) == []
    monkeypatch.undo()
    store.add(KEYS, F_BD)
    assert store.keys() == set(KEYS)


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from enecg.errors import JobFailed
from enecg.stage1 import feature_store

def half(table, path, **_):
    Path(path).write_bytes(b"PAR1 half of a file")
    os.kill(os.getpid(), signal.SIGKILL)

feature_store.pq.write_table = half
store = feature_store.FeatureStore(Path(sys.argv[1]))
store.add(["aa"], np.zeros((1, 4), dtype=np.float32))
"""


def test_a_process_killed_while_writing_loses_that_part_alone(store: FeatureStore) -> None:
    store.add(KEYS[1:], F_BD[1:])
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(store.folder)], env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(store.folder.iterdir())) == 2, "something half was left"
    assert store.keys() == set(KEYS[1:]), "and is not read"
    store.add(KEYS[:1], F_BD[:1])
    assert store.keys() == set(KEYS)
