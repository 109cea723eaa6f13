"""Stored data is checked where it is read: a flipped bit is told, or what it hit is made anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from enecg import checked_files
from enecg.bundle import Bundle
from enecg.checked_files import (
    DamagedFile,
    parse_sealed_json,
    read_sealed_json,
    sealed_json,
    sha256_once,
    write_sealed_json,
)
from enecg.checked_tensors import read_tensors, write_tensors
from enecg.errors import JobFailed, UserError
from enecg.gate.search import drop_damaged
from enecg.gate.studies import STUDIES, drop_damaged_studies, note_studies
from enecg.records.canonical import CanonicalRecord
from enecg.records.finish import write_description
from enecg.records.parts import (
    OUTCOME_SCHEMA,
    claim,
    outcome_name,
    read_outcomes,
    write_outcomes,
)
from enecg.records.shard_file import write_shard
from enecg.records.store import DESCRIPTION, INDEX, REJECTED, RecordStore, write_table
from enecg.records.verify import verify
from enecg.run_folder import begin, finish, is_done
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.stage1.checkpoints import problem_of, seal
from enecg.stage1.feature_store import FeatureStore
from enecg.storage import Folder
from models import bundle
from problems import AGE
from s3_server import s3_server, upload

RECORDS = [f"r{number}" for number in range(6)]


def flipped(content: bytes, bit: int) -> bytes:
    """The bytes with one bit turned over."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits(content: bytes, count: int, seed: int = 0) -> list[int]:
    """Places of bits: the first and the last byte's, and others at random."""
    drawn = np.random.default_rng(seed).integers(8 * len(content), size=count)
    return [0, 8 * len(content) - 1, *drawn.tolist()]


def every_flip_is_told(path: Path, read: Callable[[], Any], count: int = 200) -> None:
    """Flip bits of a file, one at a time; reading must name the file, in one line."""
    content = path.read_bytes()
    read()
    for bit in bits(content, count):
        path.write_bytes(flipped(content, bit))
        with pytest.raises((UserError, DamagedFile)) as caught:
            read()
        assert path.name in str(caught.value), bit
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    read()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A record store of two shards, made without Ray."""
    folder = Folder.at(tmp_path / "store")
    folder.path.mkdir()
    rng = np.random.default_rng(1)
    files: dict[str, str] = {}
    rows = []
    for number, ids in enumerate((RECORDS[:4], RECORDS[4:])):
        name = f"shard-{number:05d}.parquet"
        all_L = np.ones(12, dtype=bool)
        records = [
            CanonicalRecord(
                rng.integers(-900, 900, (12, 5000)).astype(np.int16),
                np.full(12, 1000.0),
                np.zeros(12, dtype=np.int32),
                all_L,
                ~all_L,
                (),
                0.0,
            )
            for _ in ids
        ]
        write_shard(folder.path / name, ids, records)
        files[name] = hashlib.sha256((folder.path / name).read_bytes()).hexdigest()
        rows += [(record, name, row) for row, record in enumerate(ids)]
    index = pd.DataFrame(rows, columns=["record_id", "shard", "row"])
    index = index.assign(subject_id=RECORDS, group_id=RECORDS, age=np.arange(6) * 10.0 + 20)
    files[INDEX] = write_table(folder, INDEX, pa.Table.from_pandas(index, preserve_index=False))
    rejects = pa.table({name: pa.array([], pa.string()) for name in ("record_id", "path")})
    files[REJECTED] = write_table(folder, REJECTED, rejects)
    write_description(
        folder,
        {
            "format": "enecg-records",
            "format_version": 2,
            "enecg": "0",
            "source": "wfdb",
            "counts": {
                "listed": 6, "accepted": 6, "rejected": 0, "subjects": 6, "groups": 6,
                "rejected_by_reason": {}, "changed": {},
            },
            "labels": {"age": {"kind": "number"}},
            "metadata": [],
            "files": files,
        },
    )  # fmt: skip
    return folder.path


def read_all(folder: Path) -> float:
    """Read a store's every number."""
    return float(sum(np.nansum(x_BLT) for _, x_BLT in RecordStore.open(folder).signals()))


