"""One predictor compared with labels: its metrics in every fold, and what intervals are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.events import LEAST_EVENTS, OF_ANSWERS, fewest_events, fewest_hits
from enecg.evaluation.jackknife import (
    Contributions,
    blocks_of_groups,
    fold_contributions,
    mean_contributions,
)
from enecg.evaluation.metrics import Floats, Numbers, confidences, labelled, score
from enecg.evaluation.procedure_interval import retraining_factor
from enecg.evaluation.threshold_shift import moved_variances
from enecg.tasks import Task, known


@dataclass(frozen=True)
class Judged:
    """One predictor's labelled records, in an order that does not depend on how they came.

    Attributes
    ----------
    task : Task
    truth_B : float64 array, shape (B,), or (B, C) for several labels
    prediction_RBC : float64 array, shape (R, B, C)
        Out-of-fold predictions of R repeats.
    group_B : array of str, shape (B,)
    rows : list of R lists of K int arrays
        The test records of each fold; none where a fold has no label.
    scores : list of R lists of K dicts
        What `metrics.score` gives for them.
    margin_RBC : float64 array, shape (R, B, C), optional
        What `thresholds.margins` gives.
    """

    task: Task
    truth_B: Floats
    prediction_RBC: Floats
    group_B: npt.NDArray[np.str_]
    rows: list[list[npt.NDArray[np.int64]]]
    scores: list[list[dict[str, float]]]
    margin_RBC: Floats | None = None

    @property
    def n(self) -> int:
        """Number of labelled records."""
        return len(self.truth_B)

    @property
    def metrics(self) -> list[str]:
        """Every metric that some fold has."""
        return list(dict.fromkeys(m for folds in self.scores for fold in folds for m in fold))

    def values(self, metric: str) -> Floats:
        """Return a metric by repeat and fold, shape (R, K); NaN where it is undefined."""
        return np.array([[fold.get(metric, np.nan) for fold in folds] for folds in self.scores])

    @property
    def factor(self) -> float:
        """How much training anew enlarges a variance."""
        return float(np.mean([retraining_factor([r.size for r in folds]) for folds in self.rows]))

    @property
    def least_n(self) -> float:
        """Effective number of records where no mistake was seen: the rarest class in each class."""
        folds = np.zeros(self.n, dtype=np.int64)
        rarest = fewest_events(self.task, self.truth_B, folds, self.group_B)
        return float(min(max(2, self.task.width) * rarest, np.unique(self.group_B).size))

    def events(self, metric: str) -> int:
        """Return what an interval would rest on: fewest events in a fold, or fewest hits."""
        found = self._events
        if metric in OF_ANSWERS:
            found = min(found, self._hits)
        return found

    def enough(self, metric: str) -> bool:
        """Whether an interval can be given: events enough, and every fold has the metric."""
        return (
            self.events(metric) >= LEAST_EVENTS
            and not np.isnan(self.values(metric)).any()
            and all(metric in fold for folds in self._contributions for fold in folds)
        )

    def parts(self, metric: str) -> list[Contributions]:
        """Return the groups' contributions to each repeat's mean, where there is `enough`."""
        return [
            mean_contributions([fold[metric] for fold in folds]) for folds in self._contributions
        ]

    def moved(self, metric: str) -> float:
        """Return the variance that shifts of thresholds add to a metric of answers.

        0 without margins, and for a single fold, where nothing is trained.
        """
        return self._moved.get(metric, 0.0)

    @cached_property
    def _moved(self) -> dict[str, float]:
        if self.margin_RBC is None or len(self.rows[0]) < 2:
            return {}
        return moved_variances(self.task, self.truth_B, self.margin_RBC, self.group_B, self.rows)

    def confidences(self) -> list[list[Floats]]:
        """Return the probability of each answer, by repeat and fold with labels."""
        return [
            [
                confidences(self.task, self.truth_B[rows], predicted_BC[rows])[0]
                for rows in folds
                if rows.size
            ]
            for predicted_BC, folds in zip(self.prediction_RBC, self.rows, strict=True)
        ]

    @cached_property
    def _events(self) -> int:
        fewest = []
        for folds in self.rows:
            if any(rows.size == 0 for rows in folds):
                return 0
            fold_B = np.zeros(self.n, dtype=np.int64)
            for place, rows in enumerate(folds):
                fold_B[rows] = place
            fewest.append(fewest_events(self.task, self.truth_B, fold_B, self.group_B))
        return min(fewest)

    @cached_property
    def _hits(self) -> int:
        return min(
            fewest_hits(self.task, self.truth_B, predicted_BC, self.group_B)
            for predicted_BC in self.prediction_RBC
        )

    @cached_property
    def _contributions(self) -> list[list[dict[str, Contributions]]]:
        block_B = blocks_of_groups(self.group_B)
        n_blocks = int(block_B.max()) + 1
        return [
            [
                fold_contributions(
                    self.task,
                    self.truth_B[rows],
                    predicted_BC[rows],
                    self.group_B[rows],
                    block_B[rows],
                    n_blocks,
                )
                for rows in folds
            ]
            for predicted_BC, folds in zip(self.prediction_RBC, self.rows, strict=True)
        ]


def judge(
    task: Task,
    truth_B: Numbers,
    prediction_BC: Numbers,
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    margin_BC: npt.NDArray[np.floating] | None = None,
) -> Judged:
    """Compute every metric in every fold.

    Parameters
    ----------
    task, truth_B, prediction_BC, fold_B, group_B, margin_BC
        As for `intervals.fold_summary`.

    Raises
    ------
    JobFailed, ValueError
        As for `metrics.score`.
    """
    truth_B, name_B = np.asarray(truth_B), np.asarray(group_B, dtype=str)
    prediction_RBC = np.asarray(prediction_BC)
    prediction_RBC = prediction_RBC if prediction_RBC.ndim == 3 else prediction_RBC[None]
    fold_RB = np.atleast_2d(np.asarray(fold_B))
    for predicted_BC in prediction_RBC:
        labelled(task, truth_B, predicted_BC)
    # One order of records, whichever they came in: sums of floats depend on it in the last bit.
    columns = np.concatenate([*prediction_RBC, fold_RB.T], axis=1).T
    order = np.lexsort((*columns, *np.atleast_2d(truth_B.T), name_B))
    order = order[known(truth_B)[order]]
    true_B, name_B = truth_B[order].astype(np.float64), name_B[order]
    said_RBC = prediction_RBC[:, order].astype(np.float64)
    rows = [
        [np.flatnonzero(fold_B[order] == fold) for fold in np.unique(fold_B)] for fold_B in fold_RB
    ]
    scores = [
        [score(task, true_B[of_fold], said_BC[of_fold]) for of_fold in folds]
        for said_BC, folds in zip(said_RBC, rows, strict=True)
    ]
    margin_RBC = None
    if margin_BC is not None:
        margin_RBC = margin_BC.reshape(prediction_RBC.shape)[:, order].astype(np.float64)
    return Judged(task, true_B, said_RBC, name_B, rows, scores, margin_RBC)
