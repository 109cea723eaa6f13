"""Labels as text: class names as written, lists however they are separated, numbers strictly."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from enecg.errors import UserError
from enecg.label_text import numbers_of
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.labels import arrow_column, checked_columns, unreadable_numbers
from enecg.tasks import TASKS, Task, task_from

RIGHT = [["AF"], ["AF", "LBBB"], ["NORM"], [], None]


def stored(folder: Path, values: list[str], column: str = "dx") -> pd.Series:
    """A column as a store gives it back: through a CSV table, the listing and Arrow."""
    (folder / "in").mkdir()
    for row in range(len(values)):
        (folder / "in" / f"r{row}.hea").write_text(f"r{row} 12 500 5000\n")
    quoted = [value.replace('"', '""') for value in values]
    rows = "".join(f'r{row},"{value}"\n' for row, value in enumerate(quoted))
    (folder / "l.csv").write_text(f"record_id,{column}\n{rows}")
    table = sources.get("wfdb").list_records(Corpus.at(folder / "in"), folder / "l.csv").table
    return arrow_column(table[column]).to_pandas()


def lists(labels: pd.Series, *classes: str) -> list[list[str] | None]:
    task = Task("dx", "multilabel", classes=classes or ("AF", "LBBB", "NORM"))
    rows = task.targets(labels)
    return [
        None if np.isnan(row).any() else [c for c, held in zip(task.classes, row, strict=True) if held]  # noqa: E501
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        ["AF", "AF;LBBB", "NORM", ";", ""], ["AF;", " AF ; LBBB ;", "NORM;;", "[]", " "],
        ["AF", "AF,LBBB", "NORM,", "[]", ""], ["AF", "AF|LBBB", "|NORM", "[]", ""],
        ["['AF']", "['AF', 'LBBB']", "['NORM']", "[]", ""],
        ['["AF"]', '["AF","LBBB"]', '["NORM"]', "[]", ""],
        ["['AF']", "['AF' 'LBBB']", "['NORM']", "[]", ""], ["{AF}", "{AF,LBBB}", "{NORM}", "{}", ""],  # noqa: E501
        ["{AF,NULL}", '{"AF",LBBB}', '{null, "NORM"}', "{NULL}", ""],
        ["{'AF'}", "{'AF', 'LBBB'}", "{'NORM'}", "{}", ""],
        ["('AF',)", "('AF', 'LBBB')", "('NORM')", "()", ""],
        ["AF", "['AF', 'LBBB']", "NORM", "[]", ""],
    ],
)  # fmt: skip
def test_separators_and_lists(tmp_path: Path, values: list[str]) -> None:
    assert lists(stored(tmp_path, values)) == RIGHT


def test_what_a_postgresql_array_holds() -> None:
    classes = ("AF", 'a "quoted" name', "one, two", "NULL")
    task = Task("dx", "multilabel", classes=classes)
    own = Task("dx", "multilabel", classes=("it's", "x"))
    np.testing.assert_array_equal(
        own.targets(pd.Series(["{it's,x}", '{"it\'s"}'])), [[1, 1], [1, 0]]
    )
    column = pd.Series(['{AF,"one, two"}', r'{"a \"quoted\" name"}', '{"NULL"}', "{AF,{LBBB}}"])
    targets, unread = task.read(column)
    np.testing.assert_array_equal(targets[:3], [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert np.isnan(targets[3]).all() and unread.unreadable == {"{AF,{LBBB}}": 1}


def test_classes_may_have_the_separator_in_their_names(tmp_path: Path) -> None:
    labels = stored(tmp_path, ["AV block, 1st degree", "AF, AV block, 1st degree", "AF", "LBBB,AF"])
    found = lists(labels, "AF", "AV block, 1st degree", "LBBB")
    assert found == [
        ["AV block, 1st degree"], ["AF", "AV block, 1st degree"], ["AF"], ["AF", "LBBB"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "mark"),
    [("AF/LBBB", "/"), ("AF LBBB", " "), ("AF+LBBB", "+"), ("AF & LBBB", "&"), ("AF,LBBB", ","),
     ("AF and LBBB", "and"), ("AF\tLBBB", "\\t")],
)  # fmt: skip
def test_other_separators_are_refused_by_name(value: str, mark: str) -> None:
    task = Task("dx", "multilabel", classes=("AF", "LBBB"))
    with pytest.raises(UserError, match="task dx: column 'dx'") as caught:
        task.targets(pd.Series(["AF;LBBB", value]))
    assert f"by '{mark}'" in str(caught.value)


def test_undeclared_names_and_what_is_no_list_are_counted() -> None:
    task = Task("dx", "multilabel", classes=("AF",))
    labels = pd.Series(["AF;XX", "XX", "{'AF': 100.0}", "YY", None, "AF"])
    target, unread = task.read(labels)
    np.testing.assert_array_equal(target[:, 0], [1, 0, np.nan, 0, np.nan, 1])
    assert unread.undeclared == {"XX": 2, "YY": 1} and unread.unreadable == {"{'AF': 100.0}": 1}
    said = " ".join(task.told(unread))
    assert "3 values of no declared class" in said and "'XX' (2)" in said
    assert "1 value cannot be read" in said


def test_a_lone_name_among_lists_is_a_list_of_one() -> None:
    for values in ([["AF", "LBBB"], "AF", [], None], ["AF", ["AF", "LBBB"], [], None]):
        column = pd.Series(values, dtype=object)
        array = arrow_column(column)
        assert ["AF"] in array.to_pylist() and ["AF", "LBBB"] in array.to_pylist()
        assert lists(array.to_pandas())[2:] == [[], None]
        _, described = checked_columns(pd.DataFrame({"dx": column}), (), ("dx",))
        assert described["dx"]["classes"] == {"AF": 2, "LBBB": 1}


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["01", "10", "1"], ("01", "10", "1")), (["427.30", "427.3", "427.31"], ("427.30", "427.3")),  # noqa: E501
        (["+1", "0", "-1"], ("+1", "0", "-1")), (["None", "NA", "nan"], ("None", "NA", "nan")),
        (["TRUE", "FALSE", "true"], ("TRUE", "FALSE")), (["1", "0", "1"], ("1", "0")),
        (["1.5", "2.0", "2.0"], ("1.5", "2.0")), (["1.5", "2", "2"], ("1.5", "2")),
        (["1e3", "1000", "x"], ("1e3", "1000")), (["9007199254740993", "1", "2"],
        ("9007199254740993", "9007199254740992")),
        (["2024-01-01", "NULL", "-"], ("NULL", "-")), (["00", "0", "000"], ("0", "00")),
    ],
)  # fmt: skip
def test_class_names_are_the_text_as_written(
    tmp_path: Path, values: list[str], classes: tuple[str, ...]
) -> None:
    task = Task("grade", "classification", classes=classes)
    target, unread = task.read(stored(tmp_path, [*values, "", "  "], "grade"))
    names = [None if np.isnan(one) else classes[int(one)] for one in target]
    assert names == [value if value in classes else None for value in values] + [None, None]
    assert unread.undeclared == {value: 1 for value in values if value not in classes}


NO_NUMBERS = ["1,250", "61,5", "<5", ">2000", "inf", "-inf", "1e400", "2020-01-05", "0x10", "1_000",
              "١٢", "nan", "NaN", "5 mg", "1 250", "TRUE", "5.0.1", "--5", "1e", "½", "５"]  # fmt: skip  # noqa: E501


def test_numbers_have_a_decimal_point_and_nothing_else() -> None:
    good = ["5", "-5", "+5", "5.5", ".5", "5.", "1e3", "1E-05", " 7 ", ""]
    numbers, unreadable = numbers_of(pd.Series(good + NO_NUMBERS))
    np.testing.assert_array_equal(
        numbers[: len(good)], [5, -5, 5, 5.5, 0.5, 5, 1000, 1e-5, 7, np.nan]
    )
    assert np.isnan(numbers[len(good) :]).all()
    assert unreadable == dict.fromkeys(NO_NUMBERS, 1)
    age, unread = TASKS["age"].read(pd.Series(["61,5", "61,5", "300", "50"]))
    np.testing.assert_array_equal(age, [np.nan, np.nan, np.nan, 50])
    assert (unread.unreadable, unread.out_of_range) == ({"61,5": 2}, {"300": 1})


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_counted_with_an_example(value: str) -> None:
    table = pd.DataFrame({"k": ["4.1", value, value, None]}, dtype=object)
    assert unreadable_numbers(table, ["k"]) == {
        "k": {"numbers": 1, "count": 2, "example": value, "values": {value: 2}}
    }
    _, described = checked_columns(table.rename(columns={"k": "age"}), ("age",))
    assert described["age"]["unreadable"]["count"] == 2
    assert described["age"]["unreadable"]["example"] == value
    assert described["age"]["made_missing_as_impossible"] == 2


def test_columns_of_commas_only_are_told_and_columns_of_words_are_not() -> None:
    table = pd.DataFrame(
        {"commas": ["61,5", "70,2"], "ward": ["a", "b3"], "day": ["2020-01-05", "2021-01-05"],
         "code": ["01", "02"], "lists": [["1,5"], []]}
    )  # fmt: skip
    assert set(unreadable_numbers(table, table.columns)) == {"commas"}


def test_undeclared_classes_of_known_labels_are_named_at_conversion() -> None:
    table = pd.DataFrame({"gender": ["male", "W", "W", None, " female "]}, dtype=object)
    checked, described = checked_columns(table, ("gender",))
    assert checked["gender"].tolist() == ["male", None, None, None, "female"]
    assert described["gender"]["undeclared"] == {"count": 2, "example": "W", "values": {"W": 2}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[no, yes]", r"classes\.0: must be a string, not False .*no, off.*classes: \['no', 'yes'\]"),  # noqa: E501
        ("[off, on]", r"not False .*in quotes"), ("[0, 1]", r"classes: \['0', '1'\]"),
        ("[01, 10]", r"classes\.0: .*not 1 .*010 as 8"), ("[427.30, 427.31]", "427.30 as 427.3"),
        ("[2024-01-01, a]", r"2024-01-01 \(a date\).*\['2024-01-01', 'a'\]"),
        ("[~, a]", r"not None .*null"), ("[[a], b]", r"classes\.0: must be a string"),
        ("[' a', b]", "blanks around"), ("['', b]", "is empty"), ("[a, {b: c}]", r"classes\.1"),
    ],
)  # fmt: skip
def test_yaml_s_own_typing_is_told_with_the_line_to_write(text: str, told: str) -> None:
    settings = {"kind": "classification", "classes": yaml.safe_load(text)}
    with pytest.raises(UserError, match=told) as caught:
        task_from({"x": settings})
    assert "\n" not in str(caught.value) and "tasks.x.classes" in str(caught.value)


def test_a_task_s_name_may_not_be_what_yaml_makes_of_it() -> None:
    entry: Any = yaml.safe_load("{no: {kind: regression}}")
    with pytest.raises(UserError, match=r"a task's name is False .*quotes"):
        task_from(entry)


def test_stores_of_earlier_versions_stay_readable() -> None:
    """They have typed columns: whole numbers that are floats where some are missing, booleans."""
    grade = Task("g", "classification", classes=("0", "1"))
    np.testing.assert_array_equal(grade.targets(pd.Series([0.0, 1.0, None])), [0, 1, np.nan])
    flag = Task("g", "classification", classes=("False", "True"))
    np.testing.assert_array_equal(flag.targets(pd.Series([True, False])), [1, 0])
    several = Task("g", "multilabel", classes=("A", "B"))
    np.testing.assert_array_equal(several.targets(pd.Series(["A;B", "A"])), [[1, 1], [1, 0]])


def test_composed_and_decomposed_letters_are_the_same_class() -> None:
    composed, decomposed = "Rhythmusstörung", unicodedata.normalize("NFD", "Rhythmusstörung")
    assert composed != decomposed
    column = pd.Series([composed, decomposed, "keine", None])
    for name in (composed, decomposed):
        task = Task("t", "classification", classes=(name, "keine"))
        np.testing.assert_array_equal(task.targets(column), [0, 0, 1, np.nan])
        several = Task("t", "multilabel", classes=(name, "keine"))
        lists = pd.Series([f"{decomposed};keine", [composed], "keine", None], dtype=object)
        np.testing.assert_array_equal(several.targets(lists)[:3], [[1, 1], [1, 0], [0, 1]])
    with pytest.raises(UserError, match="all different"):
        Task("t", "classification", classes=(composed, decomposed))
