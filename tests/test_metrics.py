"""The metrics are scikit-learn's where it has them, and absent where they mean nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn import metrics as sk

from enecg.errors import JobFailed
from enecg.evaluation.metrics import (
    CLASSIFICATION_METRICS,
    REGRESSION_METRICS,
    confidence_bin,
    main_metric,
    score,
)
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, RHYTHM


def simulated(task: Task, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and predictions that know something of them; some scores are tied."""
    rng = np.random.default_rng(seed)
    if task.kind == "regression":
        truth = rng.normal(50, 15, n)
        return truth, (truth + rng.normal(0, 8, n))[:, None]
    if task.kind == "multilabel":
        holds = rng.random((n, task.width)) < 0.4
        return holds.astype(float), np.round(expit(rng.normal(2 * holds - 1)), 2)
    truth = rng.integers(task.width, size=n)
    logits = np.round(rng.normal(size=(n, task.width)) + np.eye(task.width)[truth], 1)
    odds = np.exp(logits)
    return truth.astype(float), odds / odds.sum(axis=1, keepdims=True)


def test_regression_as_scikit_learn() -> None:
    truth, prediction = simulated(AGE, 200)
    scores = score(AGE, truth, prediction)
    assert set(scores) == set(REGRESSION_METRICS)
    assert scores["mae"] == pytest.approx(np.abs(truth - prediction[:, 0]).mean())
    assert scores["mse"] == pytest.approx(((truth - prediction[:, 0]) ** 2).mean())
    assert scores["r2"] == pytest.approx(sk.r2_score(truth, prediction[:, 0]))


def test_two_classes_as_scikit_learn() -> None:
    truth, prediction = simulated(GENDER, 200)
    scores = score(GENDER, truth, prediction)
    answer = prediction.argmax(axis=1)
    assert set(scores) == set(CLASSIFICATION_METRICS)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(truth, answer))
    assert scores["f1"] == pytest.approx(sk.f1_score(truth, answer, average="macro"))
    assert scores["auroc"] == pytest.approx(sk.roc_auc_score(truth, prediction[:, 1]))
    assert scores["auprc"] == pytest.approx(sk.average_precision_score(truth, prediction[:, 1]))


def test_several_classes_as_scikit_learn() -> None:
    truth, prediction = simulated(RHYTHM, 200)
    scores = score(RHYTHM, truth, prediction)
    answer = prediction.argmax(axis=1)
    macro = {"average": "macro", "zero_division": 0}
    assert scores["precision"] == pytest.approx(sk.precision_score(truth, answer, **macro))
    assert scores["recall"] == pytest.approx(sk.recall_score(truth, answer, **macro))
    assert scores["auroc"] == pytest.approx(
        sk.roc_auc_score(truth, prediction, multi_class="ovr", average="macro")
    )
    assert scores["auprc"] == pytest.approx(
        sk.average_precision_score(np.eye(4)[truth.astype(int)], prediction, average="macro")
    )


def test_several_labels_as_scikit_learn() -> None:
    truth, prediction = simulated(FINDINGS, 200)
    scores = score(FINDINGS, truth, prediction)
    answer = prediction >= 0.5
    macro = {"average": "macro", "zero_division": 0}
    assert set(scores) == set(CLASSIFICATION_METRICS)
    assert scores["accuracy"] == pytest.approx(1 - sk.hamming_loss(truth, answer))
    assert scores["precision"] == pytest.approx(sk.precision_score(truth, answer, **macro))
    assert scores["recall"] == pytest.approx(sk.recall_score(truth, answer, **macro))
    assert scores["f1"] == pytest.approx(sk.f1_score(truth, answer, **macro))
    assert scores["auroc"] == pytest.approx(sk.roc_auc_score(truth, prediction, average="macro"))
    assert scores["auprc"] == pytest.approx(
        sk.average_precision_score(truth, prediction, average="macro")
    )


def test_areas_of_several_labels_are_over_those_that_some_have_and_others_have_not() -> None:
    truth = np.array([[1.0, 0, 1], [0, 0, 1], [1, 0, 1]])
    prediction = np.array([[0.9, 0.2, 0.8], [0.3, 0.1, 0.9], [0.6, 0.4, 0.7]])
    scores = score(FINDINGS, truth, prediction)
    assert scores["auroc"] == scores["auprc"] == scores["accuracy"] == 1.0
    assert scores["f1"] == pytest.approx(2 / 3)  # the mean over what is declared
    assert "auroc" not in score(FINDINGS, truth[:1], prediction[:1])
    with pytest.raises(ValueError, match="not probabilities"):
        score(FINDINGS, truth, 2 * prediction)


