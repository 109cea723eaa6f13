"""The metrics of `score`, but for ``ece``, for many resamples at once.

A bootstrap resample is the same records with whole-number weights: how often each was drawn.
Sorting, binning and comparing with labels are the same in every resample, so they are done once,
and the resamples run along the second axis of one array. Axis letter R: resample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from enecg.evaluation.metrics import Floats, ranked_classes
from enecg.tasks import Task

CELLS_AT_ONCE = 300_000
"""Records × resamples worked on together: 2.4 MB an array, near what a processor's cache holds."""


def weighted_scores(
    task: Task, truth_B: Floats, prediction_BC: Floats, weight_BR: Floats
) -> dict[str, Floats]:
    """Compute every metric that has an interval, for every resample.

    Parameters
    ----------
    task : Task
        What is predicted.
    truth_B : float64 array, shape (B,), or (B, C) for several labels
        Labels, none missing (as `metrics.labelled` returns them).
    prediction_BC : float64 array, shape (B, C)
        Predictions, as for `metrics.score`.
    weight_BR : float64 array, shape (B, R)
        How often each record is in each resample; every resample has a record.

    Returns
    -------
    dict of str to float64 array, shape (R,)
        What `metrics.score` gives for the records of each resample; NaN where a metric does not
        apply to it. Without ``ece``, which has no interval.
    """
    if task.kind == "regression":
        return _regression(truth_B, prediction_BC[:, 0], weight_BR)
    if task.kind == "multilabel":
        return _multilabel(truth_B > 0.5, prediction_BC, weight_BR)
    return _classification(truth_B.astype(np.int64), prediction_BC, weight_BR)


def _regression(truth_B: Floats, predicted_B: Floats, weight_BR: Floats) -> dict[str, Floats]:
    error_B = predicted_B - truth_B
    centred_B = truth_B - truth_B.mean()  # keeps the sums of squares small, hence exact
    terms_SB = np.stack([np.abs(error_B), error_B**2, centred_B, centred_B**2])
    # SciPy's product, not NumPy's: threaded BLAS gains nothing on four rows, and its waiting
    # threads made this ten times slower on a busy machine.
    sums_SR = csr_array(terms_SB) @ weight_BR
    mae, mse, mean, mean_square = sums_SR / weight_BR.sum(axis=0)
    drawn_BR = weight_BR > 0
    smallest = np.where(drawn_BR, truth_B[:, None], np.inf).min(axis=0)
    largest = np.where(drawn_BR, truth_B[:, None], -np.inf).max(axis=0)
    return {
        "mae": mae,
        "mse": mse,
        "r2": 1.0 - _ratio(mse, np.where(smallest < largest, mean_square - mean**2, np.nan)),
    }


def _classification(
    truth_B: npt.NDArray[np.int64], prediction_BC: Floats, weight_BR: Floats
) -> dict[str, Floats]:
    n_records, n_classes = prediction_BC.shape
    size_R = weight_BR.sum(axis=0)
    answer_B = prediction_BC.argmax(axis=1)
    cell_B = truth_B * n_classes + answer_B
    confusion_CCR = _sums_by(cell_B, np.ones(n_records), n_classes**2, weight_BR).reshape(
        n_classes, n_classes, -1
    )
    hit_CR = np.einsum("ccr->cr", confusion_CCR)
    present_CR, answered_CR = confusion_CCR.sum(axis=1), confusion_CCR.sum(axis=0)
    scores = {
        "accuracy": hit_CR.sum(axis=0) / size_R,
        "precision": np.nan_to_num(_ratio(hit_CR, answered_CR)).mean(axis=0),
        "recall": np.nan_to_num(_ratio(hit_CR, present_CR)).mean(axis=0),
        "f1": np.nan_to_num(_ratio(2.0 * hit_CR, present_CR + answered_CR)).mean(axis=0),
    }
    auroc, auprc = zip(
        *(
            _ranking(truth_B == number, prediction_BC[:, number], weight_BR)
            for number in ranked_classes(n_classes)
        ),
        strict=True,
    )
    scores["auroc"] = _mean_of_present(np.stack(auroc))
    scores["auprc"] = _mean_of_present(np.stack(auprc))
    return scores


