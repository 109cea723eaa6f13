"""Ways to combine predictions that need no gate, and the selection of the best trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from enecg.gate.balanced import record_weights
from enecg.tasks import Task, known

Array = npt.NDArray[np.float32]
Targets = npt.NDArray[np.float64]

MOST_ROUNDS = 100
"""Rounds of reweighted least squares at most; they stop once …"""
CONVERGED = 1e-4
"""… no weight changes by more than this."""


def stacking_weights(task: Task, outputs_BEC: Array, target_B: Targets) -> npt.NDArray[np.float64]:
    """Fit one non-negative weight per expert by least squares (Breiman 1996: stacked regressions).

    Parameters
    ----------
    task : Task
    outputs_BEC : array, shape (B, E, C)
        Out-of-fold outputs for training records; one without an output of every expert is left
        out.
    target_B : array, shape (B,), or (B, C) for several labels
        NaN where missing.

    Returns
    -------
    float64 array, shape (E,)
        They sum to 1; all equal where the outputs explain nothing.
    """
    rows = known(target_B) & ~np.isnan(outputs_BEC).any((1, 2))
    outputs_BEC, target_B = outputs_BEC[rows], target_B[rows]
    if task.kind == "regression":
        wanted_BC = target_B[:, None]
    elif task.kind == "multilabel":
        wanted_BC = target_B
    else:
        wanted_BC = np.eye(task.width)[target_B.astype(int)]
    design = outputs_BEC.transpose(0, 2, 1).reshape(-1, outputs_BEC.shape[1]).astype(np.float64)
    weight = record_weights(task, target_B)
    if weight is None:
        return _simplex_least_squares(design, wanted_BC.reshape(-1))
    root_BC = np.broadcast_to(np.sqrt(weight.reshape(len(weight), -1)), wanted_BC.shape)
    root = root_BC.reshape(-1)
    return _simplex_least_squares(design * root[:, None], wanted_BC.reshape(-1) * root)


def absolute_weights(outputs_BEC: Array, target_B: Targets) -> npt.NDArray[np.float64]:
    """Fit one non-negative weight per expert by the least absolute error: a value's own loss.

    As `stacking_weights` otherwise; least squares, repeated, in which a record counts as one over
    its last error (Schlossmacher, JASA 1973). An outlying record then pulls no harder than others.
    """
    rows = known(target_B) & ~np.isnan(outputs_BEC).any((1, 2))
    weights_E = np.full(outputs_BEC.shape[1], 1 / outputs_BEC.shape[1])
    if not rows.any():
        return weights_E
    design = outputs_BEC[rows, :, 0].astype(np.float64)
    wanted_B = target_B[rows]
    for _ in range(MOST_ROUNDS):
        error_B = np.abs(design @ weights_E - wanted_B)
        # Errors below a thousandth of the usual are as good as none, and would weigh endlessly.
        least = 1e-3 * float(error_B.mean())
        if least == 0:
            break
        root_B = np.maximum(error_B, least) ** -0.5
        last_E = weights_E
        weights_E = _simplex_least_squares(design * root_B[:, None], wanted_B * root_B)
        if np.abs(weights_E - last_E).max() < CONVERGED:
            break
    return weights_E


def _simplex_least_squares(
    design: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the weights, not below 0 and of sum 1, with the least squared error."""
    # The weights are to sum to 1: a heavy extra equation says so, in units of the target.
    heavy = 1e3 * max(float(np.linalg.norm(wanted)), 1.0)
    design = np.vstack([design, np.full((1, design.shape[1]), heavy)])
    weights, _ = nnls(design, np.append(wanted, heavy))
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


def mix(outputs_BEC: Array, weights_E: npt.NDArray[np.floating]) -> Array:
    """Return the weighted mean over the experts that have an output, shape (B, C).

    NaN where no expert with a weight has one.
    """
    there_BEC = ~np.isnan(outputs_BEC)
    weights_BEC = there_BEC * weights_E[:, None]
    total_BC = weights_BEC.sum(1)
    mixed_BC = (weights_BEC * np.where(there_BEC, outputs_BEC, 0.0)).sum(1)
    return np.divide(
        mixed_BC, total_BC, out=np.full_like(mixed_BC, np.nan), where=total_BC > 0
    ).astype(np.float32)


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
    task: Task, predictions: Sequence[Array] | Array, target_B: Targets, size: int
) -> Counter[int]:
    """Select members with replacement, each the one that lowers the loss of the mean the most.

    Caruana et al., ICML 2004, "Ensemble selection from libraries of models". Ties go to the first.

    Parameters
    ----------
    task : Task
    predictions : sequence of K arrays, shape (B, C)
        The candidates' out-of-fold predictions for training records.
    target_B : array, shape (B,) or (B, C)
    size : int
        Number of draws.

    Returns
    -------
    Counter
        Candidate number → how often it was drawn.
    """
    rows = known(target_B)
    target_B = target_B[rows]
    predictions_KBC = np.stack([one[rows] for one in predictions]).astype(np.float64)
    chosen: Counter[int] = Counter()
    total_BC = np.zeros(predictions_KBC.shape[1:])
    for drawn in range(1, size + 1):
        losses_K = task.losses(target_B, (total_BC + predictions_KBC) / drawn).mean(-1)
        best = int(np.argmin(losses_K))
        chosen[best] += 1
        total_BC += predictions_KBC[best]
    return chosen


def bagged_selection(
    task: Task,
    predictions: Sequence[Array] | Array,
    target_B: Targets,
    size: int,
    bags: int,
    seed: int,
) -> Counter[int]:
    """Add up several greedy selections, each among a random half of the candidates.

    Bagging keeps a lucky candidate from being in all of them (Caruana et al. 2004, section 2.3).
    One bag is one greedy selection among all candidates.
    """
    if bags == 1:
        return greedy_selection(task, predictions, target_B, size)
    chosen: Counter[int] = Counter()
    for bag in range(bags):
        order = np.random.default_rng([seed, bag]).permutation(len(predictions))
        half = np.sort(order[: (len(predictions) + 1) // 2])
        drawn = greedy_selection(task, [predictions[place] for place in half], target_B, size)
        chosen.update({int(half[place]): count for place, count in drawn.items()})
    return chosen


def best_trials(
    task: Task, predictions: Sequence[Array] | Array, target_B: Targets, size: int
) -> Counter[int]:
    """Return the trials with the least loss, each drawn once."""
    losses = [task.loss(target_B, one) for one in predictions]
    return Counter(dict.fromkeys(np.argsort(losses, kind="stable")[:size].tolist(), 1))


def mean_of(predictions: Sequence[Array] | Array, members: Counter[int]) -> Array:
    """Return the mean of some candidates' predictions, each as often as it was drawn."""
    total = sum(count * predictions[member].astype(np.float64) for member, count in members.items())
    mean: Array = np.asarray(total / members.total(), dtype=np.float32)
    return mean