def test_macro_means_are_over_declared_classes_and_areas_over_present_ones() -> None:
    truth = np.array([0.0, 0, 1, 1])
    prediction = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.3, 0.7, 0, 0], [0.1, 0.9, 0, 0]])
    scores = score(RHYTHM, truth, prediction)
    assert scores["recall"] == scores["precision"] == scores["f1"] == 0.5  # two of four are right
    assert scores["accuracy"] == scores["auroc"] == scores["auprc"] == 1.0


def test_calibration_error_by_hand() -> None:
    """Ten answers of 0.8, none right, and ten of 0.6, three right: 0.8 and 0.3, less chance."""
    stated = np.repeat([0.8, 0.6], 10)
    truth = np.array([1.0] * 10 + [0.0] * 3 + [1.0] * 7)
    ece = score(GENDER, truth, np.stack([stated, 1 - stated], axis=1))["ece"]
    # A share of 0.3 in ten has the variance 0.3 · 0.7 / 9; a share of 0 in ten has none.
    assert ece == pytest.approx(0.5 * 0.8 + 0.5 * math.sqrt(0.3**2 - 0.3 * 0.7 / 9))


def test_a_single_record_in_a_bin_says_nothing_of_calibration() -> None:
    assert score(GENDER, np.array([0.0]), np.array([[0.55, 0.45]]))["ece"] == 0.0
    assert score(GENDER, np.array([1.0]), np.array([[0.99, 0.01]]))["ece"] > 0.9


def test_debiased_calibration_error_of_a_calibrated_model_is_about_half_of_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(200):
        second = expit(1.5 * rng.normal(size=100))
        truth = (rng.random(100) < second).astype(float)
        prediction = np.stack([1 - second, second], axis=1)
        debiased.append(score(GENDER, truth, prediction)["ece"])
        top, right = prediction.max(axis=1), prediction.argmax(axis=1) == truth
        plain.append(np.abs(np.bincount(confidence_bin(top), weights=top - right)).sum() / 100)
    assert np.mean(debiased) < 0.55 * np.mean(plain)


def test_bins_are_closed_on_the_right() -> None:
    assert confidence_bin(np.array([0.01, 1 / 15, 0.07, 0.2, 0.99, 1.0])).tolist() == [
        0, 0, 1, 2, 14, 14,
    ]  # fmt: skip


def test_what_does_not_apply_is_absent() -> None:
    assert set(score(AGE, np.array([40.0]), np.array([[41.0]]))) == {"mae", "mse"}
    assert "r2" not in score(AGE, np.full(5, 40.0), np.arange(5.0)[:, None])
    one_class = score(GENDER, np.zeros(4), np.full((4, 2), 0.5))
    assert not {"auroc", "auprc"} & set(one_class) and one_class["accuracy"] == 1.0
    assert score(GENDER, np.full(3, np.nan), np.full((3, 2), 0.5)) == {}


def test_records_without_label_are_left_out() -> None:
    truth, prediction = simulated(RHYTHM, 60)
    holes = truth.copy()
    holes[::3] = np.nan
    kept = ~np.isnan(holes)
    assert score(RHYTHM, holes, prediction) == score(RHYTHM, truth[kept], prediction[kept])


def test_non_finite_predictions_are_said() -> None:
    with pytest.raises(JobFailed, match=r"task age: 1 of 3 predictions are not finite.*row 2"):
        score(AGE, np.zeros(3), np.array([[0.0], [1.0], [np.nan]]))


def test_impossible_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(3, 2\)"):
        score(GENDER, np.zeros(3), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not class probabilities"):
        score(GENDER, np.zeros(3), np.array([[3.0, -2.0]] * 3))
    with pytest.raises(ValueError, match="class numbers below 2"):
        score(GENDER, np.array([0.0, 2.0]), np.full((2, 2), 0.5))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([AGE, GENDER, RHYTHM, FINDINGS]))
def test_scores_are_finite_in_range_and_free_of_row_order(n: int, seed: int, task: Task) -> None:
    truth, prediction = simulated(task, n, seed)
    scores = score(task, truth, prediction)
    backwards = score(task, truth[::-1], prediction[::-1])
    assert scores.keys() == backwards.keys()
    for name, value in scores.items():
        assert type(value) is float and math.isfinite(value)
        assert value == pytest.approx(backwards[name], abs=1e-12)
        if task.kind != "regression":
            assert 0.0 <= value <= 1.0 + 1e-12


def test_main_metrics() -> None:
    tasks = (AGE, GENDER, RHYTHM, FINDINGS)
    assert [main_metric(task) for task in tasks] == ["mae", "auroc", "f1", "auroc"]
