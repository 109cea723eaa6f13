"""Decision thresholds: from probabilities to one answer, for a declared aim.

The most probable class is a poor answer where a class is rare: its probability seldom passes one
half, so it is never answered. A threshold per class is chosen on out-of-fold predictions of the
training groups, kept in the bundle and judged on the test folds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logit

from enecg.errors import brief
from enecg.tasks import SEPARATOR, Task, known

Floats = npt.NDArray[np.floating]

AIMS = {
    "f1": "the mean F1 of the class and of the rest",
    "youden": "sensitivity + specificity − 1 (Youden, Cancer 1950)",
    "specificity=0.9": "the highest sensitivity at this specificity or a higher one",
    "sensitivity=0.9": "the highest specificity at this sensitivity or a higher one",
    "cost=5": "the lowest cost, where a missed case costs as much as 5 false alarms",
    "argmax": "no threshold: the most probable class",
}
"""Aims by the form they are written in."""

_WITH_NUMBER = re.compile(r"(specificity|sensitivity|cost)=([0-9]*\.?[0-9]+)")
_EDGE = 1e-12
_TIE = 1e-12


@dataclass(frozen=True)
class Aim:
    """What a threshold is chosen for.

    Attributes
    ----------
    kind : str
        The name in `AIMS`, without its number.
    number : float
        A share for ``specificity`` and ``sensitivity``, a ratio of costs for ``cost``; else 0.
    """

    kind: str
    number: float = 0.0

    @classmethod
    def read(cls, text: str) -> Aim:
        """Return the aim that a text such as ``f1`` or ``specificity=0.9`` names.

        Raises
        ------
        ValueError
            No such aim, or a number that it cannot have.
        """
        if text in ("f1", "youden", "argmax"):
            return cls(text)
        found = _WITH_NUMBER.fullmatch(text)
        if found is None:
            raise ValueError(f"{brief(text)} is no aim; allowed: {', '.join(AIMS)} (any number)")
        kind, number = found[1], float(found[2])
        if kind != "cost" and not 0 < number < 1:
            raise ValueError(f"{text!r}: a {kind} lies between 0 and 1")
        if kind == "cost" and not 0 < number <= 1e6:
            raise ValueError(f"{text!r}: a cost ratio lies between 0 and 1,000,000")
        return cls(kind, number)


def choose_thresholds(
    task: Task, prediction_BC: Floats, target_B: Floats, aim: Aim
) -> tuple[float, ...]:
    """Choose the smallest probability of each class from which on it is answered.

    Parameters
    ----------
    task : Task
        A regression has no thresholds.
    prediction_BC : array, shape (B, C)
        Out-of-fold probabilities of training records; rows with a NaN are left out.
    target_B : array, shape (B,), or (B, C) for several labels
        NaN where missing.
    aim : Aim

    Returns
    -------
    tuple of C floats
        Empty for a regression and for ``argmax``. Of two classes the second one's is chosen and
        the first one's is what is left to 1. A class that no record or every record has gets 0.5.
    """
    if task.kind == "regression" or aim.kind == "argmax":
        return ()
    rows = known(target_B) & ~np.isnan(prediction_BC).any(1)
    prediction_BC, holds_BC = prediction_BC[rows], _holds(task, target_B[rows])
    if task.kind == "classification" and task.width == 2:
        second = _threshold(prediction_BC[:, 1], holds_BC[:, 1], aim)
        return 1 - second, second
    return tuple(
        _threshold(prediction_BC[:, place], holds_BC[:, place], aim) for place in range(task.width)
    )


def answers(task: Task, prediction_BC: Floats, thresholds: tuple[float, ...]) -> npt.NDArray[Any]:
    """Return what is answered by threshold.

    Parameters
    ----------
    prediction_BC : array, shape (B, C), or (R, B, C) for R repeats
        Probabilities, without NaN.
    thresholds : tuple of C floats
        What `choose_thresholds` gave; empty: the most probable class, or each label from 0.5 on.

    Returns
    -------
    int array, shape (B,), or bool array, shape (B, C), for several labels; R of them for repeats
        One class: the one whose log-odds lie furthest above those of its threshold.
    """
    if task.kind == "multilabel":
        return np.asarray(prediction_BC >= (np.array(thresholds) if thresholds else 0.5))
    if not thresholds:
        return np.asarray(prediction_BC.argmax(-1))
    return np.asarray((_log_odds(prediction_BC) - _log_odds(np.array(thresholds))).argmax(-1))


def margins(task: Task, prediction_BC: Floats, thresholds_BC: Floats | None) -> Floats:
    """Return how far each class is above the point from which it is answered, in log-odds.

    Of several labels: the log-odds minus those of the threshold. Of one class per record: that
    difference minus the largest one of the other classes (of two classes, half of it).

    Parameters
    ----------
    prediction_BC : array, shape (B, C), or (R, B, C) for R repeats
        Probabilities, without NaN.
    thresholds_BC : array of the same shape, or None
        What `choose_thresholds` gave for each record's scope; None: no thresholds.

    Returns
    -------
    float64 array of the same shape
        Natural logarithms, no unit; negative where a class is not answered.
    """
    above_BC = _log_odds(prediction_BC)
    if thresholds_BC is not None:
        above_BC = above_BC - _log_odds(thresholds_BC)
    if task.kind == "multilabel":
        return above_BC
    if task.width == 2:  # one class's log-odds are the other's, turned round
        return np.asarray((above_BC - above_BC[..., ::-1]) / 2)
    best_BC = np.sort(above_BC, axis=-1)
    others_BC = np.where(above_BC == best_BC[..., -1:], best_BC[..., -2:-1], best_BC[..., -1:])
    return np.asarray(above_BC - others_BC)


def as_probabilities(task: Task, answers_B: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return answers as certain probabilities, shape (B, C), so that metrics of answers apply."""
    if task.kind == "multilabel":
        return answers_B.astype(np.float32)
    return np.eye(task.width, dtype=np.float32)[answers_B]


