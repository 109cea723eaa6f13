"""Combining without a gate, and greedy selection, against plain reference computations."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import expit
from sklearn.dummy import DummyClassifier, DummyRegressor

from enecg.gate.combine import (
    absolute_weights,
    bagged_selection,
    best_trials,
    dummy,
    greedy_selection,
    mean_of,
    mix,
    stacking_weights,
)
from enecg.tasks import Task, known
from problems import AGE, FINDINGS, GENDER, RHYTHM


def library(task: Task, n_candidates: int = 5, n: int = 200) -> tuple[list[np.ndarray], np.ndarray]:
    """Candidates that err in ways of their own, and the truth with some of it missing."""
    random = np.random.default_rng(0)
    if task.kind == "regression":
        target = random.normal(50, 10, n)
        found = [target + random.normal(0, 4 + number, n) for number in range(n_candidates)]
        candidates = [one[:, None].astype(np.float32) for one in found]
    elif task.kind == "multilabel":
        target = random.integers(0, 2, (n, task.width)).astype(float)
        candidates = [
            expit(4 * target - 2 + (1 + number) * random.normal(size=target.shape)).astype(
                np.float32
            )
            for number in range(n_candidates)
        ]
    else:
        target = random.integers(0, task.width, n).astype(float)
        logits = [2 * np.eye(task.width)[target.astype(int)] + random.normal(size=(n, task.width))
                  for _ in range(n_candidates)]  # fmt: skip
        candidates = [
            (np.exp(one) / np.exp(one).sum(1, keepdims=True)).astype(np.float32) for one in logits
        ]
    target[::10] = np.nan
    return candidates, target


def loss_of(
    task: Task, candidates: list[np.ndarray], target: np.ndarray, members: list[int]
) -> float:
    return task.loss(target, np.mean([candidates[m].astype(np.float64) for m in members], axis=0))


@pytest.mark.parametrize("task", [AGE, GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_the_first_draw_is_the_best_single_candidate(task: Task) -> None:
    candidates, target = library(task)
    losses = [task.loss(target, one) for one in candidates]
    assert greedy_selection(task, candidates, target, 1) == {int(np.argmin(losses)): 1}


@pytest.mark.parametrize("task", [AGE, GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_every_draw_is_the_one_that_helps_most(task: Task) -> None:
    candidates, target = library(task)
    members: list[int] = []
    for size in range(1, 8):
        losses = [loss_of(task, candidates, target, [*members, n]) for n in range(len(candidates))]
        members.append(int(np.argmin(losses)))
        chosen = greedy_selection(task, candidates, target, size)
        assert sorted(chosen.elements()) == sorted(members)
        assert chosen.total() == size


@pytest.mark.parametrize("task", [AGE, GENDER], ids=lambda task: task.name)
def test_selection_comes_close_to_the_best_ensemble_of_its_size(task: Task) -> None:
    candidates, target = library(task)
    sets = combinations_with_replacement(range(len(candidates)), 3)
    best = min(loss_of(task, candidates, target, list(members)) for members in sets)
    chosen = list(greedy_selection(task, candidates, target, 3).elements())
    assert loss_of(task, candidates, target, chosen) <= 1.05 * best


def test_members_that_err_in_opposite_ways_are_chosen_together() -> None:
    target = np.linspace(20, 80, 50)
    good, high, low = (target[:, None].astype(np.float32) + shift for shift in (4.0, 6.0, -4.5))
    assert greedy_selection(AGE, [good, high, low], target, 2) == {0: 1, 2: 1}


def test_a_candidate_can_be_drawn_again() -> None:
    target = np.linspace(20, 80, 50)
    close, far = (target[:, None].astype(np.float32) + shift for shift in (1.0, 30.0))
    assert greedy_selection(AGE, [far, close], target, 4) == {1: 4}


def test_ties_go_to_the_first() -> None:
    (one, *_), target = library(AGE)
    assert greedy_selection(AGE, [one + 9, one, one.copy(), one.copy()], target, 3) == {1: 3}


def test_predictions_of_unlabelled_records_do_not_matter() -> None:
    candidates, target = library(GENDER)
    before = greedy_selection(GENDER, candidates, target, 4)
    for one in candidates[:2]:
        one[np.isnan(target)] = np.nan
    assert greedy_selection(GENDER, candidates, target, 4) == before


def stacked(candidates: list[np.ndarray]) -> np.ndarray:
    return np.stack(candidates, axis=1)


@pytest.mark.parametrize("task", [AGE, GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_stacking_weights_are_the_constrained_least_squares_solution(task: Task) -> None:
    candidates, target = library(task)
    outputs_BEC = stacked(candidates)
    weights = stacking_weights(task, outputs_BEC, target)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    labelled = known(target)
    wanted = {
        "regression": lambda: target[labelled, None],
        "classification": lambda: np.eye(task.width)[target[labelled].astype(int)],
        "multilabel": lambda: target[labelled],
    }[task.kind]()

    def error(weights_E: np.ndarray) -> float:
        residual = np.einsum("bec,e->bc", outputs_BEC[labelled].astype(float), weights_E) - wanted
        return float((residual**2).mean())

    reference = minimize(
        error, np.full(5, 0.2), bounds=[(0, 1)] * 5, method="SLSQP",
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1}, options={"ftol": 1e-12},
    )  # fmt: skip
    assert error(weights) <= reference.fun + 1e-6
    np.testing.assert_allclose(weights, reference.x, atol=2e-3)


def test_stacking_finds_the_weights_that_made_the_target() -> None:
    random = np.random.default_rng(3)
    outputs_BEC = random.normal(60, 15, (400, 4, 1)).astype(np.float32)
    true_E = np.array([0.5, 0.0, 0.3, 0.2])
    target = np.einsum("bec,e->b", outputs_BEC.astype(float), true_E)
    target[5] = np.nan
    np.testing.assert_allclose(stacking_weights(AGE, outputs_BEC, target), true_E, atol=1e-4)


def test_absolute_weights_have_the_least_absolute_error() -> None:
    """Against the linear programme that says the same."""
    candidates, target = library(AGE)
    target[:30] += 400  # outliers, which squares would follow
    outputs_BEC = stacked(candidates)
    weights_E = absolute_weights(outputs_BEC, target)
    assert (weights_E >= 0).all()
    assert weights_E.sum() == pytest.approx(1, abs=1e-9)
    labelled = known(target)
    given, wanted = outputs_BEC[labelled, :, 0].astype(float), target[labelled]
    n, experts = given.shape
    best = linprog(
        np.r_[np.zeros(experts), np.ones(2 * n)],
        A_eq=np.vstack(
            [np.hstack([given, np.eye(n), -np.eye(n)]), np.r_[np.ones(experts), np.zeros(2 * n)]]
        ),
        b_eq=np.r_[wanted, 1],
    )

    def error(weights: np.ndarray) -> float:
        return float(np.abs(given @ weights - wanted).mean())

    assert error(weights_E) == pytest.approx(best.fun / n, rel=1e-3)
    assert error(weights_E) < error(stacking_weights(AGE, outputs_BEC, target))


def test_absolute_weights_stay_where_the_experts_explain_everything() -> None:
    outputs_BEC = np.random.default_rng(3).normal(60, 15, (400, 2, 1)).astype(np.float32)
    target = outputs_BEC[:, 0, 0].astype(float)
    np.testing.assert_allclose(absolute_weights(outputs_BEC, target), [1, 0], atol=1e-4)


def test_stacking_leaves_out_a_useless_expert() -> None:
    (good, *_), target = library(GENDER)
    noise = np.full_like(good, 0.5)
    noise[:, 0] = np.where(np.nan_to_num(target) == 0, 0.02, 0.98)  # always wrong
    noise[:, 1] = 1 - noise[:, 0]
    weights = stacking_weights(GENDER, stacked([noise, good]), target)
    np.testing.assert_allclose(weights, [0, 1], atol=1e-6)


def test_experts_that_agree_share_a_mix_that_is_their_answer() -> None:
    (one, *_), target = library(AGE)
    outputs_BEC = stacked([one, one, one])
    weights = stacking_weights(AGE, outputs_BEC, target)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(mix(outputs_BEC, weights), one, rtol=1e-5)


def test_mixing_is_a_weighted_sum() -> None:
    outputs_BEC = np.array([[[1.0, 0.0], [0.0, 1.0]]], dtype=np.float32)
    np.testing.assert_allclose(mix(outputs_BEC, np.array([0.25, 0.75])), [[0.25, 0.75]])
    outputs_BEC[0, 0] = np.nan
    np.testing.assert_allclose(mix(outputs_BEC, np.array([0.25, 0.75])), [[0.0, 1.0]])
    assert np.isnan(mix(outputs_BEC, np.array([1.0, 0.0]))).all()


def test_stacking_leaves_out_records_that_lack_an_output() -> None:
    candidates, target = library(AGE)
    outputs_BEC = stacked(candidates)
    fewer = stacking_weights(AGE, outputs_BEC[20:], target[20:])
    outputs_BEC[:20, 1] = np.nan
    np.testing.assert_array_equal(stacking_weights(AGE, outputs_BEC, target), fewer)


def test_bags_draw_among_half_of_the_candidates_and_add_up() -> None:
    candidates, target = library(AGE, n_candidates=9)
    one = bagged_selection(AGE, candidates, target, 4, bags=1, seed=3)
    assert one == greedy_selection(AGE, candidates, target, 4)
    many = bagged_selection(AGE, candidates, target, 4, bags=6, seed=3)
    assert many.total() == 24 and set(many) > set(one)
    assert many == bagged_selection(AGE, candidates, target, 4, bags=6, seed=3)
    mean = mean_of(candidates, many)
    by_hand = np.mean([candidates[m].astype(float) for m in many.elements()], axis=0)
    np.testing.assert_allclose(mean, by_hand, rtol=1e-6)


def test_the_best_trials_are_those_with_the_least_loss() -> None:
    candidates, target = library(AGE)
    losses = [AGE.loss(target, one) for one in candidates]
    assert set(best_trials(AGE, candidates, target, 2)) == set(np.argsort(losses)[:2].tolist())
    assert best_trials(AGE, candidates, target, 99).total() == len(candidates)


def test_the_dummy_is_scikit_learns() -> None:
    nothing = np.zeros((200, 1))
    _, age = library(AGE)
    rows = known(age)
    mean = DummyRegressor().fit(nothing[rows], age[rows]).predict(nothing[:7])
    np.testing.assert_allclose(dummy(AGE, age, 7)[:, 0], mean, rtol=1e-6)
    _, rhythm = library(RHYTHM)
    rhythm[rhythm == 2] = np.nan  # a declared class that nobody has
    rows = known(rhythm)
    prior = DummyClassifier(strategy="prior").fit(nothing[rows], rhythm[rows])
    answer = dummy(RHYTHM, rhythm, 7)
    assert answer.shape == (7, 4)
    np.testing.assert_allclose(answer[:, [0, 1, 3]], prior.predict_proba(nothing[:7]), rtol=1e-6)
    assert (answer[:, 2] == 0).all()
    assert (answer.argmax(1) == prior.predict(nothing[:7])).all()
    _, findings = library(FINDINGS)
    shares = dummy(FINDINGS, findings, 7)
    np.testing.assert_allclose(shares, np.tile(np.nanmean(findings, 0), (7, 1)), rtol=1e-6)
