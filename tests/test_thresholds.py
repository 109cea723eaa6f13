"""Thresholds serve the aim they were chosen for; checked against a search over all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.metrics import confusion_matrix, f1_score

from enecg.evaluation.thresholds import Aim, answer_names, answers, choose_thresholds, margins
from enecg.tasks import Task

BINARY = Task("af", "classification", classes=("no", "yes"))
RHYTHM = Task("rhythm", "classification", classes=("SR", "AFIB", "SARRH"))
SEVERAL = Task("dx", "multilabel", classes=("AF", "LBBB"))


def scores_of(aim: Aim, truth: np.ndarray, said: np.ndarray) -> float:
    tn, fp, fn, tp = confusion_matrix(truth, said, labels=[False, True]).ravel()
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    return {
        "f1": f1_score(truth, said, average="macro", labels=[False, True], zero_division=0),
        "youden": sensitivity + specificity - 1,
        "cost": -(aim.number * fn + fp) / len(truth),
        "specificity": sensitivity if specificity >= aim.number else -1,
        "sensitivity": specificity if sensitivity >= aim.number else -1,
    }[aim.kind]


@pytest.mark.parametrize("text", ["f1", "youden", "specificity=0.8", "sensitivity=0.9", "cost=5"])
@given(seed=st.integers(0, 10_000), n=st.integers(4, 60), digits=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_no_other_threshold_serves_the_aim_better(
    text: str, seed: int, n: int, digits: int
) -> None:
    rng, aim = np.random.default_rng(seed), Aim.read(text)
    truth = rng.random(n) < 0.3
    truth[:2] = [True, False]
    p = np.round(rng.random(n), digits)
    prediction = np.stack([1 - p, p], axis=1)
    first, threshold = choose_thresholds(BINARY, prediction, truth.astype(float), aim)
    assert first == pytest.approx(1 - threshold)
    ours = scores_of(aim, truth, p >= threshold)
    # Between all distinct probabilities, below the least and above the largest.
    every = np.concatenate([[-0.1], np.unique(p) + 1e-9, [1.1]])
    assert ours == pytest.approx(max(scores_of(aim, truth, p > one) for one in every))
    # The answers say the same as the threshold.
    clear = np.abs(p - threshold) > 1e-6
    said = answers(BINARY, prediction, (first, threshold))
    np.testing.assert_array_equal(said[clear] == 1, (p >= threshold)[clear])


def test_a_rare_class_is_found_by_threshold_where_argmax_finds_none() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(2000) < 0.03).astype(float)
    score = rng.normal(2.0 * truth)
    p = 0.03 * np.exp(2 * score - 2) / (0.03 * np.exp(2 * score - 2) + 0.97)
    prediction = np.stack([1 - p, p, np.zeros_like(p)], axis=1)
    thresholds = choose_thresholds(RHYTHM, prediction, truth, Aim("youden"))
    by_threshold = answers(RHYTHM, prediction, thresholds)
    assert (by_threshold[truth == 1] == 1).mean() > 0.7
    assert (prediction.argmax(1)[truth == 1] == 1).mean() < 0.3
    assert thresholds[2] == 0.5  # no record of that class


def test_answers_of_one_record_do_not_depend_on_the_others() -> None:
    prediction = np.random.default_rng(1).dirichlet(np.ones(3), 50)
    thresholds = (0.6, 0.2, 0.1)
    whole = answers(RHYTHM, prediction, thresholds)
    assert whole.tolist() == [int(answers(RHYTHM, row[None], thresholds)[0]) for row in prediction]


def test_several_labels_each_have_their_own_threshold() -> None:
    prediction = np.array([[0.3, 0.3], [0.1, 0.9], [np.nan, np.nan]])
    names = answer_names(SEVERAL, prediction, (0.2, 0.5))
    assert names.tolist() == ["AF", "LBBB", None]


def test_a_regression_and_argmax_have_no_thresholds() -> None:
    assert (
        choose_thresholds(Task("age", "regression"), np.ones((3, 1)), np.ones(3), Aim("f1")) == ()
    )
    assert choose_thresholds(BINARY, np.ones((3, 2)), np.ones(3), Aim("argmax")) == ()
    assert answers(BINARY, np.array([[0.4, 0.6], [0.5, 0.5]]), ()).tolist() == [1, 0]


@pytest.mark.parametrize("text", ["f2", "specificity", "specificity=1.5", "cost=0", "cost=-1", ""])
def test_an_unknown_aim_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"aim|lies between"):
        Aim.read(text)


def test_records_without_label_or_prediction_are_left_out() -> None:
    truth = np.array([0, 1, 0, 1, np.nan, 1.0])
    p = np.array([0.1, 0.8, 0.2, 0.7, 0.9, np.nan])
    prediction = np.stack([1 - p, p], axis=1)
    assert choose_thresholds(BINARY, prediction, truth, Aim("f1")) == choose_thresholds(
        BINARY, prediction[:4], truth[:4], Aim("f1")
    )


@pytest.mark.parametrize("task", [BINARY, RHYTHM, SEVERAL], ids=lambda task: task.name)
def test_a_margin_is_what_is_missing_to_an_answer(task: Task) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(task.width), 50) if task is not SEVERAL else rng.random((50, 2))
    chosen = (0.3, 0.7) if task.width == 2 else (0.2, 0.5, 0.4)
    for of in ((), chosen):
        thresholds_BC = np.tile(of, (50, 1)) if of else None
        found = margins(task, p, thresholds_BC)
        said = answers(task, p, of)
        if task is SEVERAL:
            np.testing.assert_array_equal(found >= 0, said)
        else:
            np.testing.assert_array_equal(found.argmax(1), said)
            assert ((found > 0).sum(1) == 1).all()
    # Of two classes: how far the log-odds of the second lie above those of its threshold.
    if task is BINARY:
        np.testing.assert_allclose(found[:, 1], logit(p[:, 1]) - logit(0.7))
        np.testing.assert_allclose(found[:, 0], -found[:, 1])
