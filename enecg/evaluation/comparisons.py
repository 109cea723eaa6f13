"""Whether the ensemble, and the gate, beat something plainer: paired, with interval and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.intervals import paired_difference
from enecg.evaluation.metrics import LOWER_IS_BETTER, Numbers, main_metric
from enecg.evaluation.wording import Predictors, best
from enecg.tasks import Task, known

COMBINATIONS = ("uniform", "stacking", "absolute_stacking")
"""Combinations with one weight per expert, the same for every record."""


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
    """Compare ``ensemble`` with what is plainer, and ``gate`` with the best plain combination.

    Parameters
    ----------
    predictions : mapping of str to array, shape (B, C), or (R, B, C) for R repeats
        By predictor; NaN where one has no output. Records where both have one are compared.
    predictors : mapping
        Their metrics, of which the main one is compared; the best expert and the best plain
        combination are picked by these, which flatters them slightly.
    experts : sequence of str

    Returns
    -------
    dict
        ``best_expert``, ``uniform``, ``stacking``, ``absolute_stacking`` (the ensemble against
        each) and ``gate`` (the gate against the best of the latter three) → ``against`` (the
        predictor), ``metric``, ``difference`` (a Summary, minus the other) and ``verdict``:
        ``better``, ``worse``, ``the same`` (no prediction differs) or ``no difference shown`` (0
        is in the procedure's interval, or there are too few events for one). One to which the
        metric does not apply, or that has no predictions, is absent.
    """
    metric = main_metric(task)
    against = {
        "best_expert": best(metric, _among(predictors, experts)),
        **{name: name for name in COMBINATIONS},
        "gate": best(metric, _among(predictors, COMBINATIONS)),
    }
    found: dict[str, Any] = {}
    for name, other in against.items():
        our_name = "gate" if name == "gate" else "ensemble"
        if other is None or other not in predictions or our_name not in predictions:
            continue
        both = [np.asarray(predictions[predictor]) for predictor in (our_name, other)]
        lacking = np.isnan(np.concatenate(both, axis=-1)).any(-1)
        rows = ~np.atleast_2d(lacking).any(0)
        ours, theirs = (one[..., rows, :] for one in both)
        truth = np.asarray(truth_B)[rows]
        if not known(truth).any():
            continue
        difference = paired_difference(
            task, metric, truth, ours, theirs, fold_B[..., rows], group_B[rows], seed=seed
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


def _among(predictors: Predictors, names: Sequence[str]) -> Predictors:
    return {name: predictors[name] for name in names if name in predictors}


def verdict_of(metric: str, interval: Sequence[float] | None) -> str:
    """Say what a 95 % interval of ours − theirs, models trained anew, shows, if there is one."""
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return "no difference shown"
    return "better" if (interval[1] < 0.0) == (metric in LOWER_IS_BETTER) else "worse"
