"""How good predictions are: the metrics of `results.json`, for one set of records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
)

from enecg.errors import JobFailed
from enecg.tasks import Task, known

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating]

REGRESSION_METRICS = ("mae", "mse", "r2")
CLASSIFICATION_METRICS = ("auroc", "auprc", "f1", "precision", "recall", "accuracy", "ece")
LOWER_IS_BETTER = frozenset({"mae", "mse", "ece"})
ECE_BINS = 15
_SUM_TOLERANCE = 0.02  # class probabilities computed in bfloat16 add up to 1 within this


def main_metric(task: Task) -> str:
    """Return the metric that a task's predictors are compared by.

    ``mae`` for a regression, ``auroc`` for two classes and for several labels, ``f1`` for more
    classes.
    """
    if task.kind == "regression":
        return "mae"
    return "auroc" if task.kind == "multilabel" or len(task.classes) == 2 else "f1"


def score(task: Task, truth_B: Numbers, prediction_BC: Numbers) -> dict[str, float]:
    """Compare predictions with labels.

    Parameters
    ----------
    task : Task
        What is predicted.
    truth_B : float array, shape (B,), or (B, C) for several labels
        What `Task.targets` gives. Records whose label is missing (NaN) are left out.
    prediction_BC : float array, shape (B, C)
        Regression: C = 1, values in the task's unit. Else: probabilities of the declared
        classes, in their order; those of several labels need not sum to 1.

    Returns
    -------
    dict of str to float
        Regression: ``mae``, ``mse``, ``r2``. Classification: ``accuracy``, and ``precision``,
        ``recall``, ``f1`` as means over all *declared* classes (0 where a class is neither present
        nor predicted), with the most probable class as the answer; ``auroc`` and ``auprc``
        (average precision) of the second class where two are declared, else of each class present
        against the rest, averaged; ``ece``, the expected calibration error of the most probable
        class over 15 bins, debiased (`debiased_calibration_error`). Several labels: each label is
        a yes-or-no question, "yes" from 0.5; ``accuracy`` is the share of right answers to all
        of them, ``precision``, ``recall`` and ``f1`` are means over the declared labels,
        ``auroc`` and ``auprc`` over those that some records have and others have not, and
        ``ece`` is over all answers. A metric that does not apply is
        absent: ``r2`` where all labels are equal, ``auroc`` and ``auprc`` where one class alone is
        present, everything where no label is.

    Raises
    ------
    JobFailed
        A prediction is not a finite number.
    ValueError
        Shapes or values that no task's predictions can have.
    """
    truth, prediction = labelled(task, truth_B, prediction_BC)
    if not truth.size:
        return {}
    if task.kind == "regression":
        return _regression(truth, prediction[:, 0])
    top, right = confidences(task, truth, prediction)
    error = float(debiased_calibration_error(top, right[:, None])[0])
    if task.kind == "multilabel":
        return _multilabel(truth > 0.5, prediction) | {"ece": error}
    return _classification(truth.astype(np.int64), prediction) | {"ece": error}


def labelled(task: Task, truth_B: Numbers, prediction_BC: Numbers) -> tuple[Floats, Floats]:
    """Return the records that have a label, in float64, after checking what was handed over.

    Raises
    ------
    JobFailed, ValueError
        As for `score`.
    """
    truth = np.asarray(truth_B, dtype=np.float64)
    prediction = np.asarray(prediction_BC, dtype=np.float64)
    n = len(truth)
    wanted = (n, task.width) if task.kind == "multilabel" else (n,)
    if prediction.shape != (n, task.width) or truth.shape != wanted:
        raise ValueError(
            f"task {task.name}: predictions are of shape {prediction.shape} for labels of shape "
            f"{truth.shape}; expected ({n}, {task.width}) and {wanted}"
        )
    bad = np.flatnonzero(~np.isfinite(prediction).all(axis=1))
    if bad.size:
        raise JobFailed(
            f"task {task.name}: {bad.size} of {n} predictions are not finite numbers, "
            f"the first in row {bad[0]}"
        )
    if np.isinf(truth).any():
        raise ValueError(f"task {task.name}: a label is infinite; a missing one is NaN")
    present = known(truth)
    truth, prediction = truth[present], prediction[present]
    if task.kind == "classification" and truth.size:
        if not np.isin(truth, np.arange(task.width)).all():
            raise ValueError(f"task {task.name}: labels must be class numbers below {task.width}")
        off = np.abs(prediction.sum(axis=1) - 1.0).max()
        if prediction.min() < 0.0 or off > _SUM_TOLERANCE:
            raise ValueError(f"task {task.name}: predictions are not class probabilities")
    if task.kind == "multilabel" and truth.size:
        if not np.isin(truth, (0, 1)).all():
            raise ValueError(f"task {task.name}: labels must be 0 or 1")
        if prediction.min() < 0.0 or prediction.max() > 1.0:
            raise ValueError(f"task {task.name}: predictions are not probabilities")
    return truth, prediction


def confidences(
    task: Task, truth_B: Floats, prediction_BC: Floats
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the probability of each answer and whether it is right, of labelled records.

    The most probable class of each record; of several labels, the answer to every one of them.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B, prediction_BC
        What `labelled` returns.
    """
    if task.kind == "multilabel":
        right_BC = (prediction_BC >= 0.5) == (truth_B > 0.5)
        return np.maximum(prediction_BC, 1.0 - prediction_BC).ravel(), right_BC.ravel()
    return prediction_BC.max(axis=1), prediction_BC.argmax(axis=1) == truth_B


