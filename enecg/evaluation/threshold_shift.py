"""How far metrics of answers move when a class's threshold shifts.

Each training shifts a threshold for all folds alike, so differences between folds do not show it.
From n training patients, e of them with the class, the class's log-odds can be estimated to a
standard error of √(1/e + 1/(n − e)) at best. By how much a metric moves over that adds to its
variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from enecg.evaluation.metrics import Floats, ranked_classes
from enecg.tasks import Task

Rows = Sequence[Sequence[npt.NDArray[np.int64]]]


def threshold_error(holds_B: npt.NDArray[np.bool_], group_B: npt.NDArray[np.generic]) -> float:
    """Return the standard error of a class's log-odds in this many groups; 0 with all or none."""
    n = np.unique(group_B).size
    events = n * float(holds_B.mean()) if n else 0.0
    return float(np.sqrt(1 / events + 1 / (n - events))) if 0.0 < events < n else 0.0


def answer_scores(task: Task, truth_B: Floats, answers_B: npt.NDArray[np.generic]) -> Floats:
    """Return accuracy, precision, recall and F1 of answers, as `metrics.score` defines them.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B : float array, shape (B,), or (B, C) for several labels
    answers_B : int array, shape (B,), or bool array, shape (B, C)
    """
    if task.kind == "multilabel":
        holds_BC, said_BC = truth_B > 0.5, np.asarray(answers_B, dtype=bool)
        accuracy = float((holds_BC == said_BC).mean())
    else:
        every = np.arange(task.width)
        holds_BC, said_BC = truth_B[:, None] == every, answers_B[:, None] == every
        accuracy = float((holds_BC & said_BC).any(1).mean())
    hit_C, said_C, held_C = ((one).sum(0) for one in (holds_BC & said_BC, said_BC, holds_BC))
    precision = np.mean(hit_C / np.maximum(said_C, 1))
    recall = np.mean(hit_C / np.maximum(held_C, 1))
    f1 = np.mean(2 * hit_C / np.maximum(said_C + held_C, 1))
    return np.array([accuracy, precision, recall, f1])


def moved_variances(
    task: Task, truth_B: Floats, margin_RBC: Floats, group_B: npt.NDArray[np.generic], rows: Rows
) -> dict[str, float]:
    """Return what threshold shifts add to the variance of each metric of answers.

    Each class's threshold is moved by its standard error, up and down; the larger change of the
    metric's mean over folds counts, squared, and adds up over classes.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B : float array, shape (B,), or (B, C)
    margin_RBC : float array, shape (R, B, C)
        What `thresholds.margins` gives.
    group_B : array of str, shape (B,)
    rows : R lists of K int arrays
        The test records of each fold.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``precision``, ``recall``, ``f1``: means over repeats.
    """
    several = task.kind == "multilabel"
    classes = range(task.width) if several else ranked_classes(task.width)

    def means(below_BC: Floats, folds: Sequence[npt.NDArray[np.int64]]) -> Floats:
        answers_B = below_BC >= 0.0 if several else below_BC.argmax(-1)
        each = [answer_scores(task, truth_B[test], answers_B[test]) for test in folds if test.size]
        return np.mean(each, axis=0)

    total_M = np.zeros(4)
    for margin_BC, folds in zip(margin_RBC, rows, strict=True):
        # Of one class per record: how far each class lies below the one that is answered.
        below_BC = margin_BC if several else np.minimum(margin_BC, 0.0)
        here_M = means(below_BC, folds)
        for place in classes:
            holds_B = truth_B[:, place] > 0.5 if several else truth_B == place
            step = threshold_error(holds_B, group_B)
            change_M = np.zeros(4)
            for by in (-step, step):
                moved_BC = below_BC.copy()
                moved_BC[:, place] += by
                change_M = np.maximum(change_M, np.square(means(moved_BC, folds) - here_M))
            total_M += change_M / len(rows)
    return dict(zip(("accuracy", "precision", "recall", "f1"), total_M.tolist(), strict=True))
