"""Tasks: from labels to targets, and the loss by which everything is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss, mean_absolute_error

from enecg.errors import UserError
from enecg.tasks import TASKS, Task, known, task_from

AGE, GENDER, RHYTHM = TASKS["age"], TASKS["gender"], TASKS["report_label"]
NAN = np.nan


@pytest.mark.parametrize(
    ("task", "labels", "targets"),
    [
        (AGE, [0, 120, 120.1, -1, None, 300], [0, 120, NAN, NAN, NAN, NAN]),
        (AGE, ["45", "x", "", None], [45, NAN, NAN, NAN]),
        (AGE, [np.inf, -np.inf, 50], [NAN, NAN, 50]),
        (Task("dose", "regression"), [-1e9, np.inf, None, 3], [-1e9, NAN, NAN, 3]),
        (TASKS["rr_interval"], [199.9, 200, 3000, 29999], [NAN, 200, 3000, NAN]),
        (GENDER, ["male", "female", None, "unknown", ""], [0, 1, NAN, NAN, NAN]),
        (GENDER, [None, None], [NAN, NAN]),
        (RHYTHM, ["SR", "AFIB", "PACE", None, "other"], [0, 1, 3, NAN, 3]),
        (Task("x", "classification", classes=("other", "A")), ["A", "B", None], [1, 0, NAN]),
        (Task("x", "classification", classes=("0", "1")), [0, 1, 1], [0, 1, 1]),
        (Task("x", "classification", classes=("0", "1")), [0, 1, None], [0, 1, NAN]),
        (Task("x", "classification", classes=("0", "other")), [0, 2, None], [0, 1, NAN]),
    ],
)
def test_labels_become_targets(task: Task, labels: list[Any], targets: list[float]) -> None:
    found = task.targets(pd.Series(labels))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, targets)


SEVERAL = Task("x", "multilabel", classes=("A", "B"))


@pytest.mark.parametrize("text", [False, True], ids=["lists", "text"])
def test_labels_of_several_names_become_a_row_of_zeros_and_ones(text: bool) -> None:
    labels: list[Any] = [["A"], ["B", "A"], ["C"], None, ["B", "B"]]
    wanted = [[1, 0], [1, 1], [0, 0], [NAN, NAN], [0, 1]]
    if text:
        labels = [None if names is None else " ; ".join(names) for names in labels]
        labels, wanted = [*labels, NAN, pd.NA], [*wanted, [NAN, NAN], [NAN, NAN]]
    else:
        labels, wanted = [*labels, []], [*wanted, [0, 0]]
    column = pd.Series(labels, dtype=object)
    np.testing.assert_array_equal(SEVERAL.targets(column), wanted)
    open_ended = Task("x", "multilabel", classes=("A", "other"))
    found = open_ended.targets(column)[:5]
    np.testing.assert_array_equal(found, [[1, 0], [1, 1], [0, 1], [NAN, NAN], [0, 1]])


def test_lists_of_names_come_through_parquet(tmp_path: Path) -> None:
    labels = pd.Series([["A"], [], None, ["B", "A"]])
    labels.to_frame("x").to_parquet(tmp_path / "t.parquet")
    read = pq.read_table(tmp_path / "t.parquet").to_pandas()["x"]
    np.testing.assert_array_equal(SEVERAL.targets(read), [[1, 0], [0, 0], [NAN, NAN], [1, 1]])


def test_the_loss_of_several_labels_is_their_mean_log_loss() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (50, 2)).astype(float)
    prediction = random.random((50, 2))
    truth[4] = NAN
    rows = known(truth)
    expected = np.mean([log_loss(truth[rows, c], prediction[rows, c]) for c in (0, 1)])
    assert SEVERAL.loss(truth, prediction) == pytest.approx(expected, rel=1e-9)


def test_labels_read_from_parquet_may_be_of_any_column_type() -> None:
    for kind in ("string", "category", object):
        labels = pd.Series(["male", None, "female"]).astype(kind)
        np.testing.assert_array_equal(GENDER.targets(labels), [0, NAN, 1])
    ages = pd.Series([40, None, 130], dtype="Int64")
    np.testing.assert_array_equal(AGE.targets(ages), [40, NAN, NAN])


def test_making_targets_leaves_the_labels_alone() -> None:
    labels = pd.Series([10.0, 500.0])
    AGE.targets(labels)
    assert labels.tolist() == [10, 500]


def test_the_loss_of_values_is_the_mean_absolute_error_over_labelled_records() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.normal(size=50), random.normal(size=(50, 1)).astype(np.float32)
    expected = mean_absolute_error(truth[::2], prediction[::2, 0])
    truth[1::2] = NAN
    assert AGE.loss(truth, prediction) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_probabilities_is_the_log_loss_over_labelled_records() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, 50).astype(float)
    prediction = random.dirichlet(np.ones(4), 50)
    truth[7] = NAN
    known = ~np.isnan(truth)
    expected = log_loss(truth[known], prediction[known], labels=range(4))
    assert RHYTHM.loss(truth, prediction) == pytest.approx(expected, rel=1e-9)


def test_a_certain_mistake_costs_much_but_is_finite() -> None:
    assert 10 < GENDER.loss(np.array([0.0]), np.array([[0.0, 1.0]])) < 20


def test_without_labels_nothing_can_be_chosen() -> None:
    assert AGE.loss(np.array([NAN]), np.array([[1.0]])) == float("inf")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_name_or_an_empty_mapping_gives_the_known_task(task: Task) -> None:
    assert task_from(task.name) == task_from({task.name: {}}) == task
    assert task.width == (len(task.classes) or 1)
    assert task.column == task.name


def test_a_mapping_changes_a_known_task() -> None:
    task = task_from({"age": {"valid": [18, 90], "column": "age_at_visit"}})
    assert (task.valid, task.column, task.kind, task.unit) == (
        (18, 90),
        "age_at_visit",
        "regression",
        "years",
    )
    rhythm = task_from({"report_label": {"classes": ["other", "AFIB"]}})
    assert rhythm.classes == ("other", "AFIB")


def test_a_mapping_describes_a_new_task() -> None:
    task = task_from({"lvef_low": {"kind": "classification", "classes": ["no", "yes"]}})
    assert (task.column, task.width, task.from_r_peaks) == ("lvef_low", 2, False)
    assert task_from({"lvef": {"kind": "regression", "unit": "%"}}).valid is None


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("gendre", "unknown task 'gendre', did you mean 'gender'.*known: rr_interval, age"),
        ({"x": {"unit": "ms"}}, "tasks.x: a new task needs kind"),
        ({"x": None}, "an entry is a name or"),
        ({}, "an entry is a name or"),
        ({"age": {}, "gender": {}}, "an entry is a name or"),
        ({"age": {"range": [1, 2]}}, "tasks.age: unknown setting 'range'.*allowed: classes, col"),
        ({"age": {"vaild": [1, 2]}}, "did you mean 'valid'"),
        ({"age": {"name": "x"}}, "unknown setting 'name'"),
        ({"age": {"valid": [3]}}, r"tasks.age.valid.*\[3\]"),
        ({"age": {"valid": "x"}}, "tasks.age.valid.*'x'"),
        ({"age": {"valid": [5, 1]}}, r"task age: valid must be \[smallest, largest\]"),
        ({"age": {"classes": ["a", "b"]}}, "task age: a regression has no classes"),
        ({"age": {"column": 3}}, "tasks.age.column.*3"),
        (
            {"x": {"kind": "ranking"}},
            "tasks.x.kind.*'regression', 'classification' or 'multilabel'",
        ),
        ({"x": {"kind": "multilabel"}}, "task x: classes must be at least one"),
        ({"x": {"kind": "multilabel", "classes": ["a;b"]}}, "must not hold ';'"),
        ({"gender": {"classes": ["male"]}}, "task gender: classes must be at least two"),
        ({"gender": {"classes": ["m", "f", "m"]}}, "all different"),
        ({"gender": {"classes": "male"}}, "tasks.gender.classes.*'male'"),
        ({"gender": {"classes": 2}}, "tasks.gender.classes.*2"),
        ({"gender": {"classes": [0, 1]}}, "tasks.gender.classes.0.*string, not 0"),
        ({"gender": {"classes": [False, True]}}, "tasks.gender.classes.0.*string, not False"),
    ],
)
def test_mistakes_name_the_task_and_what_is_allowed(entry: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        task_from(entry)
    assert "\n" not in str(caught.value)
