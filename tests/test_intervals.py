"""Intervals: the fast bootstrap is the plain one, draws groups, and covers what it should."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from enecg.errors import JobFailed
from enecg.evaluation.intervals import fold_summary, paired_difference
from enecg.evaluation.jackknife import BLOCKS
from enecg.evaluation.judged import judge
from enecg.evaluation.metrics import LOWER_IS_BETTER, score
from enecg.evaluation.procedure_interval import retraining_factor
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
        assert {m for m in fast if not np.isnan(fast[m][r])} == set(plain) - {"ece"}
        for metric, value in plain.items():
            if metric == "ece":
                continue  # it has no interval
            assert fast[metric][r] == pytest.approx(value, rel=1e-9, abs=1e-9), metric


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_the_interval_given_models_equals_a_plain_loop(task: Task) -> None:
    n, n_resamples = 900, 20
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
    assert set(summary) == set(by_fold[0])
    for metric, entry in summary.items():
        folds = [scores[metric] for scores in by_fold]
        assert entry["folds"] == pytest.approx(folds, abs=1e-12)
        assert entry["mean"] == pytest.approx(np.mean(folds))
        assert entry["std"] == pytest.approx(np.std(folds, ddof=1))
        if metric != "ece":
            ends = np.percentile(plain[metric], [2.5, 97.5])
            assert entry["ci95_given_models"] == pytest.approx(ends, abs=1e-9)
            assert np.ptp(entry["ci95"]) > 1.2 * np.ptp(ends)  # models trained anew


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
def test_the_intervals_surround_the_mean(task: Task) -> None:
    truth, prediction = simulated(task, 900)
    summary = fold_summary(task, truth, prediction, np.arange(900) % 3, np.arange(900).astype(str))
    for metric, entry in summary.items():
        if metric == "ece":
            assert not {"ci95", "ci95_given_models"} & set(entry)
            continue
        for low, high in (entry["ci95"], entry["ci95_given_models"]):
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
    assert copied["ci95_given_models"] == pytest.approx(once["ci95_given_models"])


def test_a_metric_undefined_in_a_fold_says_in_how_many_it_is_defined() -> None:
    truth, prediction = simulated(GENDER, 90)
    fold_B, group_B = np.arange(90) % 3, np.arange(90).astype(str)
    truth[fold_B == 2] = 1.0
    summary = fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20)
    for metric in ("auroc", "auprc"):
        entry = summary[metric]
        assert entry["defined_in"] == len(entry["folds"]) == 2
        assert entry["mean"] == pytest.approx(np.mean(entry["folds"])) and entry["mean"] < 1.0
        assert not {"ci95", "ci95_given_models"} & set(entry)
        assert entry["n"] == 90 and entry["events"] < 10
    assert "defined_in" not in summary["accuracy"]
    truth[fold_B == 1] = np.nan  # a fold without labels
    summary = fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20)
    assert summary["auroc"]["folds"] == [score(GENDER, truth[::3], prediction[::3])["auroc"]]
    assert summary["auroc"]["defined_in"] == 1 and "std" not in summary["auroc"]
    assert summary["accuracy"]["defined_in"] == 2 and "ci95" not in summary["accuracy"]
    truth[:] = 1.0
    summary = fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20)
    assert "auroc" not in summary and "accuracy" in summary


def test_below_ten_events_in_a_fold_there_is_the_estimate_and_no_interval() -> None:
    truth, prediction = simulated(GENDER, 300)
    fold_B, group_B = np.arange(300) % 3, np.arange(300).astype(str)

    def with_events(n: int) -> dict[str, Any]:
        truth[:] = 0.0
        for fold, events in enumerate((n, 30, 30)):
            truth[np.flatnonzero(fold_B == fold)[:events]] = 1.0
        return fold_summary(GENDER, truth, prediction, fold_B, group_B, n_resamples=20)

    few, enough = with_events(9), with_events(10)
    for metric in ("auroc", "auprc", "accuracy", "f1"):
        assert few[metric]["events"] == 9 and few[metric]["n"] == 300
        assert not {"ci95", "ci95_given_models"} & set(few[metric])
        assert {"ci95", "ci95_given_models"} <= set(enough[metric])
        assert not {"n", "events"} & set(enough[metric])
    truth[:] = 0.0
    assert fold_summary(GENDER, truth, prediction, fold_B, group_B)["accuracy"]["events"] == 0
    with_events(10)
    # Ten records of one patient are one event.
    group_B[truth == 1.0] = "one"
    fold_B[truth == 1.0] = 0
    assert fold_summary(GENDER, truth, prediction, fold_B, group_B)["auroc"]["events"] <= 1


def test_a_class_that_is_hardly_ever_found_has_no_interval_of_f1() -> None:
    """No hit in 60: the sample shows no spread, which is no sign of certainty."""
    n = 600
    truth = (np.arange(n) % 10 == 0).astype(float)
    prediction = np.tile([0.8, 0.2], (n, 1))
    prediction[:, 1] += 0.01 * np.random.default_rng(0).normal(size=n)
    prediction[:, 0] = 1.0 - prediction[:, 1]
    where = (np.arange(n) // 10 % 3, np.arange(n).astype(str))
    summary = fold_summary(GENDER, truth, prediction, *where)
    assert summary["recall"]["mean"] == 0.5 and summary["recall"]["events"] == 0
    assert "ci95" not in summary["f1"] and "ci95" in summary["auroc"]


def test_a_faultless_predictor_has_an_interval_with_a_width() -> None:
    truth = (np.arange(120) % 2).astype(float)
    prediction = np.stack([1.0 - truth, truth], axis=1)
    summary = fold_summary(GENDER, truth, prediction, np.arange(120) // 2 % 3, np.arange(120))
    for metric in ("accuracy", "f1", "auroc", "auprc"):
        low, high = summary[metric]["ci95"]
        assert 0.85 < low < 0.97 and high == summary[metric]["mean"] == 1.0


def test_exact_values_have_no_interval() -> None:
    truth, _ = simulated(AGE, 120)
    summary = fold_summary(AGE, truth, truth[:, None], np.arange(120) % 3, np.arange(120))
    assert summary["mae"]["mean"] == 0.0 and "ci95" not in summary["mae"]


def test_over_one_fold_there_is_no_standard_deviation_and_nothing_was_trained_anew() -> None:
    truth, prediction = simulated(AGE, 300)
    group_B = np.arange(300)
    one = fold_summary(AGE, truth, prediction, np.zeros(300, dtype=int), group_B)["mae"]
    assert "std" not in one and len(one["folds"]) == 1
    assert np.ptp(one["ci95"]) == pytest.approx(np.ptp(one["ci95_given_models"]), rel=0.15)
    difference = paired_difference(
        AGE, "mae", truth, prediction, prediction + 1, np.zeros(300, dtype=int), group_B
    )
    assert difference is not None and "std" not in difference


def test_non_finite_predictions_are_said() -> None:
    with pytest.raises(JobFailed, match="not finite"):
        fold_summary(AGE, np.zeros(2), np.array([[np.inf], [0.0]]), np.zeros(2, int), ["a", "b"])


def test_intervals_given_models_cover_the_truth() -> None:
    """Errors are normal with deviation 8, so the true MAE is 8·sqrt(2/π); 95 % should hold it.

    Nothing is trained here. For models trained anew see `test_coverage.py`.
    """
    rng = np.random.default_rng(0)
    n, trials, expected = 150, 300, 8 * np.sqrt(2 / np.pi)
    fold_B, group_B = np.arange(n) % 3, np.arange(n).astype(str)
    covered = 0
    for _ in range(trials):
        truth = rng.normal(50, 15, n)
        prediction = (truth + rng.normal(0, 8, n))[:, None]
        summary = fold_summary(AGE, truth, prediction, fold_B, group_B, n_resamples=200)["mae"]
        low, high = summary["ci95_given_models"]
        covered += low <= expected <= high
    assert 0.89 < covered / trials < 0.98


def test_it_is_fast_enough_for_every_predictor_of_every_task() -> None:
    truth, prediction = simulated(RHYTHM, 500)
    started = time.perf_counter()
    fold_summary(RHYTHM, truth, prediction, np.arange(500) % 3, np.arange(500).astype(str))
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_a_paired_difference_is_of_the_same_resamples(task: Task) -> None:
    n = 900
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
    where = (np.arange(300) % 3, np.arange(300))
    found = paired_difference(AGE, "mae", truth, ours, theirs, *where)
    alone = fold_summary(AGE, truth, ours, *where)["mae"]
    assert found is not None
    for interval in ("ci95", "ci95_given_models"):
        assert np.ptp(found[interval]) < 0.3 * np.ptp(alone[interval])


def test_where_a_metric_does_not_apply_there_is_no_difference() -> None:
    prediction = np.full((6, 2), 0.5)
    where = (np.zeros(6, dtype=int), np.arange(6))
    for truth in (np.zeros(6), np.full(6, np.nan)):
        assert paired_difference(GENDER, "auroc", truth, prediction, prediction, *where) is None


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_contributions_of_groups_are_those_of_a_plain_loop(task: Task) -> None:
    """Each group left out in turn; their squares add up to the variance, their sum to the bias."""
    truth, prediction = simulated(task, 300)
    group_B = np.array([f"g{i // 2:03d}" for i in range(300)])
    fold_B = np.zeros(300, dtype=int)
    judged = judge(task, truth, prediction, fold_B, group_B)
    metric = "r2" if task is AGE else "auprc"
    [found] = judged.parts(metric)
    whole, groups = score(task, truth, prediction)[metric], np.unique(group_B)
    without = [
        score(task, truth[group_B != group], prediction[group_B != group])[metric]
        for group in groups
    ]
    n = groups.size
    assert np.square(found.values).sum() == pytest.approx((n - 1) / n * n * np.var(without))
    assert found.bias == pytest.approx((n - 1) * (np.mean(without) - whole))


def test_many_groups_are_left_out_in_bundles_and_give_the_same_variance() -> None:
    truth, prediction = simulated(AGE, 4000)
    group_B = np.arange(4000).astype(str)
    [found] = judge(AGE, truth, prediction, np.zeros(4000, dtype=int), group_B).parts("mae")
    assert found.values.size == BLOCKS
    error = np.abs(truth - prediction[:, 0])
    assert np.square(found.values).sum() == pytest.approx(error.var() / 4000, rel=0.2)


def test_repeats_average_and_do_not_count_as_more_patients() -> None:
    """The same predictions three times over: nothing changes but the list of folds."""
    truth, prediction = simulated(GENDER, 600)
    fold_B, group_B = np.arange(600) % 3, np.arange(600).astype(str)
    once = fold_summary(GENDER, truth, prediction, fold_B, group_B)
    thrice = fold_summary(
        GENDER, truth, np.stack([prediction] * 3), np.stack([fold_B] * 3), group_B
    )
    for metric in ("accuracy", "auroc", "auprc"):
        assert thrice[metric]["folds"] == once[metric]["folds"] * 3
        for key in ("mean", "ci95_given_models"):
            assert thrice[metric][key] == pytest.approx(once[metric][key])
        assert np.ptp(thrice[metric]["ci95"]) == pytest.approx(
            np.ptp(once[metric]["ci95"]), rel=0.2
        )


def test_folds_that_differ_more_than_their_records_explain_widen_the_interval() -> None:
    """Models that depend on chance: one fold's are far worse."""
    truth, prediction = simulated(AGE, 900)
    fold_B, group_B = np.arange(900) % 3, np.arange(900)
    stable = fold_summary(AGE, truth, prediction, fold_B, group_B)["mae"]
    prediction[fold_B == 1] += 12
    unstable = fold_summary(AGE, truth, prediction, fold_B, group_B)["mae"]
    assert np.ptp(unstable["ci95"]) > 3 * np.ptp(stable["ci95"])


