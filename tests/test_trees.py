"""Boosted trees as a head: as scikit-learn has them, and chosen like the other heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from enecg.stage1.heads import balanced
from enecg.stage1.trees import GROWTH, Trees, fit_trees
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, RHYTHM, Problem, adapt, small_problem


def data(n: int = 300, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Features, and a score that is no linear function of them."""
    random = np.random.default_rng(seed)
    f_RD = random.normal(size=(n, width)).astype(np.float32)
    f_RD[:, 1] = np.round(f_RD[:, 1], 1)  # thresholds between equal values
    return torch.from_numpy(f_RD), f_RD[:, 0] * f_RD[:, 1] + 0.3 * random.normal(size=n)


def test_a_value_is_scikit_learns() -> None:
    f_RD, score_R = data()
    age_R = 50 + 15 * score_R
    trees = fit_trees(f_RD, torch.from_numpy(age_R), AGE)
    reference = HistGradientBoostingRegressor(**GROWTH)
    reference.fit(f_RD.double().numpy(), (age_R - age_R.mean()) / age_R.std())
    new_BD, _ = data(200, seed=1)
    out_BC = trees(new_BD)
    wanted_B = reference.predict(new_BD.double().numpy())
    np.testing.assert_allclose(out_BC[:, 0], wanted_B, atol=1e-6)
    years = wanted_B * age_R.std() + age_R.mean()
    np.testing.assert_allclose(trees.answer(out_BC)[:, 0], years, rtol=1e-6)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("task", [GENDER, RHYTHM], ids=lambda task: task.name)
def test_probabilities_are_scikit_learns(task: Task, balance: bool) -> None:
    f_RD, score_R = data()
    edges = np.quantile(score_R, [0.7, 0.9])[: task.width - 1]
    class_R = np.searchsorted(edges, score_R)
    trees = fit_trees(f_RD, torch.from_numpy(class_R.astype(float)), task, balance)
    weight_C = balanced(torch.from_numpy(class_R), task.width, task.kind)
    weight_R = weight_C[class_R].numpy() if balance else None
    reference = HistGradientBoostingClassifier(**GROWTH)
    reference.fit(f_RD.double().numpy(), class_R, weight_R)
    new_BD, _ = data(200, seed=1)
    answer_BC = trees.answer(trees(new_BD)).numpy()
    wanted_BC = reference.predict_proba(new_BD.double().numpy())
    present = wanted_BC.shape[1]
    share = answer_BC[:, :present].sum(1, keepdims=True)  # absent classes get next to nothing
    np.testing.assert_allclose(answer_BC[:, :present] / share, wanted_BC, atol=1e-6)
    assert answer_BC[:, present:].max(initial=0) < 0.1


def test_of_several_labels_each_has_its_own_trees() -> None:
    f_RD, score_R = data()
    holds_RC = np.stack([score_R > 0, score_R > 0.5, np.ones(len(score_R), dtype=bool)], axis=1)
    trees = fit_trees(f_RD, torch.from_numpy(holds_RC.astype(float)), FINDINGS)
    answer_RC = trees.answer(trees(f_RD)).numpy()
    for label in (0, 1):
        reference = HistGradientBoostingClassifier(**GROWTH)
        reference.fit(f_RD.double().numpy(), holds_RC[:, label])
        wanted_R = reference.predict_proba(f_RD.double().numpy())[:, 1]
        np.testing.assert_allclose(answer_RC[:, label], wanted_R, atol=1e-6)
    assert (answer_RC[:, 2] > 0.99).all()


def test_an_answer_does_not_depend_on_the_batch() -> None:
    f_RD, score_R = data()
    trees = fit_trees(f_RD, torch.from_numpy(score_R), AGE)
    together = trees(f_RD[:9])
    assert torch.equal(torch.cat([trees(f_RD[i : i + 1]) for i in range(9)]), together)


def test_what_is_kept_are_tensors_that_answer_the_same() -> None:
    f_RD, score_R = data()
    trees = fit_trees(f_RD, torch.from_numpy(score_R), AGE)
    again = Trees.of_state({k: v.clone() for k, v in trees.state_dict().items()}, AGE)
    assert torch.equal(again(f_RD), trees(f_RD))


def folded_problem() -> Problem:
    """Age depends on how large a feature is, whatever its sign: no linear head can know it."""
    problem = small_problem(n=400)
    f_ND = problem.features_ND
    age_N = 50 + 12 * np.abs(f_ND[:, 0])
    return Problem(f_ND, problem.nested, [AGE], {"age": age_N.astype(float)})


def kept(outcome: Any) -> dict[str, Any]:
    return {
        key: [value.clone() for value in adapted.models[0].head.state_dict().values()]
        for key, adapted in outcome.adapted.items()
    }


def test_trees_are_chosen_where_they_are_better_and_know_nothing_of_the_test_fold() -> None:
    problem = folded_problem()
    outcome = adapt(problem, heads=["ridge", "trees"])
    for key, choice in outcome.choices.items():
        assert choice["head"] == "trees", key
        assert choice["losses"]["trees"] < 0.8 * choice["losses"]["ridge"]
        assert outcome.adapted[key].head_kind == "trees"
    noisy = adapt(problem.with_noise(problem.nested.test("0")), heads=["ridge", "trees"])
    before, after = kept(outcome)["age/0"], kept(noisy)["age/0"]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    different = zip(kept(outcome)["age/1"], kept(noisy)["age/1"], strict=True)
    assert not all(one.shape == other.shape and torch.equal(one, other) for one, other in different)
