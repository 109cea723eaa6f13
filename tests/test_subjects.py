"""A corpus that does not say whose its records are: the store, the terminal and the report do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from enecg.evaluation.report import _header
from enecg.records import sources
from enecg.records.convert import convert
from enecg.records.corpus import Corpus
from enecg.records.describe import describe
from enecg.records.relabel import relabel
from enecg.records.sources.listing import listing_from
from enecg.records.subjects import subjects_note, subjects_state
from enecg.results import _subjects
from enecg.signals import LEADS
from records_helpers import some_signal, write_record

sys.path.insert(0, str(Path(__file__).parents[1] / "ray_jobs"))


def listed(name: str, folder: Path, labels: Path | None = None) -> sources.Listing:
    return sources.get(name).list_records(Corpus.at(folder), labels)


def four_records(folder: Path) -> Path:
    for number in range(4):
        write_record(folder, f"r{number}", some_signal(seed=number), list(LEADS))
    return folder


def test_sources_say_whose_subject_is_unknown(real_ecgs: Path, tmp_path: Path) -> None:
    challenge = listed("challenge", real_ecgs / "challenge-2021" / "georgia")
    assert challenge.without_subject == set(challenge.table["record_id"])
    assert challenge.table["subject_id"].tolist() == challenge.table["record_id"].tolist()
    assert not listed("ptb-xl", real_ecgs / "ptb-xl").without_subject
    assert not listed("code-15", real_ecgs / "code-15").without_subject


def test_wfdb_with_and_without_a_column_of_subjects(tmp_path: Path) -> None:
    folder, labels = four_records(tmp_path / "wfdb"), tmp_path / "labels.csv"
    every = {"r0", "r1", "r2", "r3"}
    assert listed("wfdb", folder).without_subject == every
    labels.write_text("record_id,age\nr0,50\nr1,51\nr2,52\nr3,53\n")
    assert listed("wfdb", folder, labels).without_subject == every
    # A name of blanks is none, and a record without a row has none.
    labels.write_text("record_id,subject_id\nr0,a\nr1,  \nr2,\n")
    partly = listed("wfdb", folder, labels)
    assert partly.without_subject == {"r1", "r2", "r3"}
    assert partly.table["subject_id"].tolist() == ["a", "r1", "r2", "r3"]
    # Subjects that happen to be named as their records are known all the same.
    labels.write_text("record_id,subject_id\nr0,r0\nr1,r1\nr2,r2\nr3,r3\n")
    assert not listed("wfdb", folder, labels).without_subject


def test_empty_names_do_not_make_one_subject() -> None:
    table = pd.DataFrame(
        {"record_id": ["a", "b", "c"], "subject_id": ["", " ", None], "path": ["a", "b", "c"]}
    )
    found = listing_from(table, "somewhere")
    assert found.table["subject_id"].tolist() == ["a", "b", "c"]
    assert found.without_subject == {"a", "b", "c"}


def test_states_and_notes() -> None:
    assert [subjects_state(n, 5) for n in (0, 2, 5)] == ["known", "partly", "record"]
    counts = {"accepted": 5, "without_subject": 2}
    partly = subjects_note({"subjects": "partly", "counts": counts}) or ""
    assert partly.startswith("2 of 5 records have no subject") and "optimistic" in partly
    assert "no record has a subject" in (subjects_note({"subjects": "record"}) or "")
    assert subjects_note({"subjects": "known"}) is None
    assert subjects_note({}) is None and _subjects({}) == {}  # a store of an earlier version


def test_store_terminal_and_report_say_so(tmp_path: Path, ray_cluster: None) -> None:
    from convert import summary

    folder, labels = four_records(tmp_path / "wfdb"), tmp_path / "labels.csv"
    labels.write_text("record_id,subject_id\nr0,a\nr1,a\n")
    store = convert("wfdb", folder, tmp_path / "store", labels, limit=3)
    written = json.loads((tmp_path / "store" / "dataset.json").read_text())
    assert written["subjects"] == "partly" and written["counts"]["without_subject"] == 1
    assert "1 of 3 records have no subject" in summary(store)
    assert "without a subject" in describe(store)
    results = {
        "commit": None, "started": "", "hardware": "", "seconds": {}, "peak_memory_mb": {},
        **_subjects(written),
    }  # fmt: skip
    assert results["subjects"]["state"] == "partly"
    assert "1 of 3 records have no subject, so folds are by record" in _header(results)
    labels.write_text("record_id,subject_id\nr0,a\nr1,a\nr2,b\n")
    known = relabel("wfdb", folder, tmp_path / "store", labels)
    assert known.description["subjects"] == "known"
    assert known.description["counts"]["without_subject"] == 0
    assert "no subject" not in summary(known) + _header({**results, "subjects": {"state": "known"}})
    assert np.isin(known.index["subject_id"], ["a", "b"]).all()
