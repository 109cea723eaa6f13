"""``class_weights: balanced`` holds in stage 2: gates, stacking, choice and calibration."""

from __future__ import annotations

import numpy as np
import pytest

from enecg.config import Stage1Settings
from enecg.gate.balanced import BalancedTask, record_weights, stage_2_tasks
from enecg.gate.calibration import fit_calibration
from enecg.gate.combine import best_trials, greedy_selection, stacking_weights
from enecg.gate.space import plain_choice
from enecg.gate.training import train_gates
from enecg.tasks import TASKS, Task

BINARY = Task("rare", "classification", classes=("no", "yes"))
SEVERAL = Task("several", "multilabel", classes=("a", "b"))


def balanced(task: Task) -> Task:
    [one] = stage_2_tasks(Stage1Settings(class_weights="balanced"), [task])
    return one


def rare(n: int = 1200) -> np.ndarray:
    """One in ten is ``yes``."""
    return (np.arange(n) % 10 == 0).astype(float)


def two_experts(n: int = 1200) -> np.ndarray:
    """Outputs (N, 2, 2): the first always says ``no``, the second always ``yes``."""
    return np.repeat(np.array([[[0.9, 0.1], [0.1, 0.9]]], dtype=np.float32), n, axis=0)


def test_only_where_the_setting_asks_for_it() -> None:
    tasks = [BINARY, SEVERAL, TASKS["age"]]
    assert stage_2_tasks(Stage1Settings(), tasks) is tasks
    found = stage_2_tasks(Stage1Settings(class_weights="balanced"), tasks)
    assert [isinstance(task, BalancedTask) for task in found] == [True, True, False]
    assert [task.name for task in found] == ["rare", "several", "age"]
    assert record_weights(BINARY, rare()) is None


def test_the_loss_is_the_mean_of_the_classes_own() -> None:
    truth, random = rare(), np.random.default_rng(1)
    stated = random.dirichlet([1, 1], len(truth))
    own = [BINARY.loss(truth[truth == c], stated[truth == c]) for c in (0, 1)]
    assert balanced(BINARY).loss(truth, stated) == pytest.approx(np.mean(own), rel=1e-6)
    both = np.stack([truth, 1 - truth], axis=1)
    several = random.uniform(0.05, 0.95, both.shape)
    one = [Task("x", "multilabel", classes=("x",)).loss(both[rows][:, [c]], several[rows][:, [c]])
           for c in (0, 1) for rows in (truth == 0, truth == 1)]  # fmt: skip
    assert balanced(SEVERAL).loss(both, several) == pytest.approx(np.mean(one), rel=1e-6)
    stacked = np.stack([several, several])
    assert balanced(SEVERAL).losses(both, stacked).shape == (2, len(truth))


def test_stacking_and_choice_do_not_follow_the_common_class() -> None:
    truth, outputs = rare(), two_experts()
    assert stacking_weights(BINARY, outputs, truth)[0] > 0.95
    assert stacking_weights(balanced(BINARY), outputs, truth) == pytest.approx([0.5, 0.5], abs=0.01)
    unsure = np.full((len(truth), 2), 0.5, dtype=np.float32)
    candidates = [outputs[:, 0], unsure]
    assert set(best_trials(BINARY, candidates, truth, 1)) == {0}
    assert set(best_trials(balanced(BINARY), candidates, truth, 1)) == {1}
    assert set(greedy_selection(balanced(BINARY), candidates, truth, 1)) == {1}


def test_a_gate_does_not_follow_the_common_class() -> None:
    truth, outputs = rare(200), two_experts(200)
    choice = plain_choice(("one", "two")).model_copy(
        update={"epochs": 150, "learning_rate": 0.05, "weight_decay": 0.0}
    )
    view = np.zeros((200, 12, 200), dtype=np.float16)
    learns = np.ones((2, 200), dtype=bool)
    learns[1, ::20] = False  # a gate has the weights of what it learns from itself
    shares = {}
    for task in (BINARY, balanced(BINARY)):
        gates = train_gates(choice, view, np.stack([outputs, outputs]), truth, learns, task, 3)
        _, weights = gates.predict(view[:1], np.stack([outputs[:1]] * 2), task)
        shares[type(task)] = weights[:, 0, 0]
    assert (shares[Task] > 0.8).all()
    assert shares[BalancedTask] == pytest.approx([0.5, 0.5], abs=0.05)


def test_calibration_keeps_the_balanced_population() -> None:
    truth, random = rare(4000), np.random.default_rng(2)
    # Calibrated where both classes are equally many: likelihoods of two normals, 1 apart.
    score = random.normal(truth, 1.0)
    yes = 1 / (1 + np.exp(-(score - 0.5)))
    stated, part = np.stack([1 - yes, yes], axis=1).astype(np.float32), np.arange(4000) % 3
    undone = fit_calibration(BINARY, stated, truth, part).apply(stated, BINARY)[:, 1]
    task = balanced(BINARY)
    kept = fit_calibration(task, stated, truth, part).apply(stated, task)[:, 1]
    assert abs(undone.mean() - 0.1) < 0.02
    assert abs(kept.mean() - yes.mean()) < 0.03 and yes.mean() > 0.3