def confidence_bin(top_B: Floats) -> npt.NDArray[np.int64]:
    """Return which of the `ECE_BINS` equal bins (a, b] of (0, 1] each top probability is in."""
    return np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, top_B, side="left").astype(np.int64)


def debiased_calibration_error(top_B: Floats, right_BR: npt.NDArray[np.bool_]) -> Floats:
    """Return the expected calibration error over 15 bins of equal width, debiased.

    Chance alone makes the plain error of a perfectly calibrated model about 0.09 with 100 records:
    in every bin the share of right answers differs from the mean confidence, and absolute values
    never cancel. Each bin's squared gap between the two, less the variance of the share, estimates
    the true squared gap without bias (Kumar, Liang and Ma, NeurIPS 2019); a negative one counts as
    0. The error is the mean of the gaps over records, on the scale of Guo et al. (ICML 2017).

    Parameters
    ----------
    top_B : float64 array, shape (B,)
        Probability of each answer.
    right_BR : bool array, shape (B, R)
        Whether each answer is right, in R sets of labels.

    Returns
    -------
    float64 array, shape (R,)
        From 0 to 1.
    """
    used, bin_B = np.unique(confidence_bin(top_B), return_inverse=True)
    in_bin_MB = (np.arange(used.size)[:, None] == bin_B).astype(np.float64)
    size_M1 = in_bin_MB.sum(axis=1, keepdims=True)
    share_MR = in_bin_MB @ right_BR / size_M1
    gap_MR = share_MR - (in_bin_MB @ top_B)[:, None] / size_M1
    # One record says nothing of its own variance: there, what the confidence implies.
    implied_M1 = (in_bin_MB @ (top_B * (1.0 - top_B)))[:, None] / size_M1**2
    observed_MR = share_MR * (1.0 - share_MR) / np.maximum(size_M1 - 1.0, 1.0)
    variance_MR = np.where(size_M1 > 1, observed_MR, implied_M1)
    true_gap_MR = np.sqrt(np.maximum(gap_MR**2 - variance_MR, 0.0))
    error_R: Floats = (size_M1 * true_gap_MR).sum(axis=0) / top_B.size
    return error_R


def ranked_classes(n_classes: int) -> range:
    """Return the classes whose ranking counts: the second of two, or every one of more."""
    return range(1, 2) if n_classes == 2 else range(n_classes)


def _regression(truth: Floats, predicted: Floats) -> dict[str, float]:
    scores = {
        "mae": float(mean_absolute_error(truth, predicted)),
        "mse": float(mean_squared_error(truth, predicted)),
    }
    if truth.min() < truth.max():
        scores["r2"] = float(r2_score(truth, predicted))
    return scores


def _classification(truth: npt.NDArray[np.int64], prediction: Floats) -> dict[str, float]:
    n_classes = prediction.shape[1]
    answer = prediction.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, answer, labels=range(n_classes), average="macro", zero_division=0
    )
    scores = {
        "accuracy": float(accuracy_score(truth, answer)),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
    }
    present = np.unique(truth)
    if present.size > 1:
        ranked = [c for c in ranked_classes(n_classes) if c in present]
        for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            scores[name] = float(np.mean([metric(truth == c, prediction[:, c]) for c in ranked]))
    return scores


def _multilabel(truth_BC: npt.NDArray[np.bool_], prediction_BC: Floats) -> dict[str, float]:
    answer_BC = prediction_BC >= 0.5
    right_BC = answer_BC == truth_BC
    hit_C, answered_C, present_C = (
        which_BC.sum(axis=0) for which_BC in (answer_BC & truth_BC, answer_BC, truth_BC)
    )
    scores = {
        "accuracy": float(right_BC.mean()),
        # Nothing to divide by means nothing was hit: 0 of 1 is the 0 that is wanted.
        "precision": float(np.mean(hit_C / np.maximum(answered_C, 1))),
        "recall": float(np.mean(hit_C / np.maximum(present_C, 1))),
        "f1": float(np.mean(2 * hit_C / np.maximum(present_C + answered_C, 1))),
    }
    ranked = [c for c in range(truth_BC.shape[1]) if 0 < truth_BC[:, c].sum() < len(truth_BC)]
    if ranked:
        for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            areas = [metric(truth_BC[:, c], prediction_BC[:, c]) for c in ranked]
            scores[name] = float(np.mean(areas))
    return scores