def redescribed(folder: Path, **values: Any) -> None:
    """Other things in dataset.json, with the checksum that is right for them."""
    path = folder / DESCRIPTION
    write_sealed_json(path, read_sealed_json(path) | values)


@pytest.mark.parametrize("name", ["shard-00000.parquet", INDEX, REJECTED, DESCRIPTION])
def test_every_flipped_bit_of_a_record_store_is_told(name: str, store: Path) -> None:
    every_flip_is_told(store / name, lambda: read_all(store), count=100)


def test_an_index_with_other_labels_is_not_the_same_store(store: Path) -> None:
    index = pq.read_table(store / INDEX).to_pandas().assign(age=1.0)
    write_table(Folder.at(store), INDEX, pa.Table.from_pandas(index, preserve_index=False))
    with pytest.raises(UserError, match=r"index\.parquet is damaged .* convert\.py --verify"):
        RecordStore.open(store)


def test_a_shard_is_read_for_its_checksum_once_and_again_when_it_changes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in store.iterdir():  # long settled
        os.utime(path, (1e9, 1e9))
    hashed: list[str] = []
    of_file = checked_files.sha256_of_file
    monkeypatch.setattr(
        checked_files, "sha256_of_file", lambda path: (hashed.append(path.name), of_file(path))[1]
    )
    opened = RecordStore.open(store)
    opened.check_shards(["shard-00001.parquet"])
    assert hashed == ["shard-00001.parquet"]
    opened.check_shards()
    opened.check_shards()
    assert sorted(hashed) == opened.shards
    shard = store / "shard-00000.parquet"
    shard.write_bytes(flipped(shard.read_bytes(), 80_000))
    with pytest.raises(DamagedFile, match=r"shard-00000\.parquet is damaged"):
        opened.check_shards()
    shard.unlink()
    with pytest.raises(DamagedFile, match=r"shard-00000\.parquet is gone; bring"):
        opened.check_shards()


def test_a_file_changed_a_moment_ago_is_read_again(tmp_path: Path) -> None:
    """Two writes within the resolution of a file's time leave size, time and inode the same."""
    path = tmp_path / "file"
    path.write_bytes(b"one")
    state = path.stat()
    first = sha256_once(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert sha256_once(path) != first


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"files": {"../shard-00000.parquet": "0" * 64}}, "files may not name '../shard"),
        ({"files": {"/etc/passwd": "0" * 64}}, "files may not name '/etc/passwd'"),
        ({"files": {"shard-00000.parquet/../../x": "0" * 64}}, "files may not name"),
        ({"files": {"shard-00000.parquet\n": "0" * 64}}, "files may not name"),
        ({"files": {"notes.txt": "0" * 64}}, "files may not name 'notes.txt'"),
        ({"files": {"shard-00000.parquet": "abc"}}, "files.shard-00000.parquet: .*not 'abc'"),
        ({"files": {"shard-00000.parquet": 7}}, "files.shard-00000.parquet: .*not 7"),
        ({"files": {}}, "files does not name index.parquet"),
        ({"files": ["shard-00000.parquet"]}, "files: "),
        ({"files": None}, "files: "),
        ({"counts": {"listed": "six"}}, "counts.listed: "),
        ({"counts": None}, "counts: "),
        ({"counts": []}, "counts: "),
        ({"labels": 7}, "labels: "),
        ({"labels": {"age": "old"}}, "labels.age: "),
        ({"metadata": "ward"}, "metadata: "),
        ({"source": ["wfdb"]}, "source: "),
        ({"format_version": 3}, "not a record store of format version 2"),
        ({"format_version": "2"}, "not a record store of format version 2"),
        ({"format_version": True}, "not a record store of format version 2"),
    ],
)
def test_a_description_that_no_store_has_is_refused_in_one_line(
    change: dict[str, Any], told: str, sealed: bool, store: Path
) -> None:
    if sealed:
        redescribed(store, **change)
    else:
        found = json.loads((store / DESCRIPTION).read_text())
        (store / DESCRIPTION).write_text(json.dumps(found | change))
    for opening in (RecordStore.open, verify):
        with pytest.raises(UserError, match=told) as caught:
            opening(store)
        assert DESCRIPTION in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b"\xff", b"[" * 100_000, b"{}"])
