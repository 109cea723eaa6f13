"""Calibration: it mends what is off, leaves alone what is right, and survives a round trip."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from enecg.evaluation.metrics import score
from enecg.gate.calibration import ENOUGH, UNCHANGED, Calibration, fit_calibration
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, RHYTHM


def drawn(task: Task, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities, and labels drawn by them."""
    random = np.random.default_rng(seed)
    if task.kind == "multilabel":
        p_BC = expit(random.normal(0, 1.5, (n, task.width)))
        return p_BC, (random.random(p_BC.shape) < p_BC).astype(float)
    p_BC = softmax(random.normal(0, 1.5, (n, task.width)), axis=1)
    target = (random.random(n)[:, None] > p_BC.cumsum(1)).sum(1)
    return p_BC, target.astype(float)


def parts(n: int) -> np.ndarray:
    return np.arange(n) % 3


def heated(task: Task, p_BC: np.ndarray, temperature: float) -> np.ndarray:
    if task.kind == "multilabel":
        return expit(logit(p_BC) / temperature)
    return softmax(np.log(p_BC) / temperature, axis=1)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
@pytest.mark.parametrize("task", [GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_the_temperature_that_was_put_in_is_taken_out(task: Task, temperature: float) -> None:
    p_BC, target = drawn(task, 900)
    stated = heated(task, p_BC, temperature)
    found = fit_calibration(task, stated, target, parts(900))
    assert found.kind == "temperature"
    assert found.temperature == pytest.approx(1 / temperature, rel=0.25)
    true = found.apply(stated, task)
    np.testing.assert_allclose(true, p_BC, atol=0.08)
    assert score(task, target, true)["ece"] < score(task, target, stated)["ece"]
    if task is GENDER:  # order, and so what ranks by it, stays
        assert score(task, target, true)["auroc"] == pytest.approx(
            score(task, target, stated)["auroc"]
        )


@pytest.mark.parametrize("task", [GENDER, FINDINGS], ids=lambda task: task.name)
def test_with_enough_records_a_bent_curve_is_straightened(task: Task) -> None:
    p_BC, target = drawn(task, 6 * ENOUGH)
    bent = p_BC.copy()
    if task.kind == "multilabel":
        bent = p_BC**3
    else:
        bent[:, 1] = p_BC[:, 1] ** 3
        bent[:, 0] = 1 - bent[:, 1]
    found = fit_calibration(task, bent, target, parts(len(target)))
    assert found.kind == "isotonic"
    true = found.apply(bent, task)
    assert np.abs(true - p_BC).mean() < 0.03
    assert (true > 0).all() and (true < 1).all()
    few = fit_calibration(task, bent[:200], target[:200], parts(200))
    assert few.kind == "temperature"


def test_what_is_calibrated_hardly_changes() -> None:
    p_BC, target = drawn(RHYTHM, 3000)
    found = fit_calibration(RHYTHM, p_BC, target, parts(3000))
    np.testing.assert_allclose(found.apply(p_BC, RHYTHM), p_BC, atol=0.03)


def test_labels_without_prediction_and_predictions_without_label_do_not_matter() -> None:
    p_BC, target = drawn(GENDER, 400)
    stated = heated(GENDER, p_BC, 0.5)
    whole = fit_calibration(GENDER, stated[100:], target[100:], parts(400)[100:])
    stated[:50] = np.nan
    target[50:100] = np.nan
    found = fit_calibration(GENDER, stated, target, parts(400))
    assert found == whole
    assert np.isnan(found.apply(stated, GENDER)[:50]).all()


@pytest.mark.parametrize("slope", [0.6, 1.5])
def test_values_that_were_pulled_to_the_mean_are_stretched_again(slope: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(60, 12, 900)
    stated = (60 + (true - 60) / slope - 4)[:, None]
    target = true + random.laplace(0, 5, 900)
    found = fit_calibration(AGE, stated, target, parts(900))
    assert found.kind == "linear"
    assert found.slope == pytest.approx(slope, abs=0.1)
    np.testing.assert_allclose(found.apply(stated, AGE)[:, 0], true, atol=4)
    assert score(AGE, target, found.apply(stated, AGE))["mae"] < score(AGE, target, stated)["mae"]
    assert np.isnan(found.apply(np.array([[np.nan]]), AGE)).all()


def test_values_that_are_right_stay_as_they_are() -> None:
    random = np.random.default_rng(2)
    true = random.normal(60, 12, 300)
    target = true + random.laplace(0, 8, 300)
    found = fit_calibration(AGE, true[:, None], target, parts(300))
    np.testing.assert_allclose(found.apply(true[:, None], AGE)[:, 0], true, atol=1.5)
    assert found.slope == pytest.approx(1, abs=0.05)
    constant = np.full((300, 1), 60.0)
    of_constant = fit_calibration(AGE, constant, target, parts(300)).apply(constant, AGE)
    assert (np.abs(of_constant - np.median(target)) < 3).all()


def test_a_few_values_are_not_stretched_and_none_are_turned_round() -> None:
    random = np.random.default_rng(4)
    target = random.normal(60, 12, 400)
    away = (120 - target)[:, None]
    assert fit_calibration(AGE, away[:40], target[:40], parts(40)) == UNCHANGED
    assert fit_calibration(AGE, away, target, parts(400)).slope >= 0


def test_one_part_is_too_few() -> None:
    values = np.array([[30.0], [70.0]])
    assert fit_calibration(AGE, values, values[:, 0], np.array([0, 0])) == UNCHANGED
    p_BC, target = drawn(GENDER, 90)
    assert fit_calibration(GENDER, p_BC, target, np.zeros(90, dtype=int)) == UNCHANGED


@pytest.mark.parametrize(
    "calibration",
    [
        UNCHANGED,
        Calibration("temperature", 1.7),
        Calibration("isotonic", 1.0, (((0.1, 0.8), (0.2, 0.9)),)),
        Calibration("linear", slope=1.1, intercept=-3.0),
    ],
    ids=lambda calibration: calibration.kind,
)
def test_it_is_written_as_json_and_read_again(calibration: Calibration) -> None:
    assert Calibration.read(json.loads(json.dumps(calibration.dump()))) == calibration
