"""A metric over cross-validation folds: its mean, its spread, and how sure the mean is.

Two intervals answer two questions. ``ci95``: what might the mean have been with other patients of
the same kind, all models trained anew? That is the procedure's quality, which a paper claims.
``ci95_given_models``: what might it have been if the same models had met other test patients? In
both, records of one patient do not count as independent evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from enecg.evaluation.bootstrap import resampled_means
from enecg.evaluation.jackknife import Contributions
from enecg.evaluation.judged import Judged, judge
from enecg.evaluation.metrics import Floats, Numbers
from enecg.evaluation.null_band import null_band
from enecg.evaluation.procedure_interval import difference_interval, metric_interval
from enecg.tasks import Task


class Summary(TypedDict):
    """One metric over folds.

    ``std`` (ddof 1) is absent over one fold. ``ci95`` and ``ci95_given_models`` are absent where
    a fold has fewer than ten events; ``n`` and ``events`` then say so. ``defined_in`` is the number
    of folds that have the metric, where not all do. ``null_band`` comes with ``ece`` alone.
    """

    mean: float
    std: NotRequired[float]
    folds: list[float]
    ci95: NotRequired[list[float]]
    ci95_given_models: NotRequired[list[float]]
    n: NotRequired[int]
    events: NotRequired[int]
    defined_in: NotRequired[int]
    null_band: NotRequired[list[float]]


def fold_summary(
    task: Task,
    truth_B: Numbers,
    prediction_BC: Numbers,
    fold_B: npt.NDArray[np.integer],
    group_B: Sequence[str] | npt.NDArray[Any],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    margin_BC: npt.NDArray[np.floating] | None = None,
) -> dict[str, Summary]:
    """Compute every metric by fold, its mean and standard deviation, and 95 % intervals.

    Parameters
    ----------
    task : Task
        What is predicted.
    truth_B : float array, shape (B,), or (B, C) for several labels
        What `Task.targets` gives; NaN where the label is missing.
    prediction_BC : float array, shape (B, C), or (R, B, C) for R repeats
        Out-of-sample predictions, as for `metrics.score`.
    fold_B : int array, shape (B,), or (R, B)
        The outer fold in which each record was a test record. A single fold is taken for records
        on which a finished model is judged: nothing was trained, so no interval is enlarged.
    group_B : sequence of str, length B
        The group of every record.
    n_resamples : int
        Bootstrap resamples, for the interval given the models.
    seed : int
        Seed of the resampling. Predictors judged on the same records with the same seed see the
        same resamples.
    margin_BC : float array, shape (B, C), or (R, B, C), optional
        What `thresholds.margins` gives. With it, intervals of metrics of answers allow for
        thresholds that shift.

    Returns
    -------
    dict of str to Summary
        By metric, every one that is defined in some fold. ``folds``: its values in ascending
        order of fold, repeat after repeat; ``mean``: their plain mean; ``std``: their sample
        standard deviation. ``ci95``: see `procedure_interval`. ``ci95_given_models``: the 2.5th
        and 97.5th percentile of the mean over resamples of groups within folds (percentile
        bootstrap, Efron and Tibshirani 1993, ch. 13). ``ece``, whose smallest value is a boundary,
        has no interval but a ``null_band`` (see `null_band`). The order of records changes
        nothing.

    Raises
    ------
    JobFailed, ValueError
        As for `metrics.score`.
    """
    judged = judge(task, truth_B, prediction_BC, fold_B, group_B, margin_BC)
    enough = any(judged.enough(metric) for metric in judged.metrics)
    resampled = resampled_means(judged, n_resamples, seed) if enough else {}
    found: dict[str, Summary] = {}
    for metric in judged.metrics:
        summary = _described(judged.values(metric))
        if metric == "ece":
            summary["null_band"] = null_band(judged.confidences(), seed)
        elif judged.enough(metric):
            if (interval := procedure_interval(judged, metric)) is not None:
                summary["ci95"] = interval
                summary["ci95_given_models"] = _percentiles(resampled[metric])
        else:
            summary["n"], summary["events"] = judged.n, judged.events(metric)
        found[metric] = summary
    return found


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
        One of `metrics.score`'s, but not ``ece``.
    ours_BC, theirs_BC : float arrays, shape (B, C), or (R, B, C)
        The two predictors' out-of-sample predictions.

    Other parameters are as for `fold_summary`.

    Returns
    -------
    Summary or None
        Of ours − theirs, in the folds where both have the metric; None where none has.
    """
    ours, theirs = (judge(task, truth_B, one, fold_B, group_B) for one in (ours_BC, theirs_BC))
    difference_RK = ours.values(metric) - theirs.values(metric)
    if np.isnan(difference_RK).all():
        return None
    summary = _described(difference_RK)
    if not (ours.enough(metric) and theirs.enough(metric)):
        summary["n"] = ours.n
        summary["events"] = min(ours.events(metric), theirs.events(metric))
        return summary
    summary["ci95"] = procedure_difference(ours, theirs, metric)
    our_R, their_R = (resampled_means(one, n_resamples, seed)[metric] for one in (ours, theirs))
    summary["ci95_given_models"] = _percentiles(our_R - their_R)
    return summary


def procedure_interval(judged: Judged, metric: str) -> list[float] | None:
    """Return the procedure's 95 % interval of a metric, where there is `Judged.enough`."""
    return metric_interval(
        metric,
        judged.values(metric),
        judged.parts(metric),
        judged.factor,
        judged.least_n,
        judged.moved(metric),
    )


def procedure_difference(ours: Judged, theirs: Judged, metric: str) -> list[float]:
    """Return the procedure's 95 % interval of ours − theirs, where both have `Judged.enough`."""
    pairs = [
        Contributions(our.values - their.values, our.bias - their.bias, our.freedom)
        for our, their in zip(ours.parts(metric), theirs.parts(metric), strict=True)
    ]
    return difference_interval(ours.values(metric) - theirs.values(metric), pairs, ours.factor)


def _described(values_RK: Floats) -> Summary:
    folds = values_RK[~np.isnan(values_RK)].tolist()
    summary: Summary = {"mean": float(np.mean(folds)), "folds": folds}
    if len(folds) > 1:
        summary["std"] = float(np.std(folds, ddof=1))
    if len(folds) < values_RK.size:
        summary["defined_in"] = len(folds)
    return summary


def _percentiles(mean_R: Floats) -> list[float]:
    """Leave out resamples without the metric, such as ``auroc`` where one class was drawn."""
    low, high = np.percentile(mean_R[~np.isnan(mean_R)], [2.5, 97.5])
    return [float(low), float(high)]