def test_what_is_no_description_is_refused_in_one_line(content: bytes, store: Path) -> None:
    (store / DESCRIPTION).write_bytes(content)
    with pytest.raises(UserError, match="not a record store of format version 2"):
        RecordStore.open(store)


@pytest.mark.parametrize(("accepted", "rejected"), [(5, 1), (7, -1), (6, 1), (4, 2)])
def test_counts_that_contradict_the_tables_are_refused(
    accepted: int, rejected: int, store: Path
) -> None:
    counts = read_sealed_json(store / DESCRIPTION)["counts"]
    redescribed(store, counts=counts | {"accepted": accepted, "rejected": rejected})
    with pytest.raises(UserError, match=r"counts|has 6 rows, dataset\.json says"):
        RecordStore.open(store)


def test_a_shard_with_other_rows_than_the_index_says_is_refused(store: Path) -> None:
    one, two = (store / f"shard-0000{number}.parquet" for number in (0, 1))
    one.write_bytes(two.read_bytes())
    files = read_sealed_json(store / DESCRIPTION)["files"]
    redescribed(store, files=files | {one.name: files[two.name]})
    with pytest.raises(
        DamagedFile, match=r"shard-00000\.parquet has 2 rows, index\.parquet says 4"
    ):
        read_all(store)


def test_a_store_of_the_last_version_opens_and_its_files_are_checked(store: Path) -> None:
    old = read_sealed_json(store / DESCRIPTION) | {"format_version": 1}
    (store / DESCRIPTION).write_text(json.dumps(old))
    assert read_all(store) != 0
    (store / INDEX).write_bytes(flipped((store / INDEX).read_bytes(), 999))
    with pytest.raises(UserError, match=r"index\.parquet is damaged"):
        RecordStore.open(store)


def test_every_flipped_bit_of_sealed_json_and_tensors_is_told(tmp_path: Path) -> None:
    one, two = tmp_path / "done.json", tmp_path / "outputs.safetensors"
    value = {"fingerprint": "abc", "seconds": 1.5e3, "names": ["é", "b"], "sha": {"sha256": "1"}}
    write_sealed_json(one, value)
    assert read_sealed_json(one) == value
    every_flip_is_told(one, lambda: read_sealed_json(one), count=1000)
    save_outputs(two, {"age": np.arange(60, dtype=np.float32), "b": np.ones(3, np.float16)})
    every_flip_is_told(two, lambda: load_outputs(two), count=500)
    for path, read in ((one, read_sealed_json), (two, read_tensors)):
        content = path.read_bytes()
        for wrong in (b"", content[:-1], content + b"\0", content * 2, b"{}", b"\xff" * 300):
            path.write_bytes(wrong)
            with pytest.raises(DamagedFile, match=path.name):
                read(path)


