"""What is listed, and what is known of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.labels import arrow_column, checked, checked_columns, statistics
from enecg.records.sources.rhythms import rhythm_of
from enecg.tasks import TASKS
from records_helpers import some_signal, write_record

HEADER = "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr\n"


def ptb_xl(folder: Path, *rows: str) -> sources.Listing:
    (folder / "ptbxl_database.csv").write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    return sources.get("ptb-xl").list_records(Corpus.at(folder), None)


def test_an_unknown_source_is_told_with_the_nearest() -> None:
    assert sources.names() == (
        "challenge", "code-15", "enecg", "mimic-iv-ecg", "ptb-xl", "wfdb",
    )  # fmt: skip
    with pytest.raises(UserError, match="did you mean 'ptb-xl'"):
        sources.get("ptbxl")


def test_rhythm_is_the_first_of_the_priority_list_by_presence() -> None:
    assert rhythm_of({"SR": 100.0, "AFIB": 0.0}) == "AFIB"
    assert rhythm_of({"SBRAD": 0.0, "NORM": 100.0, "STACH": 0.0}) == "STACH"
    assert rhythm_of({"SARRH": 0.0, "SR": 0.0, "PACE": 0.0}) == "PACE"
    assert rhythm_of({"NORM": 100.0}) is None


def test_ptb_xl_labels(tmp_path: Path) -> None:
    listing = ptb_xl(
        tmp_path,
        """7,15709.0,56.0,0,"{'NORM': 100.0, 'SR': 0.0}",3,lr/7,hr/7""",
        """8,,300.0,1,"{'NORM': 100.0}",4,lr/8,hr/8""",
    )
    assert listing.table["record_id"].tolist() == ["7", "8"]
    assert listing.table["subject_id"].tolist() == ["15709", "8"]
    assert listing.table["gender"].tolist() == ["male", "female"]
    assert listing.table["report_label"].tolist() == ["SR", None]
    assert set(listing.labels) == {"age", "gender", "report_label"}
    assert "strat_fold" in listing.metadata
    ages, impossible = checked(listing.table["age"], TASKS["age"])
    assert impossible == 1 and np.isnan(ages[1])


def test_ptb_xl_takes_the_fast_file_where_it_is_there(tmp_path: Path) -> None:
    write_record(tmp_path / "hr", "7", some_signal())
    write_record(tmp_path / "lr", "7", some_signal(1000), rate=100)
    write_record(tmp_path / "lr", "8", some_signal(1000), rate=100)
    row = """{0},1,50,0,"{{'SR': 0.0}}",1,lr/{0},hr/{0}"""
    listing = ptb_xl(tmp_path, row.format(7), row.format(8))
    assert listing.table["path"].tolist() == ["hr/7", "lr/8"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("""7,1,50,2,"{'SR': 0.0}",1,lr/7,hr/7""", "ecg_id 7: sex"),
        ("7,1,50,1,SR,1,lr/7,hr/7", "ecg_id 7: scp_codes"),
        ("""7,1,50,1,"{'SR': 0.0}",1,,hr/7""", "ecg_id 7: filename_lr"),
    ],
)
def test_ptb_xl_rows_that_make_no_sense_are_named(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ptb_xl(tmp_path, row)


def test_ptb_xl_without_its_table_or_a_column(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ptbxl_database\.csv: no such file"):
        sources.get("ptb-xl").list_records(Corpus.at(tmp_path), None)
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id,age\n1,2\n")
    with pytest.raises(UserError, match="no column patient_id, sex"):
        sources.get("ptb-xl").list_records(Corpus.at(tmp_path), None)


def folder_with(tmp_path: Path, *names: str) -> Path:
    for name in names:
        path = tmp_path / "wfdb" / f"{name}.hea"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.stem} 12 500 5000\n")
    return tmp_path / "wfdb"


def test_headers_at_any_depth_with_labels_by_stem(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "b/0002", "a/x/0003", "0001")
    labels = tmp_path / "labels.csv"
    labels.write_text("record_id,subject_id,age,ward\n0002,09,61,x\n0001,,,y\n0009,1,2,z\n")
    listing = sources.get("wfdb").list_records(Corpus.at(folder), labels)
    assert listing.table["path"].tolist() == ["0001", "a/x/0003", "b/0002"]
    assert listing.table["record_id"].tolist() == ["0001", "0003", "0002"]
    assert listing.table["subject_id"].tolist() == ["0001", "0003", "09"]
    assert listing.table["age"].isna().tolist() == [True, True, False]
    assert (listing.labels, listing.metadata) == (("age",), ("ward",))
    assert len(listing.notes) == 2
    assert "1 rows name no record" in listing.notes[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,age\n1,2\n", "no column record_id; it has: id, age"),
        ("record_id,age\n0001,2\n0001,3\n", "'0001' stands in more than one row"),
        ("record_id,age\n1,2\n", "the table has '1', the folder '0001'"),
        ("record_id,gain\n0001,2\n", "column 'gain'"),
        ("record_id,age\n0001,2\n,3\n", "line 3: record_id is empty"),
    ],
)
def test_labels_that_make_no_sense(tmp_path: Path, text: str, told: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(UserError, match=told):
        sources.get("wfdb").list_records(Corpus.at(folder_with(tmp_path, "0001")), labels)


def test_labels_in_usual_spellings(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("record_id,gender,flag,postcode\n0001,M,1,29999\n0002,female,0,\n")
    folder = folder_with(tmp_path, "0001", "0002")
    table = sources.get("wfdb").list_records(Corpus.at(folder), labels).table
    assert table["gender"].tolist() == ["male", "female"]
    assert table["flag"].tolist() == ["abnormal", "normal"]
    assert table["postcode"][0] == 29999  # only machines write that for "not measured"


def test_segments_belong_to_their_record(real_ecgs: Path) -> None:
    listing = sources.get("wfdb").list_records(
        Corpus.at(real_ecgs / "edge" / "multiseg_041s"), None
    )
    assert listing.table["record_id"].tolist() == ["041s"]


def test_impossible_labels_become_missing_and_are_counted() -> None:
    rr, impossible = checked(pd.Series([800, "x", -1, 5000, None]), TASKS["rr_interval"])
    assert rr.notna().tolist() == [True, False, False, False, False] and impossible == 3
    gender, impossible = checked(pd.Series(["male", "M", None]), TASKS["gender"])
    assert gender.tolist() == ["male", None, None] and impossible == 1
    rhythm, impossible = checked(pd.Series(["SR", "XYZ", None]), TASKS["report_label"])
    assert rhythm.tolist() == ["SR", "XYZ", None] and impossible == 0
    found = statistics(gender, "classification", impossible=1)
    assert found["present"] == 1 and found["classes"] == {"male": 1}


def test_columns_of_any_kind_can_be_stored(tmp_path: Path) -> None:
    for values in ([{}, None], [{"a": 1}, {}], [[1], [{}]], [1, "x"], [None, None]):
        column = arrow_column(pd.Series(values, dtype=object))
        pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")


def test_lists_of_names_are_kept_and_counted() -> None:
    table = pd.DataFrame({"superclasses": [["MI", "CD"], [], None, ["MI"]], "site": [1, 2, 3, 4]})
    _, described = checked_columns(table, (), ("superclasses", "site"))
    assert described == {
        "superclasses": {
            "kind": "multilabel",
            "present": 3,
            "missing": 1,
            "made_missing_as_impossible": 0,
            "classes": {"CD": 1, "MI": 2},
            "none_holds": 1,
        }
    }
    column = arrow_column(table["superclasses"])
    assert column.to_pylist() == [["MI", "CD"], [], None, ["MI"]]
    assert column.type.value_type == "string"
