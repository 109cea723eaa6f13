"""Whether the ensemble is better than something plainer: paired, with an interval and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.intervals import paired_difference
from enecg.evaluation.metrics import LOWER_IS_BETTER, Numbers, main_metric
from enecg.evaluation.wording import Predictors, best
from enecg.tasks import Task


def compare(
    task: Task,
    truth_B: Numbers,
    predictions: Mapping[str, npt.NDArray[Any]],
    predictors: Predictors,
    experts: Sequence[str],
    fold_B: npt.NDArray[np.integer],
    group_B: npt.NDArray[Any],
    *,
    seed: int,
) -> dict[str, Any]:
    """Compare ``ensemble`` with the best expert, ``uniform`` and ``stacking``, by the main metric.

    Parameters
    ----------
    predictions : mapping of str to array, shape (B, C), or (R, B, C) for R repeats
        By predictor.
    predictors : mapping
        Their metrics; the best expert is picked by these, which flatters it slightly.
    experts : sequence of str

    Returns
    -------
    dict
        ``best_expert``, ``uniform``, ``stacking`` → ``against`` (the predictor), ``metric``,
        ``difference`` (a Summary of ensemble − the other) and ``verdict``: ``better``, ``worse``,
        ``the same`` (no prediction differs) or ``no difference shown`` (0 is in the procedure's
        interval, or there are too few events for one). One to which the metric does not apply, or
        that has no predictions, is absent.
    """
    metric = main_metric(task)
    against = {
        "best_expert": best(metric, {name: predictors[name] for name in experts}),
        "uniform": "uniform",
        "stacking": "stacking",
    }
    found: dict[str, Any] = {}
    for name, other in against.items():
        if other is None or other not in predictions:
            continue
        ours, theirs = predictions["ensemble"], predictions[other]
        difference = paired_difference(
            task, metric, truth_B, ours, theirs, fold_B, group_B, seed=seed
        )
        if difference is None:
            continue
        verdict = verdict_of(metric, difference.get("ci95"))
        if np.array_equal(ours, theirs):
            verdict = "the same"
        found[name] = {
            "against": other, "metric": metric, "difference": difference, "verdict": verdict
        }  # fmt: skip
    return found


def verdict_of(metric: str, interval: Sequence[float] | None) -> str:
    """Say what a 95 % interval of ours − theirs, models trained anew, shows, if there is one."""
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return "no difference shown"
    return "better" if (interval[1] < 0.0) == (metric in LOWER_IS_BETTER) else "worse"