def answer_names(
    task: Task, prediction_BC: Floats, thresholds: tuple[float, ...]
) -> npt.NDArray[np.object_]:
    """Return `answers` as class names; several joined by ``;``, None without a prediction."""
    classes = np.array(task.classes, dtype=object)
    lacking_B = np.isnan(prediction_BC).any(1)
    answered = answers(task, np.nan_to_num(prediction_BC), thresholds)
    if task.kind == "multilabel":
        names = np.array([SEPARATOR.join(classes[row]) for row in answered], dtype=object)
    else:
        names = classes[answered]
    names[lacking_B] = None
    return names


def _log_odds(probability: Floats) -> Floats:
    return np.asarray(logit(np.clip(probability.astype(np.float64), _EDGE, 1 - _EDGE)))


def _holds(task: Task, target_B: Floats) -> npt.NDArray[np.bool_]:
    """Return which classes hold, bool (B, C)."""
    if task.kind == "multilabel":
        return np.asarray(target_B > 0.5)
    return np.asarray(target_B.astype(int)[:, None] == np.arange(task.width))


def _threshold(probability_B: Floats, holds_B: npt.NDArray[np.bool_], aim: Aim) -> float:
    """Choose one class's threshold; in the middle of the gap to the next lower probability."""
    positives = int(holds_B.sum())
    negatives = len(holds_B) - positives
    if not positives or not negatives:
        return 0.5
    order = np.argsort(-probability_B.astype(np.float64), kind="stable")
    sorted_B, hits_B = probability_B.astype(np.float64)[order], np.cumsum(holds_B[order])
    # One candidate after each distinct probability: all records down to it are answered "yes".
    last = np.flatnonzero(np.append(np.diff(sorted_B) != 0, True))
    true_K, said_K = hits_B[last].astype(np.int64), last + 1
    # And the candidate that answers "yes" to nobody.
    true_K, said_K = np.append(0, true_K), np.append(0, said_K)
    false_K = said_K - true_K
    gain_K = _gain(aim, true_K, false_K, positives, negatives)
    # Of equally good candidates the one in the middle: at an edge one record more decides.
    equal = np.flatnonzero(gain_K >= gain_K.max() - _TIE)
    best = int(equal[(len(equal) - 1) // 2])
    upper = 1.0 + 2 * _EDGE if best == 0 else sorted_B[last[best - 1]]  # no answer at all: above 1
    lower = 0.0 if best == len(last) else sorted_B[last[best - 1] + 1 if best else 0]
    return float((upper + lower) / 2)


def _gain(
    aim: Aim,
    true_K: npt.NDArray[np.integer],
    false_K: npt.NDArray[np.integer],
    positives: int,
    negatives: int,
) -> npt.NDArray[np.float64]:
    """Return how well each candidate serves an aim; more is better."""
    sensitivity_K, specificity_K = true_K / positives, 1 - false_K / negatives
    if aim.kind == "f1":
        missed_K, rejected_K = positives - true_K, negatives - false_K
        of_class_K = 2 * true_K / (2 * true_K + false_K + missed_K)
        of_rest_K = 2 * rejected_K / np.maximum(2 * rejected_K + false_K + missed_K, 1)
        return np.asarray((of_class_K + of_rest_K) / 2)
    if aim.kind == "youden":
        return np.asarray(sensitivity_K + specificity_K - 1)
    if aim.kind == "cost":
        return np.asarray(-(aim.number * (positives - true_K) + false_K) / (positives + negatives))
    wanted_K, given_K = sensitivity_K, specificity_K
    if aim.kind == "sensitivity":
        wanted_K, given_K = given_K, wanted_K
    # Where the condition holds, the wanted share counts; elsewhere only how near it comes.
    return np.asarray(np.where(given_K >= aim.number - _TIE, 1 + wanted_K, given_K - 1))
