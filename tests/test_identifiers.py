"""Identifiers: one normal form for every source, so that one patient is never two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.identifiers import identifier, identifiers
from enecg.records.sources.listing import Listing, listing_from

BIG = "90071992547409931"  # beyond 2^53: a float would end in …2 or …3


def listed(name: str, folder: Path, labels: Path | None = None) -> Listing:
    return sources.get(name).list_records(Corpus.at(folder), labels)


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("7", "7"), (" 7 ", "7"), ("7.0", "7"), ("7.00", "7"), ("7.", "7"), (7, "7"), (7.0, "7"),
        (np.int64(7), "7"), (np.float32(7), "7"), ("007", "007"), ("007.0", "007"), ("0.0", "0"),
        ("-3.0", "-3"), ("", None), ("  ", None), ("\u00a0\ufeff", None), (None, None),
        (np.nan, None), (pd.NA, None), (BIG, BIG), (int(BIG), BIG), (BIG + ".0", BIG),
        ("7.5", "7.5"), (7.5, "7.5"), ("A-7.0", "A-7.0"), ("1e7", "1e7"), ("12E45", "12E45"),
        ("NA", "NA"), ("mu\u0308ller", "m\u00fcller"), ("1.2.840.0", "1.2.840.0"),
    ],
)  # fmt: skip
def test_the_normal_form(value: object, normal: str | None) -> None:
    assert identifier(value) == normal
    assert identifier(normal) == normal, "it is its own normal form"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (True, "is true"), (False, "is false"), ([1], r"is '\[1\]'"), ({}, "is '{}'"),
        ("1.00001e+07", ".*rounded number"), ("1E+07", ".*rounded number"), (1e17, ".*rounded number"),  # noqa: E501
        (np.inf, ".*rounded number"),
    ],
)  # fmt: skip
def test_what_is_no_identifier_is_refused_with_its_place(value: object, told: str) -> None:
    with pytest.raises(UserError, match=f"row 2: {told}"):
        identifiers(pd.Series(["a", value], dtype=object), lambda row: f"row {row + 1}:")


def test_a_column_of_mixed_kinds_keeps_each_apart() -> None:
    column = pd.Series(["7", 7, 7.0, "7.0", " 7", "07", None], index=range(3, 10), dtype=object)
    found = identifiers(column, str)
    assert found.tolist() == ["7"] * 5 + ["07", None]
    assert found.index.tolist() == column.index.tolist()


def test_a_listing_of_anybody_s_source_is_normal() -> None:
    """Sources of one's own may hand over what pandas made of a table."""
    table = pd.DataFrame({"record_id": [1, 2, 3], "subject_id": [7.0, np.nan, 7.0], "path": "x"})
    assert listing_from(table, "t").table["subject_id"].tolist() == ["7", "2", "7"]
    with pytest.raises(UserError, match="t, row 1: subject_id is true"):
        listing_from(table.assign(subject_id=True), "t")


def test_words_for_missing_are_told_where_they_join_records() -> None:
    table = pd.DataFrame({"record_id": list("abc"), "subject_id": ["NA", "NA", "x"], "path": ""})
    (note,) = listing_from(table, "t").notes
    assert "2 records have the subject 'NA' and count as one patient" in note


