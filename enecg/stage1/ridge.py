"""The linear head: ridge regression whose strength, and calibration, are chosen by group folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from enecg.stage1.heads import Head, balanced, column_parts, standardised
from enecg.tasks import Task

ALPHAS = torch.logspace(0, 6, 13, dtype=torch.float64)
"""Penalties tried; features are standardised, so they compare with the number of records."""
CHUNK = 4096
"""Records in float64 at a time."""


def fit_ridge(
    f_ND: Tensor,
    target_R: Tensor,
    part_R: Tensor,
    task: Task,
    balance: bool = False,
    row_R: Tensor | None = None,
) -> Head:
    """Fit a linear head on some records.

    The penalty is the one with the least squared error in cross-validation over ``part_R``.
    For classes, one-hot targets are regressed, and the cross-validated scores are turned into
    probabilities by one slope and a bias per class (Platt scaling, Platt 1999, for more classes);
    of several labels, each by a slope and a bias of its own.

    Parameters
    ----------
    f_ND : Tensor, shape (N, D)
        Features; they may be on disk, and only some are taken from there at a time.
    target_R : Tensor, shape (R,), or (R, C) for several labels
        The training records' targets, none missing.
    part_R : Tensor of int, shape (R,)
        Their part in the cross-validation; groups must not be split over parts.
    task : Task
        What is predicted.
    balance : bool
        Calibrate as if every class were equally frequent.
    row_R : Tensor of int, shape (R,), optional
        Their rows in ``f_ND``; by default it has no others.

    Returns
    -------
    Head
        A head without hidden layers.
    """
    if row_R is None:
        row_R = torch.arange(len(f_ND))
    head = Head(f_ND.shape[1], task, hidden=())
    head.scale_targets(target_R)
    mean_D, std_D = _mean_and_spread(f_ND, row_R)
    y_RC = ridge_targets(head, target_R, task)

    def features(places: Tensor) -> Tensor:
        return standardised(f_ND[row_R[places]].double(), mean_D, std_D)

    solver = Wide if len(row_R) <= f_ND.shape[1] else Tall
    data = solver(features, y_RC, part_R)
    scores_ARC = scores_left_out(data, y_RC, part_R, ALPHAS)
    best = int((scores_ARC - y_RC).square().mean((1, 2)).argmin())

    [(coef_DC, intercept_C)] = data.solve(ALPHAS[best : best + 1])
    slope_C, bias_C = answering(scores_ARC[best], target_R, task, balance)
    coef_DC, intercept_C = coef_DC * slope_C, intercept_C * slope_C + bias_C
    linear = cast(nn.Linear, head.layers[0])
    with torch.no_grad():
        head.feature_mean.copy_(mean_D)
        head.feature_std.copy_(std_D)
        linear.weight.copy_(coef_DC.T)
        linear.bias.copy_(intercept_C)
    return head


def ridge_targets(head: Any, target_R: Tensor, task: Task) -> Tensor:
    """Return what is regressed, float64 (R, C): standardised values, or ones where a class holds.

    ``head`` has the target's mean and deviation.
    """
    if task.kind == "regression":
        return ((target_R.double() - head.target_mean) / head.target_std)[:, None]
    if task.kind == "multilabel":
        return target_R.double()
    return torch.nn.functional.one_hot(target_R.long(), task.width).double()


def scores_left_out(data: Wide | Tall, y_RC: Tensor, part_R: Tensor, alphas: Tensor) -> Tensor:
    """Return each record's scores by what was solved without its part, (A, R, C).

    Where there is but one part, nothing is left to solve from: they are 0.
    """
    scores_ARC = torch.zeros(len(alphas), *y_RC.shape, dtype=torch.float64)
    parts = part_R.unique()
    if len(parts) < 2:
        return scores_ARC
    for part in parts:
        solutions = data.solve(alphas, without=int(part))
        for rows in (part_R == part).nonzero()[:, 0].split(CHUNK):
            x_BD = data.features(rows)
            for number, (coef_DC, intercept_C) in enumerate(solutions):
                scores_ARC[number, rows] = x_BD @ coef_DC + intercept_C
    return scores_ARC


def answering(
    scores_RC: Tensor, target_R: Tensor, task: Task, balance: bool
) -> tuple[Tensor, Tensor]:
    """Return the slope and bias per output that turn scores into logits; 1 and 0 for values."""
    slope_C, bias_C = np.ones(task.width), np.zeros(task.width)
    if task.kind == "classification":
        slope, bias_C = calibrate(scores_RC.numpy(), target_R.long().numpy(), balance)
        slope_C *= slope
    if task.kind == "multilabel":
        slope_C, bias_C = calibrate_labels(scores_RC.numpy(), target_R.numpy(), balance)
    return torch.from_numpy(slope_C), torch.from_numpy(bias_C)


def _mean_and_spread(f_ND: Tensor, row_R: Tensor) -> tuple[Tensor, Tensor]:
    """Each feature's mean, and its deviation as `heads.spread` gives it, in float64."""
    parts = column_parts(len(row_R), f_ND.shape[1])
    mean_D = torch.cat([f_ND[:, part][row_R].mean(0, dtype=torch.float64) for part in parts])
    square_D, largest_D = torch.zeros_like(mean_D), torch.zeros_like(mean_D)
    for rows in row_R.split(CHUNK):
        f_BD = f_ND[rows]
        square_D += (f_BD - mean_D).square().sum(0)
        largest_D = torch.maximum(largest_D, f_BD.double().abs().amax(0))
    deviation_D = (square_D / len(row_R)).sqrt()
    return mean_D, torch.where(deviation_D > 1e-6 * largest_D.clamp_min(1e-6), deviation_D, 1.0)


