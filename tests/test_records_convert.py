"""Conversion end to end: on small made-up corpora, killed, resumed, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from enecg.errors import JobFailed, UserError
from enecg.files import sha256_of_file
from enecg.records import RecordStore, decode
from enecg.records import convert as convert_module
from enecg.records import finish as finish_module
from enecg.records.convert import convert
from enecg.records.parts import Claim
from enecg.records.relabel import relabel
from records_helpers import corpus, run_convert, some_signal, write_record


def files_of(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): sha256_of_file(path)
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Path, Path]:
    """A corpus of 12 records in shards of 5, and its store."""
    folder = corpus(tmp_path_factory.mktemp("corpus"), 12)
    store = tmp_path_factory.mktemp("stores") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "RECORDS_PER_SHARD", 5)
        convert("wfdb", folder, store, folder / "labels.csv", workers=2)
    return folder, store


def test_the_store_holds_what_the_contract_says(converted: tuple[Path, Path]) -> None:
    _, path = converted
    store = RecordStore.open(path)
    assert sorted(p.name for p in path.iterdir()) == [
        "dataset.json",
        "index.parquet",
        "rejected.parquet",
        "shard-00000.parquet",
        "shard-00001.parquet",
        "shard-00002.parquet",
    ]
    assert store.description["counts"]["accepted"] == 12
    assert store.description["files"] == {
        name: digest for name, digest in files_of(path).items() if name != "dataset.json"
    }
    index = store.index.set_index("record_id")
    assert len(index) == 12 and index.loc["r000", "source_path"] == "r000"
    assert index.loc["r000", "group_id"] == index.loc["r001", "group_id"] == "s1"
    assert index.loc["r010", "group_id"] == index.loc["r011", "group_id"] == "r010"
    assert index.loc["r010", "signal_sha256"] == index.loc["r011", "signal_sha256"]
    assert index.loc["r000", "sampling_rate_hz"] == 500 and index.loc["r000", "n_samples"] == 5000
    assert list(index.loc["r000", "lead_present"]) == [True] * 12
    assert list(index.loc["r000", "lead_derived"]) == [False] * 12
    assert list(index.loc["r000", "changed"]) == []
    assert index.loc["r000", "ward"] == "a"
    listed = index.index.tolist()
    assert listed != sorted(listed), "records are shuffled over the shards"


def test_impossible_labels_are_missing_and_counted(converted: tuple[Path, Path]) -> None:
    store = RecordStore.open(converted[1])
    index = store.index.set_index("record_id")
    assert index.loc["r000", "age"] == 50 and np.isnan(index.loc["r001", "age"])
    labels = store.description["labels"]
    assert labels["age"]["made_missing_as_impossible"] == 2
    assert labels["rr_interval"]["made_missing_as_impossible"] == 1
    assert labels["gender"]["made_missing_as_impossible"] == 1
    assert labels["gender"]["classes"] == {"female": 1, "male": 1}


def test_signals_come_in_file_order_whole_or_in_part(converted: tuple[Path, Path]) -> None:
    store = RecordStore.open(converted[1])
    ids, batches = [], []
    for names, x_BLT in store.signals(batch_size=2):
        assert x_BLT.dtype == np.float32 and x_BLT.shape == (len(names), 12, 5000)
        ids += names
        batches.append(x_BLT)
    assert ids == store.index["record_id"].tolist()
    every = dict(zip(ids, np.concatenate(batches), strict=True))
    for name, x_LT in every.items():
        number = min(int(name[1:]), 10)
        np.testing.assert_allclose(x_LT, some_signal(seed=number).T / 500, rtol=1e-6)
    some = [(names, x) for names, x in store.signals(["r007", "r001"])]
    assert {name for names, _ in some for name in names} == {"r001", "r007"}
    for names, x_BLT in some:
        for name, x_LT in zip(names, x_BLT, strict=True):
            np.testing.assert_array_equal(x_LT, every[name])
    with pytest.raises(UserError, match="no record 'r999'"):
        next(store.signals(["r999"]))


def test_ray_data_reads_signals_as_arrays(converted: tuple[Path, Path]) -> None:
    store = RecordStore.open(converted[1])
    seen = {}
    for batch in store.dataset().iter_batches(batch_size=4, batch_format="numpy"):
        assert batch["signal"].shape[1:] == (12, 5000) and batch["signal"].dtype == np.int16
        seen.update(zip(batch["record_id"], decode(batch), strict=True))
    assert len(seen) == 12
    for names, x_BLT in store.signals():
        for name, x_LT in zip(names, x_BLT, strict=True):
            np.testing.assert_array_equal(seen[name], x_LT)


def test_row_groups_are_read_across_their_borders(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    for number in range(130):
        write_record(folder, f"{number:03d}", some_signal(5000, 1, number), ["II"])
    store = convert("wfdb", folder, tmp_path / "store")
    assert pq.ParquetFile(store.path / store.shards[0]).num_row_groups == 5
    ids = store.index["record_id"].tolist()
    asked = [ids[place] for place in (129, 0, 31, 32, 65)]
    for names, x_BLT in store.signals(asked):
        assert names == [ids[place] for place in (0, 31, 32, 65, 129)]
        for name, x_LT in zip(names, x_BLT, strict=True):
            expected = some_signal(5000, 1, int(name))[:, 0] / 1000
            np.testing.assert_allclose(x_LT[1], expected, rtol=1e-6)


def test_finished_other_and_foreign_folders_are_refused(
    converted: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, store = converted
    with pytest.raises(UserError, match="finished record store; add --overwrite"):
        convert("wfdb", folder, store)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="--overwrite"):
        convert("wfdb", folder, tmp_path)
    convert("wfdb", folder, tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    convert("wfdb", folder, tmp_path, overwrite=True, limit=3)
    assert RecordStore.open(tmp_path).index["record_id"].isin(["r000", "r001", "r002"]).all()
    assert len(RecordStore.open(tmp_path).index) == 3


def test_rejects_are_counted_with_reasons_and_nothing_vanishes(
    tmp_path: Path, ray_cluster: None
) -> None:
    folder = corpus(tmp_path / "in", 6)
    (folder / "r000.dat").unlink()
    (folder / "r001.dat").write_bytes((folder / "r001.dat").read_bytes()[:1000])
    (folder / "r002.hea").write_text("?\n")
    write_record(folder / "again", "r003", some_signal())
    with pytest.raises(JobFailed, match=r"4 of 7 records \(57.1%\) were rejected"):
        convert("wfdb", folder, tmp_path / "store")
    store = RecordStore.open(tmp_path / "store")
    counts = store.description["counts"]
    assert counts["accepted"] + counts["rejected"] == counts["listed"] == 7
    assert counts["rejected_by_reason"] == {
        "repeated record_id": 1,
        "unreadable": 1,
        "unreadable header": 1,
        "wrong length": 1,
    }
    rejected = store.rejected.set_index("path")
    assert rejected.loc["r003", "reason"] == "repeated record_id"
    assert rejected.loc["r000", "detail"] == "no file r000.dat"
    convert("wfdb", folder, tmp_path / "store", max_rejected=0.6, overwrite=True)


def test_a_store_of_rejects_only(tmp_path: Path, ray_cluster: None) -> None:
    write_record(tmp_path / "in", "a", some_signal(n_leads=1), ["PLETH"])
    store = convert("wfdb", tmp_path / "in", tmp_path / "store", max_rejected=1)
    assert len(store.index) == 0 and len(store.rejected) == 1
    assert list(store.signals()) == []


@pytest.mark.parametrize("step", ["write_table", "write_description", "release"])
def test_stopped_at_any_step_of_the_end_it_still_ends_the_same(
    converted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder, expected = converted
    monkeypatch.setattr(convert_module, "RECORDS_PER_SHARD", 5)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "release":
            patch.setattr(Claim, "release", stop)
        else:
            patch.setattr(finish_module, step, stop)
        with pytest.raises(KeyboardInterrupt):
            convert("wfdb", folder, tmp_path, folder / "labels.csv")
    (tmp_path / ".dataset.json.1.tmp").write_text("half of ")
    convert("wfdb", folder, tmp_path, folder / "labels.csv")
    assert files_of(tmp_path) == files_of(expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--source", "wfbd"], "did you mean 'wfdb'"),
        (["--source", "wfdb", "--limit", "0"], "--limit 0"),
        (["--source", "wfdb", "--workers", "none"], "--workers"),
        (["--source", "wfdb", "--max-rejected", "5"], "between 0 and 1"),
        (["--source", "wfdb", "--lables", "x.csv"], "--lables"),
        (["--source", "wfdb", "--labels", "no.csv"], "no.csv: no such file"),
        (["--source", "wfdb"], "no records found"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    finished = run_convert("--input", tmp_path, "--output", tmp_path / "store", *arguments)
    assert finished.returncode == 2
    assert told in finished.stderr and len(finished.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_the_script_says_what_became_of_the_records(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "in", 3)
    (folder / "r001.dat").unlink()
    arguments = ["--source", "wfdb", "--input", folder, "--output", tmp_path / "store"]
    finished = run_convert(*arguments)
    assert finished.returncode == 1, finished.stderr
    assert "1 of 3 records (33.3%) were rejected" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    finished = run_convert(*arguments, "--relabel", "--labels", folder / "labels.csv")
    assert finished.returncode == 0, finished.stderr
    assert "2 of 3 records accepted" in finished.stdout and "1 unreadable" in finished.stdout


def test_new_labels_leave_the_signals_alone(tmp_path: Path, ray_cluster: None) -> None:
    folder, path = corpus(tmp_path / "in", 4), tmp_path / "store"
    before = convert("wfdb", folder, path)
    shards = {name: digest for name, digest in files_of(path).items() if "shard" in name}
    labels = tmp_path / "new.csv"
    labels.write_text("record_id,subject_id,flag\nr000,x,normal\nr001,y,strange\nr003,x,\n")
    after = relabel("wfdb", folder, path, labels)
    assert {name: digest for name, digest in files_of(path).items() if "shard" in name} == shards
    index = after.index.set_index("record_id")
    assert index.loc["r000", "flag"] == "normal" and pd.isna(index.loc["r001", "flag"])
    assert index.loc["r000", "group_id"] == index.loc["r002", "group_id"] == "r002"
    assert "age" not in index and after.fingerprint != before.fingerprint
    assert index["physical_sha256"].equals(before.index.set_index("record_id")["physical_sha256"])
    # The same as a store made with these labels from the start.
    convert("wfdb", folder, tmp_path / "fresh", labels)
    assert files_of(tmp_path / "fresh") == files_of(path)
    (folder / "r000.hea").unlink()
    with pytest.raises(UserError, match="does not list record 'r000'"):
        relabel("wfdb", folder, path, None)


def test_subjects_and_columns_of_any_kind_survive(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    for name in ("007", "8"):
        write_record(folder, name, some_signal(seed=int(name)))
    (tmp_path / "l.csv").write_text(
        "record_id,subject_id,mixed,empty,flag\n007,01,1,,normal\n8,,x,,\n"
    )
    index = convert("wfdb", folder, tmp_path / "store", tmp_path / "l.csv").index
    index = index.set_index("record_id").loc[["007", "8"]]
    assert index["subject_id"].tolist() == ["01", "8"]
    assert index["mixed"].tolist() == ["1", "x"]
    assert index["empty"].isna().all() and pd.isna(index.loc["8", "flag"])


@pytest.mark.parametrize(
    "argument", [{"workers": 0}, {"limit": 0}, {"max_rejected": float("nan")}, {"seed": -1}]
)
def test_arguments_out_of_range_touch_nothing(tmp_path: Path, argument: dict[str, float]) -> None:
    (name,) = argument
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} .*: give a"):
        convert("wfdb", corpus(tmp_path / "in", 3), tmp_path / "store", **argument)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()