def headers(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.hea").write_text(f"{name} 12 500 5000\n")
    return folder


def test_the_wfdb_source(tmp_path: Path) -> None:
    folder = headers(tmp_path / "in", "7", "8", "007", BIG)
    labels = tmp_path / "l.csv"
    labels.write_text(
        f"record_id,subject_id,age\n7.0,1.0,50\n 8 ,1,51\n007,{BIG},52\n{BIG}, {BIG}.0 ,53\n"
    )
    table = listed("wfdb", folder, labels).table.set_index("record_id")
    assert table["age"].to_dict() == {"7": 50, "8": 51, "007": 52, BIG: 53}
    assert table["subject_id"].to_dict() == {"7": "1", "8": "1", "007": BIG, BIG: BIG}


def test_the_ptb_xl_source(tmp_path: Path) -> None:
    head = "ecg_id,patient_id,age,sex,scp_codes,filename_lr,filename_hr\n"
    rows = [
        f"""{ecg},{patient},50,0,"{{'SR': 0.0}}",lr/1,hr/1"""
        for ecg, patient in (("1", "15709.0"), ("2.0", "15709"), ("3", " 15709 "), ("4", ""))
    ]
    (tmp_path / "ptbxl_database.csv").write_text(head + "\n".join(rows))
    table = listed("ptb-xl", tmp_path).table
    assert table["record_id"].tolist() == ["1", "2", "3", "4"]
    assert table["subject_id"].tolist() == ["15709", "15709", "15709", "4"]
    subset = tmp_path / "subset.csv"
    subset.write_text(head + rows[0].replace("15709.0", "15709"))
    assert len(listed("ptb-xl", tmp_path, subset).table) == 1
    subset.write_text(head + rows[0].replace("15709.0", "15710.0"))
    with pytest.raises(UserError, match="line 2: record '1' has the subject '15710', but '15709'"):
        listed("ptb-xl", tmp_path, subset)


def test_the_code_15_source(tmp_path: Path) -> None:
    head = "exam_id,patient_id,age,is_male,1dAVb,RBBB,LBBB,SB,ST,AF,trace_file\n"
    row = "{},{},50,1,0,0,0,0,0,1,p.hdf5\n"
    (tmp_path / "exams.csv").write_text(head + row.format("1.0", "7.0") + row.format("2", "7"))
    table = listed("code-15", tmp_path).table
    assert table["subject_id"].tolist() == ["7", "7"]
    assert table["path"].tolist() == ["p.hdf5/1", "p.hdf5/2"]
    (tmp_path / "mine.csv").write_text(head + row.format("1", "8"))
    with pytest.raises(UserError, match="record '1' has the subject '8', but '7'"):
        listed("code-15", tmp_path, tmp_path / "mine.csv")


def manifest(folder: Path, *rows: str) -> Listing:
    (folder / "m.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return listed("enecg", folder)


def test_the_manifest(tmp_path: Path) -> None:
    rows = [
        '{"subject_id": 7.0, "ecg_path": "r0"}', '{"subject_id": "7", "ecg_path": "r1"}',
        '{"subject_id": 7, "ecg_path": "r2", "record_id": 12.0}',
        f'{{"subject_id": {BIG}, "ecg_path": "r3"}}', '{"subject_id": null, "ecg_path": "r4"}',
        '{"subject_id": NaN, "ecg_path": "r5"}', '{"subject_id": " ", "ecg_path": "r6"}',
    ]  # fmt: skip
    table = manifest(tmp_path, *rows).table
    assert table["subject_id"].tolist() == ["7", "7", "7", BIG, "r4", "r5", "r6"]
    assert table["record_id"].tolist()[2] == "12"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"subject_id": True, "ecg_path": "r"}, "line 2: subject_id is true"),
        ({"subject_id": [7], "ecg_path": "r"}, "line 2: subject_id is "),
        ({"subject_id": {"id": 7}, "ecg_path": "r"}, "line 2: subject_id is "),
        ({"subject_id": 7, "ecg_path": "r", "record_id": False}, "line 2: record_id is false"),
        ('{"subject_id": 1e7, "ecg_path": "r"}', "line 2: subject_id is '1.0e7', a rounded"),
        ('{"subject_id": 7, "subject_id": 8, "ecg_path": "r"}', "line 2.*subject_id is there more"),
    ],
)
def test_odd_values_in_a_manifest_are_refused_by_line(
    tmp_path: Path, row: dict[str, object] | str, told: str
) -> None:
    text = row if isinstance(row, str) else json.dumps(row)
    with pytest.raises(UserError, match=told):
        manifest(tmp_path, '{"subject_id": 1, "ecg_path": "a"}', text)


@pytest.mark.parametrize(
    "text",
    ["P-7", "P-7\u200e", "\u200fP-7", "P\u20607", "P\u20107", "P\u20137", "\uff30-\uff17",
     "P-7\u3000", "\u202fP-7", "P\u00ad-7", "\u2066P-7\u2069"],
)  # fmt: skip
def test_what_looks_alike_is_one_patient(text: str) -> None:
    expected = "P7" if text == "P\u20607" else "P-7"
    assert identifier(text) == expected
    table = identifiers(pd.Series([text, expected]), str)
    assert table.nunique() == 1
