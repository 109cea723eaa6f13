"""Ways to combine predictions that need no gate, and the selection of the best trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from enecg.tasks import Task, known

Array = npt.NDArray[np.float32]
Targets = npt.NDArray[np.float64]


def uniform(outputs_BEC: Array) -> Array:
    """Return the plain mean over experts, shape (B, C)."""
    mean: Array = outputs_BEC.mean(1)
    return mean


def stacking_weights(task: Task, outputs_BEC: Array, target_B: Targets) -> npt.NDArray[np.float64]:
    """Fit one non-negative weight per expert by least squares (Breiman 1996: stacked regressions).

    Parameters
    ----------
    task : Task
    outputs_BEC : array, shape (B, E, C)
        Out-of-fold outputs for training records.
    target_B : array, shape (B,), or (B, C) for several labels
        NaN where missing.

    Returns
    -------
    float64 array, shape (E,)
        They sum to 1; all equal where the outputs explain nothing.
    """
    labelled = known(target_B)
    outputs_BEC, target_B = outputs_BEC[labelled].astype(np.float64), target_B[labelled]
    if task.kind == "regression":
        wanted_BC = target_B[:, None]
    elif task.kind == "multilabel":
        wanted_BC = target_B
    else:
        wanted_BC = np.eye(task.width)[target_B.astype(int)]
    # The weights are to sum to 1: a heavy extra equation says so, in units of the target.
    design = outputs_BEC.transpose(0, 2, 1).reshape(-1, outputs_BEC.shape[1])
    heavy = 1e3 * max(float(np.linalg.norm(wanted_BC)), 1.0)
    design = np.vstack([design, np.full((1, design.shape[1]), heavy)])
    weights, _ = nnls(design, np.append(wanted_BC.reshape(-1), heavy))
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


def mix(outputs_BEC: Array, weights_E: npt.NDArray[np.floating]) -> Array:
    """Return the weighted sum over experts, shape (B, C)."""
    mixed: Array = np.einsum("bec,e->bc", outputs_BEC, weights_E).astype(np.float32)
    return mixed


def dummy(task: Task, target_B: Targets, n: int) -> Array:
    """Predict the training mean, or the training share of each class, for ``n`` records: (n, C).

    The most frequent class then has the largest probability: the majority predictor.
    """
    target_B = target_B[known(target_B)]
    if task.kind == "classification":
        answer = np.bincount(target_B.astype(int), minlength=task.width) / len(target_B)
    else:
        answer = np.atleast_1d(target_B.mean(0))
    return np.repeat(answer[None].astype(np.float32), n, axis=0)


def greedy_selection(
    task: Task, predictions: Sequence[Array], target_B: Targets, size: int
) -> Counter[int]:
    """Select members with replacement, each the one that lowers the loss of the mean the most.

    Caruana et al. 2004, "Ensemble selection from libraries of models". Ties go to the first.

    Parameters
    ----------
    task : Task
    predictions : sequence of arrays, shape (B, C)
        The candidates' out-of-fold predictions for training records.
    target_B : array, shape (B,)
    size : int
        Number of draws.

    Returns
    -------
    Counter
        Candidate number → how often it was drawn.
    """
    chosen: Counter[int] = Counter()
    total = np.zeros_like(predictions[0], dtype=np.float64)
    for drawn in range(1, size + 1):
        losses = [task.loss(target_B, (total + one) / drawn) for one in predictions]
        best = int(np.argmin(losses))
        chosen[best] += 1
        total += predictions[best]
    return chosen
