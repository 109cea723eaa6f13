"""Sensitivity and its like: the shares that scikit-learn counts, and intervals that cover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score
from statsmodels.stats.proportion import proportion_confint

from enecg.evaluation.operating_points import (
    RATES,
    Share,
    described_share,
    operating_points,
    wilson,
)
from enecg.evaluation.wording import with_interval
from enecg.tasks import Task

BINARY = Task("af", "classification", classes=("no", "yes"))
RHYTHM = Task("rhythm", "classification", classes=("SR", "AFIB", "SARRH"))
SEVERAL = Task("dx", "multilabel", classes=("AF", "LBBB"))


def share(*given: Any) -> dict[str, Any] | None:
    """A share in one repeat."""
    return described_share([Share.of(*given)])


def test_of_two_classes_the_rates_are_scikit_learns_of_the_second_one() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(2, size=(2, 300))
    fold = np.arange(300) % 3
    found = operating_points(BINARY, truth.astype(float), said, fold, np.arange(300).astype(str))
    assert tuple(found) == RATES
    for name, metric, positive in (
        ("sensitivity", recall_score, 1), ("specificity", recall_score, 0),
        ("ppv", precision_score, 1), ("npv", precision_score, 0),
    ):  # fmt: skip
        folds = [metric(truth[fold == k], said[fold == k], pos_label=positive) for k in range(3)]
        np.testing.assert_allclose(found[name]["folds"], folds)
        assert found[name]["mean"] == pytest.approx(np.mean(folds))
        low, high = found[name]["ci95"]
        assert low < found[name]["mean"] < high


def test_of_several_classes_each_has_its_own_and_missing_labels_do_not_count() -> None:
    truth = np.array([0, 0, 1, 1, 0, np.nan])
    said = np.array([0, 1, 1, 1, 0, 1])
    names = np.arange(6).astype(str)
    found = operating_points(RHYTHM, truth, said, np.zeros(6, dtype=int), names)["classes"]
    assert found["AFIB"]["sensitivity"]["mean"] == 1.0
    assert found["AFIB"]["ppv"]["mean"] == pytest.approx(2 / 3)
    assert found["AFIB"]["sensitivity"]["n"] == 2
    assert "sensitivity" not in found["SARRH"] and "ppv" not in found["SARRH"]
    assert found["SARRH"]["specificity"]["mean"] == 1.0


def test_of_several_labels_each_has_its_own() -> None:
    truth = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    said = np.array([[True, False], [False, True], [False, True]])
    names = np.arange(3).astype(str)
    found = operating_points(SEVERAL, truth, said, np.zeros(3, dtype=int), names)["classes"]
    assert found["AF"]["sensitivity"]["mean"] == 0.5
    assert found["LBBB"]["ppv"]["mean"] == 0.5


def test_a_fold_without_the_class_is_counted_out() -> None:
    truth = np.array([1.0, 0.0, 0.0, 0.0])
    fold = np.array([0, 0, 1, 1])
    found = operating_points(BINARY, truth, np.array([1, 0, 0, 1]), fold, list("abcd"))
    assert found["sensitivity"]["folds"] == [1.0] and found["sensitivity"]["defined_in"] == 1
    assert "defined_in" not in found["specificity"]


def test_values_have_no_rates() -> None:
    age = Task("age", "regression")
    assert operating_points(age, np.ones(3), np.ones(3), np.zeros(3, int), list("abc")) == {}


@pytest.mark.parametrize(("hits", "n"), [(0, 13), (5, 13), (13, 13), (30, 400)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    np.testing.assert_allclose(
        wilson(hits / n, n), proportion_confint(hits, n, method="wilson"), atol=1e-12
    )


def test_ten_records_of_a_patient_are_no_ten_patients() -> None:
    rng = np.random.default_rng(0)
    of_patient = rng.random(40) < 0.7
    fold = np.zeros(400, dtype=int)
    every = np.ones(400, dtype=bool)
    alone = share(of_patient, every[:40], fold[:40], np.arange(40), 1)
    repeated = share(np.repeat(of_patient, 10), every, fold, np.repeat(np.arange(40), 10), 1)
    assert alone is not None and repeated is not None
    np.testing.assert_allclose(repeated["ci95"], alone["ci95"], rtol=1e-9)


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_judged_once_the_interval_covers(rate: float) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(500):
        right = rng.random(60) < rate
        found = share(right, np.ones(60, bool), np.zeros(60, int), np.arange(60), 1)
        assert found is not None
        covered.append(found["ci95"][0] <= rate <= found["ci95"][1])
    assert 0.92 < np.mean(covered) <= 0.985


def test_a_small_fold_weighs_as_much_as_a_large_one_and_widens_the_interval() -> None:
    right = np.arange(40) % 2 == 0
    every, names = np.ones(40, dtype=bool), np.arange(40)
    even = share(right, every, np.arange(40) // 2 % 2, names, 2)
    uneven = share(right, every, (np.arange(40) >= 2).astype(int), names, 2)
    assert even is not None and uneven is not None
    width = [one["ci95"][1] - one["ci95"][0] for one in (even, uneven)]
    assert width[1] > 1.5 * width[0]


def test_ten_records_of_two_patients_have_no_interval_but_say_so() -> None:
    found = share(np.ones(12, bool), np.ones(12, bool), np.zeros(12, int), np.arange(12) // 6, 1)
    assert found == {"mean": 1.0, "folds": [1.0], "n": 12, "events": 2}
    assert with_interval(found) == "1.000 (n 12, events 2)"


def test_at_an_end_the_share_itself_is_inside() -> None:
    for n in range(10, 200):
        assert wilson(0.0, n / 2.5)[0] == 0.0 and wilson(1.0, n / 2.5)[1] == 1.0


def test_what_folds_differ_by_beyond_their_records_widens_the_interval() -> None:
    right = np.tile(np.arange(100) < 70, 3)
    uneven = np.concatenate([np.arange(100) < k for k in (40, 70, 100)])
    every, fold, names = np.ones(300, bool), np.arange(300) // 100, np.arange(300)
    alike, differing = (share(one, every, fold, names, 3) for one in (right, uneven))
    assert alike is not None and differing is not None
    assert alike["mean"] == pytest.approx(0.7) and differing["mean"] == pytest.approx(0.7)
    width = [one["ci95"][1] - one["ci95"][0] for one in (alike, differing)]
    assert width[0] == pytest.approx(2 * 1.96 * (2.5 * 0.21 / 300) ** 0.5, rel=0.03)
    assert width[1] > 2.5 * width[0]
    moved = share(right, every, fold, names, 3, 0.1**2)
    assert moved is not None
    assert moved["ci95"][1] - moved["ci95"][0] > 1.7 * width[0]


def test_where_many_lie_near_the_threshold_a_share_is_less_sure() -> None:
    """But only for models that would be trained anew, in several folds."""
    rng = np.random.default_rng(0)
    truth = (np.arange(300) % 2).astype(float)
    fold, names = np.arange(300) // 2 % 3, np.arange(300).astype(str)
    right = rng.random(300) < 0.8
    far = np.where(right, truth, 1 - truth) * 2 - 1
    widths = []
    for margin in (far, far * 0.05, None):
        margins_BC = None if margin is None else np.stack([-margin, margin], 1)
        found = operating_points(BINARY, truth, (far > 0).astype(int), fold, names, margins_BC)
        low, high = found["sensitivity"]["ci95"]
        widths.append(high - low)
    assert widths[0] == widths[2] < widths[1] / 3
    alone = operating_points(
        BINARY, truth, (far > 0).astype(int), np.zeros(300, int), names, np.stack([-far, far], 1)
    )
    assert alone == operating_points(
        BINARY, truth, (far > 0).astype(int), np.zeros(300, int), names
    )


def test_fewer_than_ten_records_have_no_interval_but_their_number() -> None:
    found = share(np.ones(9, bool), np.ones(9, bool), np.zeros(9, int), np.arange(9), 1)
    assert found == {"mean": 1.0, "folds": [1.0], "n": 9}


@pytest.mark.parametrize("task", [BINARY, RHYTHM, SEVERAL])
def test_rates_of_repeats_are_the_mean_of_theirs_and_count_the_patients_once(task: Task) -> None:
    rng = np.random.default_rng(3)
    several = task.kind == "multilabel"
    truth = rng.integers(2 if several else task.width, size=(200, 2) if several else 200)
    truth = truth.astype(float)
    truth[5] = np.nan
    names = np.arange(200) // 2
    said = [np.where(rng.random(truth.shape) < 0.8, np.nan_to_num(truth), 1) for _ in range(2)]
    said = [one.astype(bool if several else int) for one in said]
    fold = np.stack([names % 3, (names // 3) % 4])
    both = operating_points(task, truth, np.stack(said), fold, names)
    alone = [operating_points(task, truth, *one, names) for one in zip(said, fold, strict=True)]
    same = operating_points(task, truth, np.stack(said[:1] * 2), fold[[0, 0]], names)
    for pick in [lambda of: of] if task is BINARY else [
        lambda of, name=name: of["classes"][name] for name in task.classes
    ]:  # fmt: skip
        for rate in RATES:
            first, second, mean = (pick(of)[rate] for of in (*alone, both))
            assert mean["folds"] == first["folds"] + second["folds"]
            assert mean["mean"] == pytest.approx(np.mean(mean["folds"]))
            assert mean["n"] == min(first["n"], second["n"])
            widths = [one["ci95"][1] - one["ci95"][0] for one in (first, second, mean)]
            assert 0.9 * min(widths[:2]) < widths[2] < 1.1 * max(widths[:2])
            np.testing.assert_allclose(pick(same)[rate]["ci95"], first["ci95"], rtol=1e-12)


def test_a_repeat_without_the_class_leaves_folds_out() -> None:
    truth, names = np.array([1.0, 0.0, 0.0, 1.0]), list("abcd")
    fold = np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    never, always = np.zeros(4, int), np.ones(4, int)
    found = operating_points(BINARY, truth, np.stack([never, always]), fold, names)
    assert found["ppv"] == {"mean": 0.5, "folds": [1.0, 0.0], "n": 0, "defined_in": 2}
    assert found["sensitivity"]["folds"] == [0.0, 0.0, 1.0] and found["sensitivity"]["n"] == 2
