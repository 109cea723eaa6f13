"""The gate: its weights, and that stacked gates share nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from enecg.gate.network import Gates, gate_view, train_gates
from enecg.gate.space import GateChoice
from enecg.signals import LEADS
from enecg.tasks import Task
from problems import AGE, FINDINGS, RHYTHM

EXPERTS = ["a", "b", "c"]


def choice(**changes: Any) -> GateChoice:
    return GateChoice.model_validate(
        {
            "leads": "II+V1", "experts": ("a", "b", "c"), "depth": 1, "width": 8, "dropout": 0.2,
            "temperature": 1.0, "learning_rate": 1e-2, "weight_decay": 0.1, "epochs": 2,
        }
        | changes
    )  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What some gates learn from."""

    task: Task
    view_NLT: np.ndarray
    outputs_UNEC: np.ndarray
    target_N: np.ndarray
    learns_UN: np.ndarray

    def train(self, chosen: GateChoice, seed: int = 5) -> Gates:
        torch.set_num_threads(1)
        return train_gates(
            chosen, self.view_NLT, self.outputs_UNEC, self.target_N, self.learns_UN, self.task, seed
        )

    def unit(self, number: int) -> Material:
        part = slice(number, number + 1)
        return replace(self, outputs_UNEC=self.outputs_UNEC[part], learns_UN=self.learns_UN[part])


def material(task: Task = AGE, units: int = 3, n: int = 300) -> Material:
    random = np.random.default_rng(0)
    outputs = random.random((units, n, len(EXPERTS), task.width)).astype(np.float32)
    if task.kind == "classification":
        outputs /= outputs.sum(-1, keepdims=True)
        target = random.integers(0, task.width, n).astype(float)
    elif task.kind == "multilabel":
        target = random.integers(0, 2, (n, task.width)).astype(float)
    else:
        target = random.normal(size=n)
    target[::9] = np.nan
    view = random.normal(size=(n, 12, 200)).astype(np.float16)
    return Material(task, view, outputs, target, random.random((units, n)) < 0.7)


def tensors(gates: Gates) -> list[torch.Tensor]:
    return [tensor for layer in gates.parameters for tensor in layer]


def assert_same(one: Gates, other: Gates) -> None:
    for mine, theirs in zip(tensors(one), tensors(other), strict=True):
        assert torch.equal(mine, theirs)


def is_finite(gates: Gates) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors(gates))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_weights_are_shares_and_experts_not_chosen_get_exactly_none(depth: int) -> None:
    given = material()
    chosen = choice(experts=("c", "a"), depth=depth)
    two = replace(given, outputs_UNEC=given.outputs_UNEC[:, :, [2, 0]])
    weights_UBE = two.train(chosen).weights(given.view_NLT[:50], EXPERTS)
    assert weights_UBE.shape == (3, 50, 3)
    assert (weights_UBE[:, :, 1] == 0).all()
    assert (weights_UBE >= 0).all()
    torch.testing.assert_close(weights_UBE.sum(-1), torch.ones(3, 50))
    assert weights_UBE[0].std(0).max() > 0.01, "weights differ from record to record"


def test_the_order_of_names_is_the_order_of_weights() -> None:
    given = material()
    gates = given.train(choice())
    straight = gates.weights(given.view_NLT[:9], EXPERTS)
    turned = gates.weights(given.view_NLT[:9], ["c", "other", "a", "b"])
    assert torch.equal(turned[..., [2, 3, 0]], straight)
    assert (turned[..., 1] == 0).all()


@pytest.mark.parametrize("depth", [0, 2])
def test_a_gate_starts_as_the_plain_mean(depth: int) -> None:
    given = material()
    gates = given.train(choice(depth=depth, learning_rate=1e-30, epochs=1))
    weights = gates.weights(given.view_NLT, EXPERTS)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_without_any_label_a_gate_stays_the_plain_mean(task: Task) -> None:
    given = material(task)
    nothing = replace(given, target_N=np.full_like(given.target_N, np.nan))
    weights = nothing.train(choice()).weights(given.view_NLT, EXPERTS)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