class Wide:
    """Ridge regression where there are at most as many records as features: all in memory."""

    def __init__(self, features: Callable[[Tensor], Tensor], y_RC: Tensor, part_R: Tensor) -> None:
        self.features, self.y_RC, self.part_R = features, y_RC, part_R
        self.x_RD = features(torch.arange(len(y_RC)))

    def solve(self, alphas: Tensor, without: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """As `ridge_path`, for all records or for those of all parts but one."""
        if without is None:
            return ridge_path(self.x_RD, self.y_RC, alphas)
        learns = self.part_R != without
        return ridge_path(self.x_RD[learns], self.y_RC[learns], alphas)


class Tall:
    """The same from sums over each part's records, met chunk by chunk: memory does not grow."""

    def __init__(self, features: Callable[[Tensor], Tensor], y_RC: Tensor, part_R: Tensor) -> None:
        self.features = features
        self.sums: dict[int, list[Tensor]] = {}
        for part in part_R.unique().tolist():
            for rows in (part_R == part).nonzero()[:, 0].split(CHUNK):
                # A column of ones gives the sums and the count along with the products.
                x_BD = nn.functional.pad(features(rows), (0, 1), value=1.0)
                y_BC = nn.functional.pad(y_RC[rows], (0, 1), value=1.0)
                found = [x_BD.T @ x_BD, x_BD.T @ y_BC]
                known = self.sums.setdefault(part, [torch.zeros_like(each) for each in found])
                for total, each in zip(known, found, strict=True):
                    total += each

    def solve(self, alphas: Tensor, without: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """As `Wide.solve`."""
        xx, xy = (
            sum(sums[which] for part, sums in self.sums.items() if part != without)
            for which in (0, 1)
        )
        assert isinstance(xx, Tensor) and isinstance(xy, Tensor)
        n = xx[-1, -1]
        x_D, y_C = xx[-1, :-1] / n, xy[-1, :-1] / n
        gram_DD = xx[:-1, :-1] - n * torch.outer(x_D, x_D)
        product_DC = xy[:-1, :-1] - n * torch.outer(x_D, y_C)
        values, vectors = torch.linalg.eigh(gram_DD)
        projected = vectors.T @ product_DC
        solutions = []
        for alpha in alphas:
            coef_DC = vectors @ (projected / (values.clamp_min(0) + alpha)[:, None])
            solutions.append((coef_DC, y_C - x_D @ coef_DC))
        return solutions


def ridge_path(x_RD: Tensor, y_RC: Tensor, alphas: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Solve ridge regression with an unpenalised intercept for several penalties.

    Works on the records' Gram matrix, decomposed once for all penalties.

    Returns
    -------
    list of (Tensor of shape (D, C), Tensor of shape (C,))
        Coefficients and intercept, for each penalty.
    """
    x_mean, y_mean = x_RD.mean(0), y_RC.mean(0)
    x_RD, y_RC = x_RD - x_mean, y_RC - y_mean
    values, vectors = torch.linalg.eigh(x_RD @ x_RD.T)
    projected = vectors.T @ y_RC
    solutions = []
    for alpha in alphas:
        solved = vectors @ (projected / (values.clamp_min(0) + alpha)[:, None])
        coef_DC = x_RD.T @ solved
        solutions.append((coef_DC, y_mean - x_mean @ coef_DC))
    return solutions


def calibrate(
    scores_RC: np.ndarray, class_R: np.ndarray, balance: bool = False
) -> tuple[float, np.ndarray]:
    """Find slope and biases whose softmax gives the scores the greatest likelihood.

    With ``balance``, every class counts alike in it.

    A weak penalty keeps the bias of a class finite that has no record here.
    """
    n, width = scores_RC.shape
    onehot_RC = np.eye(width)[class_R]
    weights = balanced(torch.from_numpy(class_R), width, "classification") if balance else None
    weight_R = np.ones(n) if weights is None else weights.numpy()[class_R]

    def loss_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias_C = parameters[0], parameters[1:]
        logits_RC = slope * scores_RC + bias_C
        logits_RC -= logits_RC.max(1, keepdims=True)
        log_norm_R = np.log(np.exp(logits_RC).sum(1))
        residual_RC = weight_R[:, None] * (np.exp(logits_RC - log_norm_R[:, None]) - onehot_RC)
        loss_R = weight_R * (log_norm_R - (logits_RC * onehot_RC).sum(1))
        loss = loss_R.sum() + 0.05 * (bias_C**2).sum()
        gradient = np.concatenate(
            [[(residual_RC * scores_RC).sum()], residual_RC.sum(0) + 0.1 * bias_C]
        )
        return loss / n, gradient / n

    found = minimize(
        loss_and_gradient,
        np.concatenate([[1.0], np.zeros(width)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), *[(None, None)] * width],
    )
    return float(found.x[0]), found.x[1:]


def calibrate_labels(
    scores_RC: np.ndarray, holds_RC: np.ndarray, balance: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each label, the slope and bias whose sigmoid gives its scores the most likelihood.

    Labels are 0 or 1, and each has a column of scores.
    """
    found = [
        # sigmoid(2 a s + b₁ − b₀) is the softmax of (−a s + b₀, a s + b₁).
        calibrate(np.stack([-score_R, score_R], axis=1), holds_R.astype(int), balance)
        for score_R, holds_R in zip(scores_RC.T, holds_RC.T, strict=True)
    ]
    slope_C = np.array([2 * slope for slope, _ in found])
    return slope_C, np.array([bias[1] - bias[0] for _, bias in found])
