"""A mistyped column or class is answered with the one that was probably meant."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from enecg.absent_classes import absent_classes
from enecg.config import parse_config
from enecg.errors import UserError, did_you_mean
from enecg.experiment import open_experiment
from enecg.records import RecordStore
from enecg.tasks import Task
from enecg.validate import labels_of


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("AGE", ["age", "gender"], "age"),
        ("Gendre", ["age", "gender"], "gender"),
        ("afib", ["SR", "AFIB"], "AFIB"),
        ("strat-fold", ["strat_fold", "age"], "strat_fold"),
    ],
)
def test_the_nearest_is_found_whatever_the_case(word: str, known: list[str], meant: str) -> None:
    assert did_you_mean(word, known) == f", did you mean {meant!r}?"


def test_nothing_near_is_no_suggestion() -> None:
    assert did_you_mean("xyz", ["age", "gender"]) == ""
    assert did_you_mean("xyz", []) == ""


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("classification", ["male", "female", None, "female"]),
        ("multilabel", ["male", "female;male", None, ""]),
        ("multilabel", [["male"], ["female", "male"], None, []]),
    ],
)
def test_an_absent_class_is_answered_with_what_is_there(kind: Any, column: list[Any]) -> None:
    labels = pd.Series(column, dtype=object)
    [hint] = absent_classes(Task("t", kind, classes=("Mael", "female")), labels)
    assert "no record has the class 'Mael', did you mean 'male'?" in hint
    assert "'male' (" in hint and "'female' (" in hint
    assert not list(absent_classes(Task("t", kind, classes=("male", "female")), labels))


def test_other_may_be_absent_and_numbers_are_not_classes() -> None:
    labels = pd.Series(["a", "b"])
    assert not list(
        absent_classes(Task("t", "classification", classes=("a", "b", "other")), labels)
    )
    assert not list(absent_classes(Task("t", "regression"), pd.Series([1.0, 2.0])))
    numbers = pd.Series([1.0] * 9 + [2.0, None])
    [hint] = absent_classes(Task("t", "classification", classes=("1", "3")), numbers)
    assert "class '3'" in hint and hint.endswith("has '1' (9), '2' (1)")


def config(store: RecordStore, **changes: Any) -> Any:
    return parse_config(
        {
            "records": str(store.path), "run_dir": "d", "tasks": ["age"], "folds": 2,
            "inner_folds": 2, "experts": {"rocket": None},
        }
        | changes
    )  # fmt: skip


def task(**settings: Any) -> list[Any]:
    return [{"sex": {"kind": "classification", "column": "gender", **settings}}]


def test_every_name_in_a_config_has_its_suggestion(synthetic_store: RecordStore) -> None:
    with pytest.raises(UserError, match="no label column 'GENDRE', did you mean 'gender'"):
        open_experiment(
            config(synthetic_store, tasks=task(classes=["male", "female"], column="GENDRE"))
        )
    with pytest.raises(UserError, match="no column 'subjectid', did you mean 'subject_id'"):
        open_experiment(config(synthetic_store, fold_column="subjectid"))
    [note] = open_experiment(
        config(synthetic_store, tasks=task(classes=["male", "fmale", "female"]))
    ).label_notes
    assert "task sex: no record has the class 'fmale'" in note
    wrong = Task("sex", "classification", classes=("Man", "Femal"), column="gender")
    with pytest.raises(UserError, match="'Femal', did you mean 'female'"):
        labels_of(wrong, synthetic_store)
    with pytest.raises(UserError, match="did you mean"):
        open_experiment(config(synthetic_store, tasks=task(classes=["Mal", "Femal"])))