def test_sealed_files_are_read_by_any_reader(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = {"a": torch.randn(3, 4), "half": torch.ones(2, dtype=torch.bfloat16)}
    write_tensors(tmp_path / "t.safetensors", tensors)
    write_tensors(tmp_path / "again.safetensors", tensors)
    assert (tmp_path / "t.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()
    np.testing.assert_array_equal(load_file(tmp_path / "t.safetensors")["a"], tensors["a"])
    with safe_open(tmp_path / "t.safetensors", "pt") as opened:
        digest = opened.metadata()["sha256"]
    content = (tmp_path / "t.safetensors").read_bytes()
    assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
    assert json.loads(sealed_json({"x": 1}))["x"] == 1
    assert parse_sealed_json(sealed_json({"x": 1}), "here") == {"x": 1}


def test_every_flipped_bit_of_features_is_noticed_and_they_count_as_missing(
    tmp_path: Path,
) -> None:
    features = FeatureStore(tmp_path / "probe")
    f_BD = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    features.add(["zz"], f_BD[:1])
    path = features.add(["aa", "bb", "cc"], f_BD)
    content = path.read_bytes()
    for bit in bits(content, 200):
        path.write_bytes(flipped(content, bit))
        assert features.damaged() == [path]
        assert features.keys() == {"zz"}
        with pytest.raises(DamagedFile, match=path.name):
            features.rows(["zz"])
    path.write_bytes(content)
    assert features.damaged() == [] and features.keys() == {"zz", "aa", "bb", "cc"}
    np.testing.assert_array_equal(features.rows(["aa", "bb", "cc"]), f_BD)


def test_features_of_an_earlier_version_are_used_and_known_to_be_unchecked(tmp_path: Path) -> None:
    features = FeatureStore(tmp_path / "probe")
    f_BD = np.ones((2, 3), dtype=np.float32)
    path = features.add(["aa", "bb"], f_BD)
    assert features.unchecked() == []
    old = path.rename(path.with_name(path.name[:29] + ".parquet"))
    assert features.unchecked() == [old] and features.keys() == {"aa", "bb"}
    np.testing.assert_array_equal(features.rows(["bb"]), f_BD[:1])
    old.write_bytes(old.read_bytes()[:-10])
    assert features.damaged() == [old] and features.keys() == set()


@pytest.mark.parametrize(
    "name",
    [
        "bundle.json",
        "gates.safetensors",
        "features.safetensors",
        "experts/rocket/models.safetensors",
        "experts/dlinear/models.json",
    ],
)
def test_every_flipped_bit_of_a_bundle_is_told(name: str, tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    path = tmp_path / "b" / name
    every_flip_is_told(path, lambda: Bundle.load(tmp_path / "b"), count=60)


def test_files_of_another_bundle_are_refused(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "one")
    bundle(AGE).save(tmp_path / "two")
    path = tmp_path / "two" / "gates.safetensors"
    write_tensors(path, {name: value + 1 for name, value in read_tensors(path).items()})
    shutil.copy(path, tmp_path / "one" / "gates.safetensors")
    with pytest.raises(UserError, match=r"gates\.safetensors is gone or not what it was"):
        Bundle.load(tmp_path / "one")


def test_a_bundle_of_the_last_version_loads_and_says_it_is_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    made = bundle(AGE)
    made.save(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.safetensors"):
        save_file(load_file(path), path)
    for path in (tmp_path / "b").rglob("*.json"):
        value = read_sealed_json(path)
        value.pop("files", None)
        path.write_text(json.dumps(value | ({"format_version": 4} if "format" in value else {})))
    read = Bundle.load(tmp_path / "b")
    assert read.expert_names == made.expert_names
    assert "without checksums: not checked" in " ".join(capsys.readouterr().err.split())


def test_a_bundle_that_calls_itself_older_is_checked_all_the_same(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    path = tmp_path / "b" / "bundle.json"
    content = path.read_text()
    path.write_text(content.replace('"format_version": 5', '"format_version": 4'))
    assert path.read_text() != content
    with pytest.raises(UserError, match="damaged"):
        Bundle.load(tmp_path / "b")


@pytest.mark.parametrize("name", ["done.json", "a.safetensors", "deep/b.json"])
def test_finished_work_with_a_flipped_bit_is_not_finished(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    begin(folder, "one")
    (folder / "deep").mkdir()
    (folder / "a.safetensors").write_bytes(bytes(100))
    (folder / "deep" / "b.json").write_bytes(b"[1, 2, 3]")
    finish(folder, "one", ["a.safetensors", "deep/b.json"], seconds=1.0)
    assert is_done(folder, "one")
    assert capsys.readouterr().err == ""
    path = folder / name
    content = path.read_bytes()
    for bit in bits(content, 100):
        path.write_bytes(flipped(content, bit))
        assert not is_done(folder, "one")
        told = " ".join(capsys.readouterr().err.split())
        assert name in told and "this work is done again" in told
    path.write_bytes(content)
    assert is_done(folder, "one")


def test_a_flipped_bit_in_the_mark_of_begun_work_begins_it_anew(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    begin(folder, "one")
    path = folder / "started.json"
    content = path.read_bytes()
    for bit in bits(content, 50):
        (folder / "half.json").touch()
        path.write_bytes(flipped(content, bit))
        begin(folder, "one")
        assert not (folder / "half.json").exists()
        assert path.read_bytes() == content


def test_a_flipped_bit_in_a_checkpoint_or_its_manifest_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(bytes(range(100)))
    seal(tmp_path, 0, 1)
    assert problem_of(tmp_path) is None
    for name in ("state.pt", "manifest-0.json"):
        content = (tmp_path / name).read_bytes()
        for bit in bits(content, 300):
            (tmp_path / name).write_bytes(flipped(content, bit))
            assert problem_of(tmp_path) is not None, (name, bit)
        (tmp_path / name).write_bytes(content)


def test_what_an_interrupted_search_left_damaged_is_removed_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / "views.safetensors", tmp_path / "predictions" / "one.safetensors"]
    whole = tmp_path / "predictions" / "two.safetensors"
    for path in (*places, whole):
        save_outputs(path, {"x": np.arange(30, dtype=np.float32)})
    content = places[0].read_bytes()
    for path, bit in zip(places, (8 * len(content) - 1, 900), strict=True):
        path.write_bytes(flipped(content, bit))
    drop_damaged(tmp_path)
    assert [path.exists() for path in (*places, whole)] == [False, False, True]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("it is removed, and computed again" in line for line in told)


def test_a_damaged_journal_of_studies_is_begun_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drop_damaged_studies(tmp_path)
    journal = tmp_path / STUDIES
    journal.write_bytes(b'{"value": 0.25}\n' * 20)
    note_studies(tmp_path)
    content, known = journal.read_bytes(), (tmp_path / "optuna.json").read_bytes()
    journal.write_bytes(content + b"later")  # trials that were running when a kill came
    drop_damaged_studies(tmp_path)
    assert journal.read_bytes() == content and capsys.readouterr().err == ""
    for name, whole in ((STUDIES, content), ("optuna.json", known)):
        for bit in bits(whole, 50):
            journal.write_bytes(content)
            (tmp_path / "optuna.json").write_bytes(known)
            (tmp_path / name).write_bytes(flipped(whole, bit))
            drop_damaged_studies(tmp_path)
            assert not journal.exists() and "begin anew" in capsys.readouterr().err
    journal.write_bytes(content)
    (tmp_path / "optuna.json").unlink(missing_ok=True)
    drop_damaged_studies(tmp_path)
    assert not journal.exists()


def test_what_an_unfinished_conversion_left_damaged_is_told(tmp_path: Path) -> None:
    store = Folder.at(tmp_path / "store")
    claim(store, {"source": "wfdb"}, overwrite=False)
    path = tmp_path / "store" / ".unfinished" / "arguments.json"
    every_flip_is_told_as_failure(path, lambda: claim(store, {"source": "wfdb"}, overwrite=False))
    claim(store, {"source": "wfdb"}, overwrite=False).check()
    outcomes = OUTCOME_SCHEMA.empty_table()
    write_outcomes(store, 3, outcomes)
    assert read_outcomes(store, [3]).equals(outcomes)
    path = tmp_path / "store" / outcome_name(3)
    every_flip_is_told(path, lambda: read_outcomes(store, [3]), count=100)


def every_flip_is_told_as_failure(path: Path, read: Callable[[], Any]) -> None:
    content = path.read_bytes()
    for bit in bits(content, 100):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(JobFailed, match=r"arguments\.json .*; add --overwrite to start"):
            read()
    path.write_bytes(content)


def test_in_object_storage_a_shard_is_checked_by_its_content(store: Path) -> None:
    with s3_server() as bucket:
        upload(store, f"{bucket}/store")
        opened = RecordStore.open(f"{bucket}/store")
        opened.check_shards()
        shard = opened.shards[1]
        content = opened.folder.read(shard)
        opened.folder.write(shard, flipped(content, 4 * len(content)))
        with pytest.raises(DamagedFile, match=rf"{shard} is damaged"):
            opened.check_shards()
        opened.folder.remove(shard)
        with pytest.raises(DamagedFile, match=rf"{shard} is gone"):
            next(iter(opened.signals([RECORDS[-1]])))
        opened.folder.write(INDEX, opened.folder.read(REJECTED))
        with pytest.raises(UserError, match=r"index\.parquet is damaged"):
            RecordStore.open(f"{bucket}/store")
