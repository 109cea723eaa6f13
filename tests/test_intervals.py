"""Intervals: the fast bootstrap is the plain one, draws groups, and covers what it should."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from enecg.errors import JobFailed
from enecg.evaluation.intervals import fold_summary, paired_difference
from enecg.evaluation.metrics import LOWER_IS_BETTER, score
from enecg.evaluation.weighted_metrics import weighted_scores
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, RHYTHM

ALL = [AGE, GENDER, RHYTHM, FINDINGS]


def simulated(task: Task, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of uneven classes and predictions that know something of them, with many ties."""
    rng = np.random.default_rng(seed)
    if task.kind == "regression":
        truth = np.round(rng.normal(50, 15, n))
        return truth, np.round(truth + rng.normal(0, 8, n))[:, None]
    if task.kind == "multilabel":
        holds = rng.random((n, task.width)) < [0.5, 0.2, 0.05]
        return holds.astype(float), np.round(expit(rng.normal(2 * holds - 1)), 1)
    truth = np.minimum(rng.geometric(0.5, size=n) - 1, task.width - 1)
    odds = np.exp(np.round(rng.normal(size=(n, task.width)) + np.eye(task.width)[truth], 1))
    return truth.astype(float), odds / odds.sum(axis=1, keepdims=True)


@settings(deadline=None)
@given(st.sampled_from(ALL), st.integers(1, 30), st.integers(0, 10_000))
def test_weights_equal_repeated_rows(task: Task, n: int, seed: int) -> None:
    """A resample of weights scores exactly as its rows written out, absent metrics included."""
    truth, prediction = simulated(task, n, seed)
    rng = np.random.default_rng(seed)
    rows_RB = rng.integers(n, size=(5, n))
    weight_BR = np.stack([np.bincount(rows, minlength=n) for rows in rows_RB], axis=1)
    fast = weighted_scores(task, truth, prediction, weight_BR.astype(float))
    for r, rows in enumerate(rows_RB):
        plain = score(task, truth[rows], prediction[rows])
        assert {m for m in fast if not np.isnan(fast[m][r])} == set(plain)
        for metric, value in plain.items():
            assert fast[metric][r] == pytest.approx(value, rel=1e-9, abs=1e-9), metric


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_the_whole_procedure_equals_a_plain_loop(task: Task) -> None:
    n, n_resamples = 90, 40
    truth, prediction = simulated(task, n)
    fold_B = np.arange(n) // 3 % 3
    group_B = np.array([f"g{i // 3:03d}" for i in range(n)])
    summary = fold_summary(
        task, truth, prediction, fold_B, group_B, n_resamples=n_resamples, seed=5
    )
    plain: dict[str, list[float]] = {}
    by_fold = [score(task, truth[fold_B == k], prediction[fold_B == k]) for k in range(3)]
    draws = []
    for k in range(3):
        groups = np.unique(group_B[fold_B == k])
        rng = np.random.default_rng([5, k])
        draws.append(groups[rng.integers(groups.size, size=(n_resamples, groups.size))])
    for r in range(n_resamples):
        scores = []
        for k in range(3):
            rows = np.concatenate([np.flatnonzero(group_B == g) for g in draws[k][r]])
            scores.append(score(task, truth[rows], prediction[rows]))
        for metric in set(scores[0]) & set(scores[1]) & set(scores[2]):
            plain.setdefault(metric, []).append(float(np.mean([s[metric] for s in scores])))
    for metric, entry in summary.items():
        folds = [scores[metric] for scores in by_fold]
        assert entry["folds"] == pytest.approx(folds, abs=1e-12)
        assert entry["mean"] == pytest.approx(np.mean(folds))
        assert entry["std"] == pytest.approx(np.std(folds, ddof=1))
        means = np.array(plain[metric])
        if metric == "ece":
            means = np.maximum(means - means.mean() + np.mean(folds), 0.0)
        assert entry["ci95"] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1e-9)


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_same_seed_same_numbers_in_any_order_of_rows(task: Task) -> None:
    n = 120
    truth, prediction = simulated(task, n)
    truth[::7] = np.nan
    group_B = np.array([f"g{i // 3}" for i in range(n)])
    fold_B = np.arange(n) // 3 % 3
    first = fold_summary(task, truth, prediction, fold_B, group_B, n_resamples=50, seed=1)
    mixed = np.random.default_rng(3).permutation(n)
    again = fold_summary(
        task, truth[mixed], prediction[mixed], fold_B[mixed], group_B[mixed], n_resamples=50, seed=1
    )
    other = fold_summary(task, truth, prediction, fold_B, group_B, n_resamples=50, seed=2)
    assert first == again
    assert first != other


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_the_interval_surrounds_the_mean(task: Task) -> None:
    truth, prediction = simulated(task, 300)
    summary = fold_summary(task, truth, prediction, np.arange(300) % 3, np.arange(300).astype(str))
    for metric, entry in summary.items():
        low, high = entry["ci95"]
        assert low < entry["mean"] < high, metric
        assert metric not in LOWER_IS_BETTER or low >= 0.0


