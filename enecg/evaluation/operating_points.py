"""Sensitivity, specificity and predictive values of answers, by class, with intervals.

These shares of few records have an interval of their own: Wilson's (JASA 1927) for the mean over
folds, with an effective number of records. That number is smaller

* where records of one patient go together (their design effect; Kish 1965);
* where models are trained anew (the factor of Nadeau and Bengio, and what folds differ by beyond
  their test records, as in `procedure_interval`);
* by shifts of the threshold, which move sensitivity one way and specificity the other (see
  `threshold_shift`).

`benchmarks/coverage.py` simulates what they cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from enecg.evaluation.events import LEAST_EVENTS
from enecg.evaluation.procedure_interval import retraining_factor
from enecg.evaluation.threshold_shift import threshold_error
from enecg.tasks import Task, known

Mask = npt.NDArray[np.bool_]

RATES = ("sensitivity", "specificity", "ppv", "npv")


def operating_points(
    task: Task,
    truth_B: npt.NDArray[np.floating],
    answers_B: npt.NDArray[Any],
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    margin_BC: npt.NDArray[np.floating] | None = None,
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
    margin_BC : float array, shape (B, C), or (R, B, C), optional
        What `thresholds.margins` gives, for models that would be trained anew; not for a finished
        one.

    Returns
    -------
    dict
        Of two classes: `RATES` of the second one. Else ``classes``: `RATES` by class. Each rate
        has ``mean`` (over the folds where it is defined), ``folds``, ``n`` (records it is a share
        of, in the repeat where these are fewest), ``ci95`` where they are of ten groups or more
        (else ``events``, their number, where there are ten records), and ``defined_in`` where that
        is not every fold. One that is defined in no fold is absent. Nothing for a regression.
    """
    if task.kind == "regression":
        return {}
    rows = known(truth_B)
    names = np.unique(np.asarray(group_B, dtype=str)[rows], return_inverse=True)[1]
    fold_RB = np.atleast_2d(fold_B)
    n_repeats = len(fold_RB)
    answers_RB = np.asarray(answers_B).reshape(n_repeats, *np.shape(answers_B)[-truth_B.ndim :])
    folds = [np.unique(of_repeat, return_inverse=True) for of_repeat in fold_RB]
    where = [(number_B[rows], len(every)) for every, number_B in folds]
    if task.kind == "multilabel":
        holds_BC, said_RBC = truth_B[rows] > 0.5, answers_RB[:, rows]
    else:
        every = np.arange(task.width)
        holds_BC = truth_B[rows].astype(int)[:, None] == every
        said_RBC = answers_RB[:, rows, None] == every
    margin_RBC = None
    if margin_BC is not None:
        margin_RBC = margin_BC.reshape(n_repeats, *np.shape(margin_BC)[-2:])[:, rows]

    def of_class(place: int) -> dict[str, Any]:
        margin_RB = None if margin_RBC is None else margin_RBC[..., place]
        return _rates(holds_BC[:, place], said_RBC[..., place], margin_RB, where, names)

    if task.kind == "classification" and task.width == 2:
        return of_class(1)
    return {"classes": {name: of_class(place) for place, name in enumerate(task.classes)}}


