"""Whether there are enough events to say how sure a metric is: at least ten in every fold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.metrics import Floats
from enecg.tasks import Task

LEAST_EVENTS = 10
"""Fewest groups of a class in a fold that an interval is given for."""
OF_ANSWERS = frozenset({"precision", "recall", "f1"})
"""Metrics that count right answers class by class."""


def fewest_events(
    task: Task, truth_B: Floats, fold_B: npt.NDArray[np.integer], group_B: npt.NDArray[Any]
) -> int:
    """Return how many groups bear the rarest class in the fold that has the fewest of them.

    Several records of one patient are one event. Of two classes the rarer one counts; of several
    labels the rarest answer, yes or no, to any of them; classes that no record has do not count,
    but where all records are of one class there are no events. For a regression it is the number
    of groups in the smallest fold.

    Parameters
    ----------
    task : Task
    truth_B : float64 array, shape (B,), or (B, C) for several labels
        Labels, none missing.
    fold_B : int array, shape (B,)
    group_B : array of str, shape (B,)
    """
    counts = [
        np.unique(group_B[event_B & (fold_B == fold)]).size
        for event_B in _events(task, truth_B)
        for fold in np.unique(fold_B)
    ]
    return min(counts, default=0)


def fewest_hits(
    task: Task, truth_B: Floats, prediction_BC: Floats, group_B: npt.NDArray[Any]
) -> int:
    """Return how many groups are answered rightly in the class where they are fewest.

    ``precision``, ``recall`` and ``f1`` of a class rest on its right answers. Where there are
    hardly any, their spread in the sample says nothing of their uncertainty.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B, prediction_BC
        Labelled records of all folds, as for `metrics.score`.
    group_B : array of str, shape (B,)
    """
    if task.kind == "multilabel":
        hits = [
            (truth_BC > 0.5) & (said >= 0.5)
            for truth_BC, said in zip(truth_B.T, prediction_BC.T, strict=True)
            if (truth_BC > 0.5).any()
        ]
    else:
        right_B = prediction_BC.argmax(axis=1) == truth_B
        hits = [event_B & right_B for event_B in _events(task, truth_B)]
    return min((np.unique(group_B[hit_B]).size for hit_B in hits), default=0)


def _events(task: Task, truth_B: Floats) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield which records are an event, for every kind of event that occurs."""
    if task.kind == "regression":
        yield np.ones(len(truth_B), dtype=bool)
        return
    columns = truth_B.T if task.kind == "multilabel" else [truth_B]
    for column in columns:
        values = np.unique(column)
        if values.size > 1:  # what all or none have is nothing to be found
            yield from (column == value for value in values)
