"""Tables as people's files have them: read whole, or refused in one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.canonical import canonical
from enecg.records.corpus import Corpus
from enecg.records.csv_table import line_of, read_csv
from enecg.records.sources.listing import Listing
from records_helpers import some_signal, write_record


def read(folder: Path, content: str | bytes) -> pd.DataFrame:
    file = folder / "t.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(file, ["record_id"])


@pytest.mark.parametrize(
    "content",
    [
        "record_id,age\nr0,5\nr1,\n", "\ufeffrecord_id,age\nr0,5\nr1,\n",
        "record_id,age\r\nr0,5\r\nr1,\r\n", "record_id,age\rr0,5\rr1,\r",
        "record_id,age,\nr0,5,\nr1,,\n", "record_id,age\nr0,5,\nr1,,\n",
        "record_id,age,\nr0,5\nr1,\n", '"record_id","age"\n"r0","5"\n"r1",""\n',
        '\ufeff"record_id",age\nr0,5\nr1,\n', " record_id , age \n r0 , 5 \n r1 ,  \n",
        "\n\nrecord_id,age\n\nr0,5\n\nr1,\n\n", "record_id,age\nr0,5\nr1,\n,,\n,\n",
        "record_id;age\nr0;5\nr1;\n", "record_id\tage\nr0\t5\nr1\t\n", "record_id,age\nr0,5\nr1,",
    ],
)  # fmt: skip
def test_tables_as_people_have_them(tmp_path: Path, content: str) -> None:
    table = read(tmp_path, content)
    assert table.columns.tolist() == ["record_id", "age"]
    assert table["record_id"].tolist() == ["r0", "r1"]
    assert table["age"][0] == "5" and pd.isna(table["age"][1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("record_id,age,age\nr0,5,5\n", "column age is there more than once"),
        ("record_id, age ,age\nr0,5,5\n", "column age is there more than once"),
        ("record_id,age\nr0,5\nr1,1,250\n", "line 3: 3 cells, the header has 2"),
        ("record_id,age\n\nr0\n", "line 3: 1 cells, the header has 2"),
        ("record_id,age,\nr0,5,6\n", "line 2: 3 cells, the header has 2"),
        ("record_id,,age\nr0,x,5\n", "column 2 has no name but values, such as 'x'"),
        ('record_id,age\nr0,"5\nr1,6\n', "line 3: not a CSV table"),
        ("record_id,age\nr0,5\n".encode("utf-16"), "is UTF-16; save it"),
        ("record_id,age\nr0,5\n".encode("utf-16-be"), "UTF-16; save it"),
        ("record_id,name\nr0,x\nr1,Müller\n".encode("latin-1"), "line 3: not UTF-8 at"),
        (b"PK\x03\x04rest of a spreadsheet", "is a spreadsheet"),
        ("", "the file is empty"), ("\n\n", "the file is empty"),
        ("id;age\n1;2\n", "no column record_id; it has: id, age"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_are_refused(
    tmp_path: Path, content: str | bytes, told: str
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_nothing_but_an_empty_cell_is_missing(tmp_path: Path) -> None:
    words = ["NA", "N/A", "None", "nan", "NULL", "null", "-", "#N/A", "TRUE", "01", "1e400"]
    table = read(tmp_path, "record_id,x\n" + "".join(f"{w},{w}\n" for w in words))
    assert table["x"].tolist() == words


def test_rows_keep_their_line_in_the_file(tmp_path: Path) -> None:
    table = read(tmp_path, '\nrecord_id,x\nr0,"two\nlines"\n\nr1,y\n')
    assert [line_of(table, row) for row in range(2)] == [4, 6]


def with_labels(folder: Path, content: str, source: str = "wfdb") -> Listing:
    (folder / "in").mkdir(exist_ok=True)
    for name in ("r0", "r1"):
        (folder / "in" / f"{name}.hea").write_text(f"{name} 12 500 5000\n")
    labels = folder / "labels.csv"
    labels.write_text(content)
    return sources.get(source).list_records(Corpus.at(folder / "in"), labels)


def test_a_row_may_repeat_another_but_not_contradict_it(tmp_path: Path) -> None:
    listing = with_labels(tmp_path, "record_id,age\nr0,50\nr1,60\nr0,50\n r0 ,50\n")
    assert listing.table["age"].tolist() == [50, 60]
    assert any("2 rows repeat another one word for word" in note for note in listing.notes)
    with pytest.raises(UserError) as caught:
        with_labels(tmp_path, "record_id,age,dx\nr0,50,AF\nr1,60,\nr0,50,\n")
    assert "record_id 'r0' stands in more than one row" in str(caught.value)
    assert "dx 'AF' in line 2 and nothing in line 4" in str(caught.value)


def test_a_table_must_not_contradict_the_corpus_s_own_subject(tmp_path: Path) -> None:
    folder = tmp_path / "mimic"
    folder.mkdir()
    (folder / "record_list.csv").write_text(
        "subject_id,study_id,file_name,ecg_time,path\n"
        "10,1,1,x,files/1\n10,2,2,x,files/2\n11,3,3,x,files/3\n"
    )
    labels = tmp_path / "labels.csv"
    labels.write_text("study_id,subject_id,k\n1.0,10.0,4\n2,,5\n3,11,6\n")
    table = sources.get("mimic-iv-ecg").list_records(Corpus.at(folder), labels).table
    assert table["subject_id"].tolist() == ["10", "10", "11"]
    labels.write_text("study_id,subject_id,k\n1,10,4\n2,12,5\n3,10,6\n")
    with pytest.raises(UserError) as caught:
        sources.get("mimic-iv-ecg").list_records(Corpus.at(folder), labels)
    assert "line 3: record '2' has the subject '12', but '10' in" in str(caught.value)
    assert "1 more records" in str(caught.value)


def test_columns_are_stored_as_numbers_only_where_no_text_is_lost(tmp_path: Path) -> None:
    columns = {
        "whole": ["1", "-20"], "gap": ["1", ""], "decimal": ["61.5", "63.0"],
        "short": ["61", "61.5"], "zero": ["01", "10"], "trailing": ["427.30", "427.31"],
        "plus": ["+1", "0"], "both": ["61", "61.0"], "power": ["1e7", "2"], "word": ["TRUE", "1"],
        "big": ["90071992547409931", "1"], "digits": ["١٢", "3"], "none": ["", ""],
        "infinite": ["1", "inf"],
    }  # fmt: skip
    rows = zip(*columns.values(), strict=True)
    text = "".join(f"r{n},{','.join(row)}\n" for n, row in enumerate(rows))
    table = with_labels(tmp_path, f"record_id,{','.join(columns)}\n{text}").table
    numeric = {name for name in columns if pd.api.types.is_numeric_dtype(table[name])}
    assert numeric == {"whole", "gap", "decimal", "short"}
    for name in set(columns) - numeric - {"none"}:
        assert table[name].tolist() == columns[name], name


def test_headers_in_upper_case(tmp_path: Path) -> None:
    for fmt, name in (("16", "a"), ("212", "b")):
        write_record(tmp_path, name, some_signal(), fmt=fmt)
        (tmp_path / f"{name}.hea").rename(tmp_path / f"{name}.HEA")
        (tmp_path / f"{name}.dat").rename(tmp_path / f"{name.upper()}.DAT")
    source = sources.get("wfdb")
    table = source.list_records(Corpus.at(tmp_path), None).table
    assert table["record_id"].tolist() == ["a", "b"]
    for path in table["path"]:
        record = canonical(source.read(tmp_path, path))
        assert (record.signal_LT == some_signal().T).all()
    names = source.files("a", lambda name: (tmp_path / name).read_bytes())
    assert {"a.HEA", "A.DAT"} <= set(names)
    (tmp_path / "a.hea").write_bytes((tmp_path / "a.HEA").read_bytes())
    with pytest.raises(UserError, match=r"a\.HEA and a\.hea are headers of one name"):
        source.list_records(Corpus.at(tmp_path), None)


def test_excels_separator_line_and_names_with_hidden_marks(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("sep=;\nrecord_id;age\u200b;n\u0303\n1;61;a\n2;62\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 4: 2 cells, the header has 3 columns"):
        read_csv(path, ["record_id"])
    path.write_text("sep=;\r\nrecord_id;age\u200b;n\u0303\r\n1;61;a\r\n", encoding="utf-8")
    assert read_csv(path, ["record_id"]).columns.tolist() == ["record_id", "age", "ñ"]
    path.write_text("record_id,ñ,n\u0303\n1,2,3\n", encoding="utf-8")
    with pytest.raises(UserError, match="column ñ is there more than once"):
        read_csv(path, ["record_id"])
    path.write_bytes(b"record_id,a\n" + b"1,2\n" * 900 + b"3,\x00\n")
    with pytest.raises(UserError, match="no text, or UTF-16"):
        read_csv(path, ["record_id"])