def test_the_retraining_factor_is_that_of_nadeau_and_bengio() -> None:
    assert retraining_factor([50, 50, 50]) == pytest.approx((1 / 3 + 1 / 2) * 3)
    assert retraining_factor([20] * 5) == pytest.approx((1 / 5 + 1 / 4) * 5)
    assert retraining_factor([70]) == 1.0


@pytest.mark.parametrize("task", [GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_the_null_band_holds_the_error_of_a_calibrated_model(task: Task) -> None:
    rng = np.random.default_rng(2)
    inside = 0
    for trial in range(16):
        if task.kind == "multilabel":
            stated = rng.random((150, task.width))
            truth = (rng.random(stated.shape) < stated).astype(float)
        else:
            odds = np.exp(rng.normal(size=(150, task.width)))
            stated = odds / odds.sum(axis=1, keepdims=True)
            truth = (stated.cumsum(axis=1) > rng.random((150, 1))).argmax(axis=1).astype(float)
        entry = fold_summary(
            task, truth, stated, np.arange(150) % 3, np.arange(150), n_resamples=2, seed=trial
        )["ece"]
        low, high = entry["null_band"]
        inside += low <= entry["mean"] <= high
    assert inside >= 13
    wrong = np.where(truth > 0.5, 0.05, 0.95) if task.kind == "multilabel" else None
    if wrong is not None:
        entry = fold_summary(task, truth, wrong, np.arange(150) % 3, np.arange(150))["ece"]
        assert entry["mean"] > 0.9 > entry["null_band"][1]
