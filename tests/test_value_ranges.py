"""Prediction intervals of values cover the share they promise."""

from __future__ import annotations

import numpy as np
import pytest

from enecg.evaluation.value_ranges import coverage_and_width, fit_half_width
from enecg.tasks import Task

AGE = Task("age", "regression", unit="years")


def test_exchangeable_records_are_covered_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        error = rng.standard_t(3, size=61)
        half = fit_half_width(AGE, error[:60, None], np.zeros(60))
        assert half is not None
        inside.append(abs(error[60]) <= half)
    assert 0.86 < np.mean(inside) < 0.95


def test_the_quantile_is_that_of_split_conformal_prediction() -> None:
    errors = np.arange(1.0, 20.0)  # n = 19: the 18th smallest for 90 %
    assert fit_half_width(AGE, errors[:, None], np.zeros(19)) == 18.0


@pytest.mark.parametrize("n", [0, 1, 8])
def test_too_few_records_give_no_interval(n: int) -> None:
    assert fit_half_width(AGE, np.ones((n, 1)), np.zeros(n)) is None


def test_classes_have_no_interval() -> None:
    task = Task("sex", "classification", classes=("m", "f"))
    assert fit_half_width(task, np.ones((30, 2)), np.zeros(30)) is None


def test_records_without_label_or_prediction_are_left_out() -> None:
    prediction = np.append(np.arange(1.0, 20.0), [np.nan, 500.0])[:, None]
    target = np.append(np.zeros(20), np.nan)
    assert fit_half_width(AGE, prediction, target) == 18.0


def test_coverage_and_width_of_labelled_records() -> None:
    found = coverage_and_width(
        np.array([1.0, 5.0, np.nan]), np.array([0.0, 0.0, 0.0]), np.array([2.0, 2.0, 2.0])
    )
    assert found == {"coverage": 0.5, "mean_width": 2.0, "n": 2}
    assert coverage_and_width(np.array([np.nan]), np.zeros(1), np.ones(1)) is None


def test_coverage_and_width_over_repeats_count_each_record_once() -> None:
    target, low = np.array([1.0, 5.0, np.nan]), np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 0.0]])
    found = coverage_and_width(target, low, low + np.array([[2.0], [5.0]]))
    assert found == {"coverage": pytest.approx(2 / 3), "mean_width": 3.0, "n": 2}
