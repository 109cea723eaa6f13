"""The linear head: ridge regression whose strength, and calibration, are chosen by group folds."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from enecg.stage1.heads import Head, balanced, spread, standardised
from enecg.tasks import Task

ALPHAS = torch.logspace(0, 6, 13, dtype=torch.float64)
"""Penalties tried; features are standardised, so they compare with the number of records."""


def fit_ridge(
    f_RD: Tensor, target_R: Tensor, part_R: Tensor, task: Task, balance: bool = False
) -> Head:
    """Fit a linear head on some records.

    The penalty is the one with the least squared error in cross-validation over ``part_R``.
    For classes, one-hot targets are regressed, and the cross-validated scores are turned into
    probabilities by one slope and a bias per class (Platt scaling, Platt 1999, for more classes);
    of several labels, each by a slope and a bias of its own.

    Parameters
    ----------
    f_RD : Tensor, shape (R, D)
        Features of the training records.
    target_R : Tensor, shape (R,), or (R, C) for several labels
        Their targets, none missing.
    part_R : Tensor of int, shape (R,)
        The records' part in the cross-validation; groups must not be split over parts.
    task : Task
        What is predicted.
    balance : bool
        Calibrate as if every class were equally frequent.

    Returns
    -------
    Head
        A head without hidden layers.
    """
    head = Head(f_RD.shape[1], task, hidden=())
    head.scale_targets(target_R)
    mean_D, std_D = f_RD.double().mean(0), spread(f_RD.double())
    x_RD = standardised(f_RD.double(), mean_D, std_D)
    if task.kind == "regression":
        y_RC = ((target_R.double() - head.target_mean) / head.target_std)[:, None]
    elif task.kind == "multilabel":
        y_RC = target_R.double()
    else:
        y_RC = torch.nn.functional.one_hot(target_R.long(), task.width).double()

    scores_ARC = torch.zeros(len(ALPHAS), *y_RC.shape, dtype=torch.float64)
    for part in part_R.unique():
        inside = part_R == part
        for number, (coef_DC, intercept_C) in enumerate(
            ridge_path(x_RD[~inside], y_RC[~inside], ALPHAS)
        ):
            scores_ARC[number, inside] = x_RD[inside] @ coef_DC + intercept_C
    best = int((scores_ARC - y_RC).square().mean((1, 2)).argmin())

    [(coef_DC, intercept_C)] = ridge_path(x_RD, y_RC, ALPHAS[best : best + 1])
    if task.kind == "classification":
        slope, bias_C = calibrate(scores_ARC[best].numpy(), target_R.long().numpy(), balance)
        coef_DC, intercept_C = coef_DC * slope, intercept_C * slope + torch.from_numpy(bias_C)
    if task.kind == "multilabel":
        slope_C, bias_C = calibrate_labels(scores_ARC[best].numpy(), target_R.numpy(), balance)
        coef_DC = coef_DC * torch.from_numpy(slope_C)
        intercept_C = intercept_C * torch.from_numpy(slope_C) + torch.from_numpy(bias_C)
    linear = cast(nn.Linear, head.layers[0])
    with torch.no_grad():
        head.feature_mean.copy_(mean_D)
        head.feature_std.copy_(std_D)
        linear.weight.copy_(coef_DC.T)
        linear.bias.copy_(intercept_C)
    return head


def ridge_path(x_RD: Tensor, y_RC: Tensor, alphas: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Solve ridge regression with an unpenalised intercept for several penalties.

    Works on the smaller of the two Gram matrices, decomposed once for all penalties.

    Returns
    -------
    list of (Tensor of shape (D, C), Tensor of shape (C,))
        Coefficients and intercept, for each penalty.
    """
    x_mean, y_mean = x_RD.mean(0), y_RC.mean(0)
    x_RD, y_RC = x_RD - x_mean, y_RC - y_mean
    wide = x_RD.shape[0] < x_RD.shape[1]
    values, vectors = torch.linalg.eigh(x_RD @ x_RD.T if wide else x_RD.T @ x_RD)
    projected = vectors.T @ (y_RC if wide else x_RD.T @ y_RC)
    solutions = []
    for alpha in alphas:
        solved = vectors @ (projected / (values.clamp_min(0) + alpha)[:, None])
        coef_DC = x_RD.T @ solved if wide else solved
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
