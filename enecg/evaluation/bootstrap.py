"""The bootstrap over groups: what other test patients would change, the models being given."""

from __future__ import annotations

import numpy as np

from enecg.evaluation.judged import Judged
from enecg.evaluation.metrics import Floats
from enecg.evaluation.weighted_metrics import CELLS_AT_ONCE, weighted_scores


def resampled_means(judged: Judged, n_resamples: int, seed: int) -> dict[str, Floats]:
    """Return every metric's mean over folds in every resample.

    Within each fold whole groups are drawn with replacement. In further repeats, whose folds are
    others, a group counts as often as it was drawn in the first one's.

    Parameters
    ----------
    judged : Judged
        Every fold has a labelled record.
    n_resamples : int
    seed : int
        The same records and seed give the same resamples, whatever was predicted.

    Returns
    -------
    dict of str to float64 array, shape (n_resamples,)
        NaN where a fold's resample does not have the metric.
    """
    names, group_B = np.unique(judged.group_B, return_inverse=True)
    drawn_from = [np.unique(group_B[rows]) for rows in judged.rows[0]]
    draws = [np.random.default_rng([seed, place]) for place in range(len(drawn_from))]
    at_once = max(1, CELLS_AT_ONCE // max(rows.size for folds in judged.rows for rows in folds))
    chunks: list[dict[str, Floats]] = []
    for start in range(0, n_resamples, at_once):
        n = min(at_once, n_resamples - start)
        times_GR = np.zeros((names.size, n))
        for groups, rng in zip(drawn_from, draws, strict=True):
            drawn = rng.integers(groups.size, size=(n, groups.size)) * n + np.arange(n)[:, None]
            times = np.bincount(drawn.ravel(), minlength=groups.size * n)
            times_GR[groups] = times.reshape(groups.size, n)
        parts = [
            weighted_scores(
                judged.task, judged.truth_B[rows], predicted_BC[rows], times_GR[group_B[rows]]
            )
            for predicted_BC, folds in zip(judged.prediction_RBC, judged.rows, strict=True)
            for rows in folds
        ]
        chunks.append({m: np.mean([part[m] for part in parts], axis=0) for m in parts[0]})
    return {metric: np.concatenate([one[metric] for one in chunks]) for metric in chunks[0]}
