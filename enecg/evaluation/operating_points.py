"""Sensitivity, specificity and predictive values of answers, by class, with intervals.

These shares of few records have an interval of their own: Wilson's (JASA 1927) for the mean over
folds, with an effective number of records. That number is smaller where records of one patient go
together (their design effect; Kish 1965), and where models are trained anew (the factor of Nadeau
and Bengio, see `procedure_interval`). Repeats do not add to it: they judge the same patients again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from enecg.evaluation.events import LEAST_EVENTS
from enecg.evaluation.procedure_interval import retraining_factor
from enecg.tasks import Task, known

Mask = npt.NDArray[np.bool_]

RATES = ("sensitivity", "specificity", "ppv", "npv")
_Z = float(norm.ppf(0.975))


def operating_points(
    task: Task,
    truth_B: npt.NDArray[np.floating],
    answers_B: npt.NDArray[Any],
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
) -> dict[str, Any]:
    """Return how often answers are right, by class.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B : float array, shape (B,), or (B, C) for several labels
        NaN where the label is missing.
    answers_B : int array, shape (B,), or bool array, shape (B, C)
        What `thresholds.answers` gives; with an axis more in front for R repeats.
    fold_B : int array, shape (B,), or (R, B)
    group_B : sequence of str, length B

    Returns
    -------
    dict
        Of two classes: `RATES` of the second one. Else ``classes``: `RATES` by class. Each rate
        has ``mean`` (over the folds where it is defined), ``folds``, ``n`` (records it is a share
        of, in the repeat where these are fewest), ``ci95`` where that is ten or more, and
        ``defined_in`` where that is not every fold. One that is defined in no fold is absent.
        Nothing for a regression.
    """
    if task.kind == "regression":
        return {}
    rows = known(truth_B)
    names = np.unique(np.asarray(group_B, dtype=str)[rows], return_inverse=True)[1]
    fold_RB = np.atleast_2d(fold_B)
    answers_RB = np.asarray(answers_B).reshape(len(fold_RB), *np.shape(answers_B)[-truth_B.ndim :])
    folds = [np.unique(of_repeat, return_inverse=True) for of_repeat in fold_RB]
    where = [(number_B[rows], len(every)) for every, number_B in folds]
    if task.kind == "multilabel":
        holds_BC, said_RBC = truth_B[rows] > 0.5, answers_RB[:, rows]
    else:
        every = np.arange(task.width)
        holds_BC = truth_B[rows].astype(int)[:, None] == every
        said_RBC = answers_RB[:, rows, None] == every
    if task.kind == "classification" and task.width == 2:
        return _rates(holds_BC[:, 1], said_RBC[..., 1], where, names)
    return {
        "classes": {
            name: _rates(holds_BC[:, place], said_RBC[..., place], where, names)
            for place, name in enumerate(task.classes)
        }
    }


def _rates(
    holds_B: Mask,
    said_RB: Mask,
    where: Sequence[tuple[npt.NDArray[np.integer], int]],
    group_B: npt.NDArray[np.integer],
) -> dict[str, Any]:
    """`RATES` by name; ``where``: of every repeat, each record's fold, and how many there are."""
    found: dict[str, Any] = {}
    for number, name in enumerate(RATES):
        shares = []
        for said_B, (fold_B, n_folds) in zip(said_RB, where, strict=True):
            of_B = (holds_B, ~holds_B, said_B, ~said_B)[number]
            shares.append(Share.of(holds_B == said_B, of_B, fold_B, group_B, n_folds))
        if (described := described_share(shares)) is not None:
            found[name] = described
    return found


@dataclass(frozen=True)
class Share:
    """The share of some records that are right, in one repeat.

    Attributes
    ----------
    folds : list of float
        In the folds where some of these records are.
    n_folds, n : int
        Number of folds, and of records.
    effective : float
        Effective number of records for the mean over folds; 0 where there are none.
    """

    folds: list[float]
    n_folds: int
    n: int
    effective: float

    @classmethod
    def of(
        cls,
        right_B: Mask,
        of_B: Mask,
        fold_B: npt.NDArray[np.integer],
        group_B: npt.NDArray[np.integer],
        n_folds: int,
    ) -> Share:
        """Compute a share.

        Parameters
        ----------
        right_B, of_B : bool arrays, shape (B,)
            Which records are right, and which count.
        fold_B, group_B : int arrays, shape (B,)
            Folds are numbered from 0.
        n_folds : int
        """
        sizes = [int((fold_B == fold).sum()) for fold in range(n_folds)]
        inside = [rows for fold in range(n_folds) if (rows := of_B & (fold_B == fold)).any()]
        if not inside:
            return cls([], n_folds, 0, 0.0)
        # The mean over folds weighs a small fold as much as a large one.
        as_if = len(inside) ** 2 / sum(1 / int(rows.sum()) for rows in inside)
        factor = _design_effect(right_B[of_B], group_B[of_B]) * retraining_factor(sizes)
        folds = [float(right_B[rows].mean()) for rows in inside]
        return cls(folds, n_folds, int(of_B.sum()), as_if / factor)


def described_share(repeats: Sequence[Share]) -> dict[str, Any] | None:
    """Return what results.json says of a share over repeats; None where it is defined in no fold.

    Repeats judge the same patients, so they do not add to the effective number of records: it is
    their harmonic mean, as if the variance of the mean over repeats were the mean of theirs, which
    it is at most.
    """
    folds = [value for share in repeats for value in share.folds]
    if not folds:
        return None
    mean, n = float(np.mean(folds)), min(share.n for share in repeats)
    found: dict[str, Any] = {"mean": mean, "folds": folds, "n": n}
    if len(folds) < sum(share.n_folds for share in repeats):
        found["defined_in"] = len(folds)
    if n >= LEAST_EVENTS:
        found["ci95"] = wilson(mean, harmonic_mean([share.effective for share in repeats]))
    return found


def _design_effect(right_N: Mask, group_N: npt.NDArray[np.integer]) -> float:
    """Return how much larger the variance of a share is because groups go together; 1 at least.

    Where all records are alike, nothing can be measured: then as if a group's records always were.
    """
    number_N = np.unique(group_N, return_inverse=True)[1]
    size_G = np.bincount(number_N).astype(float)
    mean = float(right_N.mean())
    if mean in (0.0, 1.0):
        return float((size_G**2).sum() / size_G.sum())
    off_G = np.bincount(number_N, weights=right_N - mean)
    return max(1.0, float((off_G**2).sum() / (len(right_N) * mean * (1 - mean))))


def wilson(share_: float, n: float) -> list[float]:
    """Return Wilson's 95 % interval of a share of ``n`` records; ``n`` need not be whole."""
    centre = (share_ + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(share_ * (1 - share_) / n + _Z**2 / (4 * n**2))
    return [float(max(0.0, centre - half)), float(min(1.0, centre + half))]