def test_records_of_one_patient_are_not_independent_evidence() -> None:
    """Each record copied eight times under its patient: same mean, same width."""
    truth, prediction = simulated(AGE, 150)
    fold_B, group_B = np.arange(150) % 3, np.arange(150).astype(str)
    once = fold_summary(AGE, truth, prediction, fold_B, group_B)["mae"]
    eight = (np.repeat(x, 8, axis=0) for x in (truth, prediction, fold_B, group_B))
    copied = fold_summary(AGE, *eight)["mae"]
    assert copied["mean"] == pytest.approx(once["mean"])
    assert copied["ci95"] == pytest.approx(once["ci95"])


def test_a_metric_must_apply_in_every_fold() -> None:
    truth, prediction = simulated(GENDER, 90)
    fold_B, group_B = np.arange(90) % 3, np.arange(90).astype(str)
    truth[fold_B == 2] = 1.0
    summary = fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20)
    assert "accuracy" in summary and not {"auroc", "auprc"} & set(summary)
    truth[fold_B == 2] = np.nan
    assert fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20) == {}


def test_resamples_with_one_class_are_left_out() -> None:
    """Two groups of one class each: half of the resamples have no auroc, and no NaN comes out."""
    truth = np.array([0.0, 1.0])
    prediction = np.array([[0.8, 0.2], [0.1, 0.9]])
    summary = fold_summary(GENDER, truth, prediction, np.zeros(2, int), ["a", "b"])
    assert summary["auroc"] == {"mean": 1.0, "std": 0.0, "folds": [1.0], "ci95": [1.0, 1.0]}


def test_non_finite_predictions_are_said() -> None:
    with pytest.raises(JobFailed, match="not finite"):
        fold_summary(AGE, np.zeros(2), np.array([[np.inf], [0.0]]), np.zeros(2, int), ["a", "b"])


def test_intervals_cover_the_truth() -> None:
    """Errors are normal with deviation 8, so the true MAE is 8·sqrt(2/π); 95 % should hold it."""
    rng = np.random.default_rng(0)
    n, trials, expected = 150, 300, 8 * np.sqrt(2 / np.pi)
    fold_B, group_B = np.arange(n) % 3, np.arange(n).astype(str)
    covered = 0
    for _ in range(trials):
        truth = rng.normal(50, 15, n)
        prediction = (truth + rng.normal(0, 8, n))[:, None]
        low, high = fold_summary(AGE, truth, prediction, fold_B, group_B, n_resamples=200)["mae"][
            "ci95"
        ]
        covered += low <= expected <= high
    assert 0.89 < covered / trials < 0.98


def test_it_is_fast_enough_for_every_predictor_of_every_task() -> None:
    truth, prediction = simulated(RHYTHM, 500)
    started = time.perf_counter()
    fold_summary(RHYTHM, truth, prediction, np.arange(500) % 3, np.arange(500).astype(str))
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_a_paired_difference_is_of_the_same_resamples(task: Task) -> None:
    n = 120
    truth, ours = simulated(task, n)
    theirs = np.roll(ours, 1, axis=0)
    where = (np.arange(n) % 3, np.arange(n) // 2)
    metric = "mae" if task is AGE else "auroc"
    given = {"n_resamples": 200, "seed": 4}
    found = paired_difference(task, metric, truth, ours, theirs, *where, **given)
    assert found is not None
    one, other = (fold_summary(task, truth, p, *where, **given)[metric] for p in (ours, theirs))
    assert found["mean"] == pytest.approx(one["mean"] - other["mean"])
    assert found["folds"] == pytest.approx(np.subtract(one["folds"], other["folds"]))
    same = paired_difference(task, metric, truth, ours, ours, *where, **given)
    assert same is not None and same["ci95"] == [0.0, 0.0]


def test_a_paired_interval_is_narrower_where_predictors_err_alike() -> None:
    truth, ours = simulated(AGE, 300)
    theirs = ours + np.random.default_rng(1).normal(0.5, 0.5, ours.shape)
    where = (np.zeros(300, dtype=int), np.arange(300))
    found = paired_difference(AGE, "mae", truth, ours, theirs, *where)
    alone = fold_summary(AGE, truth, ours, *where)["mae"]
    assert found is not None
    assert np.ptp(found["ci95"]) < 0.3 * np.ptp(alone["ci95"])


def test_where_a_metric_does_not_apply_there_is_no_difference() -> None:
    prediction = np.full((6, 2), 0.5)
    where = (np.zeros(6, dtype=int), np.arange(6))
    for truth in (np.zeros(6), np.full(6, np.nan)):
        assert paired_difference(GENDER, "auroc", truth, prediction, prediction, *where) is None
