"""What a shift of a threshold adds to the variance of metrics of answers."""

from __future__ import annotations

import numpy as np
import pytest

from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.metrics import score
from enecg.evaluation.threshold_shift import answer_scores, moved_variances, threshold_error
from enecg.evaluation.thresholds import answers, margins
from enecg.tasks import Kind, Task

N = 300
METRICS = ("accuracy", "precision", "recall", "f1")
GROUP = np.arange(N).astype(str)
ROWS = [[np.flatnonzero(np.arange(N) % 3 == fold) for fold in range(3)]]


def problem(kind: Kind, classes: int) -> tuple[Task, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    task = Task("t", kind, classes=tuple("abcd"[:classes]))
    if kind == "multilabel":
        return task, rng.integers(0, 2, (N, classes)).astype(float), rng.random((N, classes))
    return task, rng.integers(0, classes, N).astype(float), rng.dirichlet(np.ones(classes), N)


KINDS: list[tuple[Kind, int]] = [
    ("classification", 2),
    ("classification", 4),
    ("multilabel", 1),
    ("multilabel", 3),
]


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_answers_are_scored_as_the_metrics_define_it(kind: Kind, classes: int) -> None:
    task, truth, predicted = problem(kind, classes)
    ours = answer_scores(task, truth, answers(task, predicted, ()))
    theirs = score(task, truth, predicted)
    np.testing.assert_allclose(ours, [theirs[metric] for metric in METRICS], rtol=1e-12)


def test_of_two_classes_the_second_ones_threshold_moves() -> None:
    task, truth, predicted = problem("classification", 2)
    margin = margins(task, predicted, None)
    moved = moved_variances(task, truth, margin[None], GROUP, ROWS)
    step = threshold_error(truth == 1, GROUP)
    assert step == pytest.approx(np.sqrt(1 / (truth == 1).sum() + 1 / (truth == 0).sum()))

    def accuracy(by: float) -> float:
        said = (margin[:, 1] >= by).astype(int)
        return float(np.mean([(said == truth)[test].mean() for test in ROWS[0]]))

    here = accuracy(0.0)
    expected = max((accuracy(by) - here) ** 2 for by in (-step, step))
    assert moved["accuracy"] == pytest.approx(expected, rel=1e-9) and expected > 0


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_intervals_of_answers_are_wider_for_it_and_others_not(kind: Kind, classes: int) -> None:
    task, truth, predicted = problem(kind, classes)
    margin = margins(task, predicted, None)
    where = (np.arange(N) % 3, GROUP)
    plain = fold_summary(task, truth, predicted, *where, n_resamples=20)
    wider = fold_summary(task, truth, predicted, *where, n_resamples=20, margin_BC=margin)
    for metric in METRICS:
        (low, high), (lower, higher) = plain[metric]["ci95"], wider[metric]["ci95"]
        assert higher - lower > high - low, metric
    assert plain["auroc"] == wider["auroc"]
    one = np.zeros(N, dtype=int)  # a finished model on other records: nothing is trained
    same = [
        fold_summary(task, truth, predicted, one, GROUP, n_resamples=20, margin_BC=given)
        for given in (None, margin)
    ]
    assert same[0] == same[1]


def test_the_order_of_records_changes_nothing() -> None:
    task, truth, predicted = problem("classification", 4)
    order = np.random.default_rng(1).permutation(N)
    margin = margins(task, predicted, None)
    one = fold_summary(
        task, truth, predicted, np.arange(N) % 3, GROUP, n_resamples=20, margin_BC=margin
    )
    other = fold_summary(
        task, truth[order], predicted[order], (np.arange(N) % 3)[order], GROUP[order],
        n_resamples=20, margin_BC=margin[order],
    )  # fmt: skip
    assert one == other
