"""All predictors of one task judged: metrics, rates of their answers, prediction intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.events import OF_ANSWERS
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.operating_points import operating_points
from enecg.evaluation.thresholds import answers, as_probabilities, margins
from enecg.evaluation.value_ranges import COVERAGE, coverage_and_width
from enecg.tasks import Task

DEPLOYED = "deployed"


def judge_predictors(
    task: Task,
    truth_N: npt.NDArray[np.floating],
    predictions: Mapping[str, npt.NDArray[Any]],
    answers_N: npt.NDArray[Any] | None,
    half_width_N: npt.NDArray[np.floating],
    fold_N: npt.NDArray[np.integer],
    group_N: Sequence[str] | npt.NDArray[Any],
    *,
    seed: int = 0,
    thresholds_NC: npt.NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """Return what results.json says of a task's predictors.

    Parameters
    ----------
    task : Task
    truth_N : float array, shape (N,), or (N, C) for several labels
    predictions : mapping of str to array, shape (N, C), or (R, N, C) for R repeats
        By predictor; ``deployed`` is one of them.
    answers_N : array or None
        What ``deployed`` answers by threshold, see `thresholds.answers`; None for values. The
        others answer with the most probable class, or each label from 0.5 on. With R repeats it
        has an axis more in front.
    half_width_N : float array, shape (N,), or (R, N)
        Half the width of each prediction interval of ``deployed``; NaN where there is none.
    fold_N, group_N, seed
        As for `intervals.fold_summary`.
    thresholds_NC : float array, shape (N, C), or (R, N, C), optional
        The thresholds that ``deployed`` answers by; where there is none, 0.5 for every class.

    Returns
    -------
    dict
        ``predictors``, and for values ``prediction_interval`` where there are any.
    """
    where = (fold_N, group_N)
    found: dict[str, dict[str, Any]] = {}
    if answers_N is None:
        for name, predicted in predictions.items():
            found[name] = dict(fold_summary(task, truth_N, predicted, *where, seed=seed))
        value_N = predictions[DEPLOYED][..., 0].astype(np.float64)
        covered = coverage_and_width(truth_N, value_N - half_width_N, value_N + half_width_N)
        ranges = {} if covered is None else {"prediction_interval": {"share": COVERAGE, **covered}}
        return {"predictors": found, **ranges}
    for name, predicted in predictions.items():
        deployed = name == DEPLOYED
        margin_NC = margins(task, predicted, thresholds_NC if deployed else None)
        given = answers_N if deployed else answers(task, predicted, ())
        summary = fold_summary(task, truth_N, predicted, *where, seed=seed, margin_BC=margin_NC)
        found[name] = {**summary, **operating_points(task, truth_N, given, *where, margin_NC)}
        if deployed:
            said_NC = as_probabilities(task, answers_N)
            by_threshold = fold_summary(
                task, truth_N, said_NC, *where, seed=seed, margin_BC=margin_NC
            )
            of_answers = [one for one in by_threshold if one in OF_ANSWERS or one == "accuracy"]
            found[name] |= {one: by_threshold[one] for one in of_answers}
    return {"predictors": found}
