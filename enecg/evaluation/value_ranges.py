"""Prediction intervals of values: how far off a single record's prediction may be.

Split residuals of cross-validation (Barber, Candès, Ramdas and Tibshirani, Annals of Statistics
2021, "Predictive inference with the jackknife+"): each training record's error is that of a model
that did not learn from its group, and their quantile is laid around a new record's prediction.
That is their "CV" interval. "CV+" asks every fold's model about the new record; a bundle whose
experts are refitted on all groups has no fold models to ask, so the centre is the bundle's own
prediction. The coverage on test folds is measured and stands in results.json.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt

from enecg.tasks import Task, known

Floats = npt.NDArray[np.floating]

COVERAGE = 0.9
"""The share of records whose label is to lie in the interval."""


def fit_half_width(
    task: Task, prediction_BC: Floats, target_B: Floats, coverage: float = COVERAGE
) -> float | None:
    """Return half the width of the prediction interval, in the task's unit.

    Parameters
    ----------
    task : Task
    prediction_BC : array, shape (B, 1)
        Out-of-fold predictions of training records, calibrated; rows with NaN are left out.
    target_B : array, shape (B,)
        NaN where missing.
    coverage : float
        Share of records to cover.

    Returns
    -------
    float or None
        The ⌈coverage × (n + 1)⌉-th smallest absolute error of n records. None for classes, and
        where n is too small for any finite interval.
    """
    if task.kind != "regression":
        return None
    rows = known(target_B) & ~np.isnan(prediction_BC).any(1)
    error_B = np.sort(np.abs(prediction_BC[rows, 0].astype(np.float64) - target_B[rows]))
    place = ceil(coverage * (len(error_B) + 1))
    return float(error_B[place - 1]) if place <= len(error_B) else None


def coverage_and_width(target_B: Floats, low_B: Floats, high_B: Floats) -> dict[str, float] | None:
    """Return the share of labelled records inside their interval, and the mean width.

    Parameters
    ----------
    target_B : array, shape (B,)
        NaN where missing.
    low_B, high_B : arrays, shape (B,), or (R, B) for R repeats
        NaN where there is no interval.

    Returns
    -------
    dict, or None
        ``coverage``, ``mean_width``, and ``n``, the records they are of. None where no record has
        both a label and an interval.
    """
    low_RB, high_RB = np.atleast_2d(low_B), np.atleast_2d(high_B)
    there_RB = known(target_B) & ~np.isnan(low_RB) & ~np.isnan(high_RB)
    if not there_RB.any():
        return None
    inside_RB = (target_B >= low_RB) & (target_B <= high_RB)
    return {
        "coverage": float(inside_RB[there_RB].mean()),
        "mean_width": float((high_RB[there_RB] - low_RB[there_RB]).mean()),
        "n": int(there_RB.any(axis=0).sum()),
    }