def _multilabel(
    truth_BC: npt.NDArray[np.bool_], prediction_BC: Floats, weight_BR: Floats
) -> dict[str, Floats]:
    answer_BC = prediction_BC >= 0.5
    right_BC = answer_BC == truth_BC
    all_R = weight_BR.sum(axis=0) * truth_BC.shape[1]

    def drawn(which_BC: npt.NDArray[np.bool_]) -> Floats:
        return np.asarray(csr_array(which_BC.T.astype(np.float64)) @ weight_BR)

    hit_CR, answered_CR, present_CR = (
        drawn(which) for which in (answer_BC & truth_BC, answer_BC, truth_BC)
    )
    scores = {
        "accuracy": drawn(right_BC).sum(axis=0) / all_R,
        "precision": np.nan_to_num(_ratio(hit_CR, answered_CR)).mean(axis=0),
        "recall": np.nan_to_num(_ratio(hit_CR, present_CR)).mean(axis=0),
        "f1": np.nan_to_num(_ratio(2.0 * hit_CR, present_CR + answered_CR)).mean(axis=0),
    }
    auroc, auprc = zip(
        *(
            _ranking(truth_B, prediction_B, weight_BR)
            for truth_B, prediction_B in zip(truth_BC.T, prediction_BC.T, strict=True)
        ),
        strict=True,
    )
    scores["auroc"] = _mean_of_present(np.stack(auroc))
    scores["auprc"] = _mean_of_present(np.stack(auprc))
    return scores


def _ranking(
    positive_B: npt.NDArray[np.bool_], score_B: Floats, weight_BR: Floats
) -> tuple[Floats, Floats]:
    """Return the areas under the ROC curve (trapezoids) and the precision-recall curve (steps).

    Both are NaN where a resample holds one side only.
    """
    order = np.argsort(-score_B, kind="stable")
    # Records of equal score cross the threshold together: the curve has one point per run.
    last_of_run = np.append(np.flatnonzero(np.diff(score_B[order])), order.size - 1)
    weight_BR = weight_BR[order]
    above_TR = weight_BR.cumsum(axis=0)[last_of_run]
    weight_BR[~positive_B[order]] = 0.0
    hits_TR = weight_BR.cumsum(axis=0)[last_of_run]
    positives_R = hits_TR[-1]
    negatives_R = above_TR[-1] - positives_R
    one_sided_R = (positives_R == 0) | (negatives_R == 0)

    gained_TR = np.diff(hits_TR, axis=0, prepend=0.0)
    precision_TR = np.divide(hits_TR, above_TR, out=np.zeros_like(hits_TR), where=above_TR > 0)
    step_area_R = np.einsum("tr,tr->r", gained_TR, precision_TR)
    # A positive outranks the negatives that come after its run, and half of those within it.
    false_TR = above_TR - hits_TR
    passed_TR = negatives_R - false_TR + 0.5 * np.diff(false_TR, axis=0, prepend=0.0)
    pairs_R = np.einsum("tr,tr->r", gained_TR, passed_TR)
    auroc = _ratio(pairs_R, np.where(one_sided_R, np.nan, positives_R * negatives_R))
    return auroc, _ratio(step_area_R, np.where(one_sided_R, np.nan, positives_R))


def _sums_by(
    bin_B: npt.NDArray[np.int64], value_B: Floats, n_bins: int, weight_BR: Floats
) -> Floats:
    """Return the weighted sum of values in each bin, shape (n_bins, R)."""
    n_records = bin_B.size
    spread = csr_array((value_B, (bin_B, np.arange(n_records))), shape=(n_bins, n_records))
    return np.asarray(spread @ weight_BR)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Divide, with NaN where the denominator is 0 or NaN."""
    return np.divide(
        numerator,
        denominator,
        out=np.full(np.shape(numerator), np.nan),
        where=np.nan_to_num(denominator) != 0,
    )


def _mean_of_present(value_CR: Floats) -> Floats:
    """Average over the classes to which a metric applies; NaN where it applies to none."""
    return _ratio(np.nansum(value_CR, axis=0), (~np.isnan(value_CR)).sum(axis=0, dtype=np.float64))
