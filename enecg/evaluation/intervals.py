"""A metric over cross-validation folds: its mean, its spread, and how sure the mean is.

The interval answers "what would the mean have been with other patients of the same kind?": within
each fold whole groups are drawn with replacement, so that several records of one patient do not
count as independent evidence. The models are not trained again: what training on other patients
would change is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from enecg.evaluation.metrics import Floats, Numbers, labelled, score
from enecg.evaluation.weighted_metrics import weighted_scores
from enecg.tasks import Task, known

_CELLS_AT_ONCE = 300_000
"""Records × resamples worked on together: 2.4 MB an array, near what a processor's cache holds."""


class Summary(TypedDict):
    """One metric over folds; `ci95` is the interval of `mean`, `std` has ddof 1."""

    mean: float
    std: float
    folds: list[float]
    ci95: list[float]


def fold_summary(
    task: Task,
    truth_B: Numbers,
    prediction_BC: Numbers,
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Summary]:
    """Compute every metric by fold, its mean and standard deviation, and a 95 % interval.

    Parameters
    ----------
    task : Task
        What is predicted.
    truth_B : float array, shape (B,), or (B, C) for several labels
        What `Task.targets` gives; NaN where the label is missing.
    prediction_BC : float array, shape (B, C)
        Out-of-sample predictions, as for `metrics.score`.
    fold_B : int array, shape (B,)
        The outer fold in which each record was a test record.
    group_B : sequence of str, length B
        The group of every record.
    n_resamples : int
        Bootstrap resamples.
    seed : int
        Seed of the resampling. Predictors judged on the same records with the same seed see the
        same resamples.

    Returns
    -------
    dict of str to Summary
        ``{metric: {"mean", "std", "folds", "ci95"}}``: the metrics that apply in every fold.
        ``folds`` in ascending order of fold; ``mean`` is their plain mean; ``std`` their sample
        standard deviation (ddof 1; 0 for a single fold); ``ci95`` the 2.5th and 97.5th percentile
        of the mean over resamples (percentile bootstrap, Efron and Tibshirani 1993, ch. 13).
        Resamples to which a metric does not apply, such as ``auroc`` where one class was drawn
        alone, are left out of its percentiles. Resampled ``ece`` is biased upwards and is
        centred on ``mean`` first. The order of records changes nothing.

    Raises
    ------
    JobFailed, ValueError
        As for `metrics.score`.
    """
    by_fold, means = _over_folds(
        task, truth_B, prediction_BC, fold_B, group_B, n_resamples=n_resamples, seed=seed
    )
    summaries: dict[str, Summary] = {}
    for metric in by_fold[0] if by_fold else ():
        folds = [scores[metric] for scores in by_fold if metric in scores]
        means_R = means[metric][~np.isnan(means[metric])]
        if len(folds) < len(by_fold) or not means_R.size:
            continue
        if metric == "ece":
            # A sum of absolute values: noise only adds to it, and drawing adds as much noise
            # again, so resamples lie above what they were drawn from. Their spread is of use.
            means_R = np.maximum(means_R - means_R.mean() + np.mean(folds), 0.0)
        low, high = np.percentile(means_R, [2.5, 97.5])
        summaries[metric] = {
            "mean": float(np.mean(folds)),
            "std": float(np.std(folds, ddof=1)) if len(folds) > 1 else 0.0,
            "folds": folds,
            "ci95": [float(low), float(high)],
        }
    return summaries


def paired_difference(
    task: Task,
    metric: str,
    truth_B: Numbers,
    ours_BC: Numbers,
    theirs_BC: Numbers,
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Summary | None:
    """Compute how a metric differs between two predictors, on the same records and resamples.

    Parameters
    ----------
    metric : str
        One of `metrics.score`'s.
    ours_BC, theirs_BC : float arrays, shape (B, C)
        The two predictors' out-of-sample predictions.

    Other parameters are as for `fold_summary`.

    Returns
    -------
    Summary or None
        Of ours − theirs; None where the metric does not apply to both in every fold.
    """
    both = [
        _over_folds(task, truth_B, one, fold_B, group_B, n_resamples=n_resamples, seed=seed)
        for one in (ours_BC, theirs_BC)
    ]
    if any(not by_fold or any(metric not in s for s in by_fold) for by_fold, _ in both):
        return None
    (our_folds, our_R), (their_folds, their_R) = both
    folds = [
        ours[metric] - theirs[metric] for ours, theirs in zip(our_folds, their_folds, strict=True)
    ]
    difference_R = our_R[metric] - their_R[metric]
    difference_R = difference_R[~np.isnan(difference_R)]
    if not difference_R.size:
        return None
    low, high = np.percentile(difference_R, [2.5, 97.5])
    return {
        "mean": float(np.mean(folds)),
        "std": float(np.std(folds, ddof=1)) if len(folds) > 1 else 0.0,
        "folds": folds,
        "ci95": [float(low), float(high)],
    }


def _over_folds(
    task: Task,
    truth_B: Numbers,
    prediction_BC: Numbers,
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    *,
    n_resamples: int,
    seed: int,
) -> tuple[list[dict[str, float]], dict[str, Floats]]:
    """Return each fold's metrics, and every resample's mean over folds, shape (R,) per metric.

    Nothing where some fold has no label: then no metric applies in every fold.
    """
    truth_B, prediction_BC = np.asarray(truth_B), np.asarray(prediction_BC)
    fold_B, name_B = np.asarray(fold_B), np.asarray(group_B, dtype=str)
    labelled(task, truth_B, prediction_BC)
    # One order of records, whichever they came in: sums of floats depend on it in the last bit.
    order = np.lexsort((*prediction_BC.T, *np.atleast_2d(truth_B.T), name_B))
    by_fold: list[dict[str, float]] = []
    total: dict[str, Floats] = {}
    for place, fold in enumerate(np.unique(fold_B)):
        rows = order[(fold_B[order] == fold) & known(truth_B)[order]]
        by_fold.append(score(task, truth_B[rows], prediction_BC[rows]))
        if not by_fold[-1]:
            return [], {}
        drawn = _resampled(
            task,
            *labelled(task, truth_B[rows], prediction_BC[rows]),
            name_B[rows],
            n_resamples,
            np.random.default_rng([seed, place]),
        )
        total = {m: total[m] + drawn[m] if place else drawn[m] for m in drawn}
    return by_fold, {metric: values / len(by_fold) for metric, values in total.items()}


def _resampled(
    task: Task,
    truth_B: Floats,
    prediction_BC: Floats,
    name_B: npt.NDArray[np.str_],
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Return every metric of every resample of one fold, NaN where it does not apply."""
    names, group_B = np.unique(name_B, return_inverse=True)
    parts = [
        weighted_scores(task, truth_B, prediction_BC, times_GR[group_B])
        for times_GR in _draws(names.size, truth_B.size, n_resamples, rng)
    ]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _draws(
    n_groups: int, n_records: int, n_resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """Yield how often each group is drawn in each of a few resamples, shape (n_groups, R)."""
    at_once = max(1, _CELLS_AT_ONCE // n_records)
    for start in range(0, n_resamples, at_once):
        n = min(at_once, n_resamples - start)
        drawn = rng.integers(n_groups, size=(n, n_groups)) * n + np.arange(n)[:, None]
        times = np.bincount(drawn.ravel(), minlength=n_groups * n)
        yield times.reshape(n_groups, n).astype(np.float64)