def _rates(
    holds_B: Mask,
    said_RB: Mask,
    margin_RB: npt.NDArray[np.floating] | None,
    where: Sequence[tuple[npt.NDArray[np.integer], int]],
    group_B: npt.NDArray[np.integer],
) -> dict[str, Any]:
    """`RATES` by name; ``where``: of every repeat, each record's fold, and how many there are."""
    shares: dict[str, list[Share]] = {name: [] for name in RATES}
    for repeat, (fold_B, n_folds) in enumerate(where):
        said_B = said_RB[repeat]
        moved = np.zeros(len(RATES))
        if margin_RB is not None and n_folds > 1:
            step = threshold_error(holds_B, group_B)
            ends = [
                _means(holds_B, margin_RB[repeat] >= by, fold_B, n_folds) for by in (-step, step)
            ]
            here = _means(holds_B, said_B, fold_B, n_folds)
            low, high = (np.where(np.isnan(end), here, end) for end in ends)
            moved = np.nan_to_num((high - low) / 2) ** 2
        for name, of_B, by in zip(RATES, _counted(holds_B, said_B), moved.tolist(), strict=True):
            shares[name].append(Share.of(holds_B == said_B, of_B, fold_B, group_B, n_folds, by))
    found = {name: described_share(of_repeats) for name, of_repeats in shares.items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def _counted(holds_B: Mask, said_B: Mask) -> tuple[Mask, ...]:
    """Return which records each of `RATES` is a share of."""
    return holds_B, ~holds_B, said_B, ~said_B


def _means(
    holds_B: Mask, said_B: Mask, fold_B: npt.NDArray[np.integer], n_folds: int
) -> npt.NDArray[np.float64]:
    """Return each of `RATES`, its mean over the folds that have it; NaN where none has."""
    right_B = holds_B == said_B
    means = []
    for of_B in _counted(holds_B, said_B):
        counted = np.bincount(fold_B[of_B], minlength=n_folds)
        right = np.bincount(fold_B[of_B & right_B], minlength=n_folds)
        having = counted > 0
        means.append(np.mean(right[having] / counted[having]) if having.any() else np.nan)
    return np.array(means)


@dataclass(frozen=True)
class Share:
    """The share of some records that are right, in one repeat.

    Attributes
    ----------
    folds : list of float
        In the folds where some of these records are.
    n_folds, n, groups : int
        Number of folds, of records, and of their groups.
    effective : float
        Effective number of records for the mean over folds; 0 where there are none.
    unstable : float
        Which part of the variance is what folds differ by beyond their test records.
    """

    folds: list[float]
    n_folds: int
    n: int = 0
    groups: int = 0
    effective: float = 0.0
    unstable: float = 0.0

    @classmethod
    def of(
        cls,
        right_B: Mask,
        of_B: Mask,
        fold_B: npt.NDArray[np.integer],
        group_B: npt.NDArray[np.integer],
        n_folds: int,
        moved: float = 0.0,
    ) -> Share:
        """Compute a share.

        Parameters
        ----------
        right_B, of_B : bool arrays, shape (B,)
            Which records are right, and which count.
        fold_B, group_B : int arrays, shape (B,)
            Folds are numbered from 0.
        n_folds : int
        moved : float
            Variance of the share that comes from where the threshold lies.
        """
        sizes = [int((fold_B == fold).sum()) for fold in range(n_folds)]
        inside = [rows for fold in range(n_folds) if (rows := of_B & (fold_B == fold)).any()]
        if not inside:
            return cls([], n_folds)
        folds = [float(right_B[rows].mean()) for rows in inside]
        # The mean over folds weighs a small fold as much as a large one.
        as_if = len(inside) ** 2 / sum(1 / int(rows.sum()) for rows in inside)
        # The variance of one record, kept off 0 so that it can be compared with other variances.
        rounded = (float(np.mean(folds)) * as_if + 1) / (as_if + 2)
        one = rounded * (1 - rounded)
        test = one * _design_effect(right_B[of_B], group_B[of_B]) / as_if
        excess = max(0.0, float(np.var(folds, ddof=1)) / len(folds) - test) if folds[1:] else 0.0
        variance = retraining_factor(sizes) * test + excess + moved
        groups = np.unique(group_B[of_B]).size
        return cls(folds, n_folds, int(of_B.sum()), groups, one / variance, excess / variance)


def described_share(repeats: Sequence[Share]) -> dict[str, Any] | None:
    """Return what results.json says of a share over repeats; None where it is defined in no fold.

    Repeats judge the same patients, so they do not add to the effective number of records: it is
    their harmonic mean. (The variance of a mean over repeats is at most the mean of their
    variances; that bound is used.)
    """
    folds = [value for share in repeats for value in share.folds]
    if not folds:
        return None
    mean, n = float(np.mean(folds)), min(share.n for share in repeats)
    groups = min(share.groups for share in repeats)
    found: dict[str, Any] = {"mean": mean, "folds": folds, "n": n}
    if len(folds) < sum(share.n_folds for share in repeats):
        found["defined_in"] = len(folds)
    if groups >= LEAST_EVENTS:
        unstable = float(np.mean([share.unstable for share in repeats]))
        least = min(len(share.folds) for share in repeats) - 1
        freedom = least / unstable**2 if unstable and least else np.inf
        effective = harmonic_mean([share.effective for share in repeats])
        found["ci95"] = wilson(mean, effective, freedom)
    elif n >= LEAST_EVENTS:
        found["events"] = groups
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


def wilson(share_: float, n: float, freedom: float = np.inf) -> list[float]:
    """Return Wilson's 95 % interval of a share of ``n`` records; ``n`` need not be whole.

    ``freedom``: degrees of freedom of the variance that ``n`` stands for.
    """
    z = float(stdtrit(freedom, 0.975))
    centre = (share_ + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share_ * (1 - share_) / n + z**2 / (4 * n**2))
    # The share itself is inside, whatever was rounded: at 0 or 1 it is an end.
    return [
        float(max(0.0, min(centre - half, share_))),
        float(min(1.0, max(centre + half, share_))),
    ]
