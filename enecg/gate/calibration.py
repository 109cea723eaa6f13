"""Calibration: what a stated value or probability is worth, learned from training groups last."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

from enecg.gate.balanced import record_weights
from enecg.tasks import SMALLEST, Task, known

Floats = npt.NDArray[np.floating]

ENOUGH = 1000
"""Labelled records that an isotonic curve needs, …"""
ENOUGH_OF_EACH = 50
"""… and how many of them on the rarer side."""
ENOUGH_VALUES = 50
"""Labelled records that a line needs."""


@dataclass(frozen=True)
class Calibration:
    """A map from stated to calibrated probabilities or values.

    Attributes
    ----------
    kind : {"none", "linear", "temperature", "isotonic"}
        linear: values stretched or shrunk, the line with the least absolute error (experts that
        were fitted with a penalty keep too close to the mean). temperature: log-odds divided by
        one number (Guo et al., ICML 2017). isotonic: a rising curve per label, between points
        (Zadrozny and Elkan, KDD 2002); for two classes the curve of the second one.
    temperature : float
    curves : tuple of (stated, calibrated)
        Points of each curve.
    slope, intercept : float
        Of the line; the intercept in the task's unit.
    """

    kind: Literal["none", "linear", "temperature", "isotonic"] = "none"
    temperature: float = 1.0
    curves: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, prediction_BC: Floats, task: Task) -> npt.NDArray[np.float32]:
        """Return calibrated predictions, shape (B, C)."""
        if self.kind == "none":
            return prediction_BC.astype(np.float32)
        if self.kind == "linear":
            return (self.slope * prediction_BC.astype(np.float64) + self.intercept).astype(
                np.float32
            )
        stated = np.clip(prediction_BC.astype(np.float64), SMALLEST, 1 - SMALLEST)
        if self.kind == "isotonic":
            columns = stated.T if task.kind == "multilabel" else stated[:, 1:].T
            mapped = [np.interp(p, *curve) for p, curve in zip(columns, self.curves, strict=True)]
            answer = np.stack(mapped, axis=1)
            if task.kind == "classification":
                answer = np.concatenate([1 - answer, answer], axis=1)
        elif task.kind == "multilabel":
            answer = expit(logit(stated) / self.temperature)
        else:
            answer = stated ** (1 / self.temperature)
            answer /= answer.sum(1, keepdims=True)
        return np.where(np.isnan(prediction_BC), np.nan, answer).astype(np.float32)

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Calibration:
        """Return what `dump` gave."""
        curves = tuple((tuple(stated), tuple(true)) for stated, true in values["curves"])
        line = (float(values["slope"]), float(values["intercept"]))
        return cls(values["kind"], float(values["temperature"]), curves, *line)


UNCHANGED = Calibration()
"""No calibration at all."""


def fit_calibration(
    task: Task, prediction_BC: Floats, target_B: Floats, part_B: npt.NDArray[np.integer]
) -> Calibration:
    """Choose and fit a calibration.

    Each kind is fitted without one part at a time and judged on that part; the one with the least
    loss there is fitted on all. No calibration is one of the kinds.

    Parameters
    ----------
    task : Task
    prediction_BC : array, shape (B, C)
        Out-of-fold predictions for training records.
    target_B : array, shape (B,) or (B, C)
    part_B : int array, shape (B,)
        Parts of the cross-validation; groups must not be split over them.
    """
    rows = known(target_B) & ~np.isnan(prediction_BC).any(1)
    prediction_BC, target_B, part_B = prediction_BC[rows], target_B[rows], part_B[rows]
    parts = np.unique(part_B)
    if len(parts) < 2:
        return UNCHANGED
    if task.kind == "regression":
        kinds = [_none, *([_linear] if len(target_B) >= ENOUGH_VALUES else [])]
    else:
        kinds = [_none, _temperature, *([_isotonic] if _is_enough(task, target_B) else [])]

    def loss(fit: Any) -> float:
        judged = np.zeros(len(target_B))
        for part in parts:
            out = part_B == part
            fitted = fit(task, prediction_BC[~out], target_B[~out])
            judged[out] = task.losses(target_B[out], fitted.apply(prediction_BC[out], task))
        return float(judged.mean())

    calibration: Calibration = min(kinds, key=loss)(task, prediction_BC, target_B)
    return calibration


def _is_enough(task: Task, target_B: Floats) -> bool:
    if task.kind == "classification" and task.width > 2:
        return False
    holds_BC = target_B if task.kind == "multilabel" else target_B[:, None]
    each = np.minimum(holds_BC.sum(0), (1 - holds_BC).sum(0))
    return len(target_B) >= ENOUGH and bool((each >= ENOUGH_OF_EACH).all())


def _none(task: Task, prediction_BC: Floats, target_B: Floats) -> Calibration:
    return UNCHANGED


def _linear(task: Task, prediction_BC: Floats, target_B: Floats) -> Calibration:
    middle, size = float(prediction_BC.mean()), float(prediction_BC.std())

    def line(change_2: Floats) -> Calibration:
        slope = max(0.0, 1 + float(change_2[0]))  # the order of the records stays
        return Calibration(
            "linear", slope=slope, intercept=middle * (1 - slope) + change_2[1] * size
        )

    def loss(change_2: Floats) -> float:
        return task.loss(target_B, line(change_2).apply(prediction_BC, task))

    # Convex; the simplex needs no derivative, which the absolute error has not everywhere.
    found = minimize(loss, np.zeros(2), method="Nelder-Mead")
    return line(found.x)


def _temperature(task: Task, prediction_BC: Floats, target_B: Floats) -> Calibration:
    def loss(log_temperature: float) -> float:
        heated = Calibration("temperature", float(np.exp(log_temperature)))
        return task.loss(target_B, heated.apply(prediction_BC, task))

    found = minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded")
    return Calibration("temperature", float(np.exp(found.x)))


def _isotonic(task: Task, prediction_BC: Floats, target_B: Floats) -> Calibration:
    stated_BC = prediction_BC if task.kind == "multilabel" else prediction_BC[:, 1:]
    holds_BC = target_B if task.kind == "multilabel" else target_B[:, None]
    low, high = 1 / (len(target_B) + 2), 1 - 1 / (len(target_B) + 2)  # never quite certain
    curves = []
    weight = record_weights(task, target_B)
    weight_BC = np.ones_like(holds_BC) if weight is None else weight.reshape(holds_BC.shape)
    for stated_B, holds_B, weight_B in zip(stated_BC.T, holds_BC.T, weight_BC.T, strict=True):
        curve = IsotonicRegression(y_min=low, y_max=high).fit(stated_B, holds_B, weight_B)
        points = (curve.X_thresholds_, curve.y_thresholds_)
        curves.append(tuple(tuple(map(float, values)) for values in points))
    return Calibration("isotonic", 1.0, tuple(curves))  # type: ignore[arg-type]