@pytest.mark.parametrize("leads", ["II", "all"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_a_gate_in_a_stack_is_the_gate_trained_alone(task: Task, depth: int, leads: str) -> None:
    """Bit for bit: else what a fold learns would depend on which other folds chose its trial."""
    given = material(task, units=5)
    chosen = choice(depth=depth, leads=leads, width=16)
    stacked = given.train(chosen)
    for number in (0, 3, 4):
        assert_same(stacked.of_unit(number), given.unit(number).train(chosen))


@pytest.mark.parametrize("what", ["labels", "outputs"])
@pytest.mark.parametrize("value", ["noise", "nan"])
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_records_a_gate_may_not_learn_from_change_nothing(
    task: Task, value: str, what: str
) -> None:
    given = material(task)
    if what == "labels":
        hidden_N = ~given.learns_UN[1]
        target = given.target_N.copy()
        noise = np.random.default_rng(1).integers(0, max(2, task.width), hidden_N.sum())
        if task.kind == "multilabel":
            noise = np.random.default_rng(1).integers(0, 2, (hidden_N.sum(), task.width))
        target[hidden_N] = np.nan if value == "nan" else noise
        changed = replace(given, target_N=target)
    else:
        outputs = given.outputs_UNEC.copy()
        outputs[~given.learns_UN] = np.nan if value == "nan" else 0.123
        changed = replace(given, outputs_UNEC=outputs)
    before, after = given.train(choice()), changed.train(choice())
    assert is_finite(after)
    assert_same(before.of_unit(1), after.of_unit(1))
    if what == "labels":  # it did arrive: the other gates, which may see them, have changed
        assert not torch.equal(tensors(before.of_unit(0))[0], tensors(after.of_unit(0))[0])


def test_outputs_for_records_without_a_label_change_nothing() -> None:
    given = material()
    outputs = given.outputs_UNEC.copy()
    outputs[:, np.isnan(given.target_N)] = np.nan
    assert_same(given.train(choice()), replace(given, outputs_UNEC=outputs).train(choice()))


def test_the_seed_gives_the_numbers() -> None:
    given = material()
    assert_same(given.train(choice()), given.train(choice()))
    other = given.train(choice(), seed=6)
    assert not torch.equal(tensors(other)[0], tensors(given.train(choice()))[0])


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
@pytest.mark.parametrize("depth", [0, 1])
def test_a_gate_learns_which_expert_is_right_where_a_lead_tells(task: Task, depth: int) -> None:
    random = np.random.default_rng(2)
    n = 1200
    sign_N = random.choice([-1, 1], n)
    view = (0.1 * random.normal(size=(n, 12, 200))).astype(np.float16)
    view[:, LEADS.index("II")] += (0.5 * sign_N[:, None]).astype(np.float16)
    classes_N = random.integers(0, task.width, n)
    if task.kind == "classification":
        target = classes_N.astype(float)
        right, wrong = (
            np.eye(task.width)[(classes_N + shift) % task.width] * 0.9 + 0.025 for shift in (0, 1)
        )
    elif task.kind == "multilabel":
        target = random.integers(0, 2, (n, task.width)).astype(float)
        right, wrong = (np.abs(target - shift) * 0.95 + 0.025 for shift in (0, 1))
    else:
        target = random.normal(50, 10, n)
        right, wrong = (target + random.normal(0, spread, n) for spread in (1, 15))
        right, wrong = right[:, None], wrong[:, None]
    upright = (sign_N > 0)[:, None]
    outputs = np.stack([np.where(upright, right, wrong), np.where(upright, wrong, right)], axis=1)
    learns = np.arange(n) < 900
    given = Material(task, view, outputs[None].astype(np.float32), target, learns[None])
    chosen = choice(leads="limb", experts=("a", "b"), depth=depth, epochs=10, weight_decay=0.01)
    weights_BE = given.train(chosen).weights(view[~learns], ["a", "b"])[0].numpy()
    picked = np.where(sign_N[~learns] > 0, weights_BE[:, 0], weights_BE[:, 1])
    assert picked.mean() > 0.9
    gated = np.einsum("be,bec->bc", weights_BE, outputs[~learns])
    losses = [task.loss(target[~learns], outputs[~learns][:, expert]) for expert in (0, 1)]
    assert task.loss(target[~learns], gated) < 0.6 * min(losses)


@pytest.mark.parametrize("leads", ["II", "all"])
def test_the_weights_of_a_record_do_not_depend_on_its_batch(leads: str) -> None:
    given = material()
    gates = given.train(choice(leads=leads))
    together = gates.weights(given.view_NLT[:20], EXPERTS)
    for row in (0, 7, 19):
        alone = gates.weights(given.view_NLT[row : row + 1], EXPERTS)
        torch.testing.assert_close(alone, together[:, row : row + 1], atol=1e-6, rtol=1e-5)


def test_a_gate_sees_only_its_leads() -> None:
    given = material()
    gates = given.train(choice(leads="II+V1"))
    changed = given.view_NLT[:5].copy()
    changed[:, [place for place, lead in enumerate(LEADS) if lead not in ("II", "V1")]] = 9
    assert torch.equal(gates.weights(changed, EXPERTS), gates.weights(given.view_NLT[:5], EXPERTS))


def test_a_view_is_finite_limited_and_keeps_slow_waves() -> None:
    time = np.arange(5000) / 500
    x_BLT = np.tile(np.sin(2 * np.pi * time).astype(np.float32), (4, 12, 1))
    x_BLT[1] = np.nan
    x_BLT[2, :6] = np.nan
    x_BLT[3] *= 1000
    view = gate_view(x_BLT)
    assert view.shape == (4, 12, 200)
    assert view.dtype == np.float16
    assert np.isfinite(view).all()
    assert (view[1] == 0).all()
    assert (view[2, :6] == 0).all()
    assert np.abs(view).max() == 5
    np.testing.assert_allclose(
        view[0, 3, 10:-10], np.sin(2 * np.pi * time[::25])[10:-10], atol=0.01
    )
    assert (gate_view(x_BLT[2:3]) == view[2:3]).all(), "a record's view is its own"
