"""The gate: its weights, and that stacked gates share nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from enecg.gate.ensemble import GateEnsemble
from enecg.gate.network import SHOWN, Gates, constant_gate, gate_view
from enecg.gate.training import epochs_of
from enecg.signals import LEADS
from enecg.tasks import Task
from gates import EXPERTS, Material, choice, material, tensors, weights
from problems import AGE, FINDINGS, RHYTHM


def in_order(gates: Gates, view_BLT: np.ndarray, names: list[str]) -> np.ndarray:
    """One gate's weights over some experts by name, as an ensemble of it gives them."""
    outputs = np.ones((len(view_BLT), len(names), 1), dtype=np.float32)
    return GateEnsemble([(1, gates.of_unit(0))]).predict(view_BLT, outputs, names, AGE)[1]


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
    weights_BE = in_order(two.train(chosen), given.view_NLT[:50], EXPERTS)
    assert weights_BE.shape == (50, 3)
    assert (weights_BE[:, 1] == 0).all()
    assert (weights_BE >= 0).all()
    np.testing.assert_allclose(weights_BE.sum(-1), 1, rtol=1e-6)
    assert weights_BE.std(0).max() > 0.01, "weights differ from record to record"


def test_the_order_of_names_is_the_order_of_weights() -> None:
    given = material()
    gates = given.train(choice())
    straight = in_order(gates, given.view_NLT[:9], EXPERTS)
    turned = in_order(gates, given.view_NLT[:9], ["c", "other", "a", "b"])
    np.testing.assert_array_equal(turned[:, [2, 3, 0]], straight)
    assert (turned[:, 1] == 0).all()


@pytest.mark.parametrize("depth", [0, 2])
def test_a_gate_starts_as_the_plain_mean(depth: int) -> None:
    given = material()
    gates = given.train(choice(depth=depth, learning_rate=1e-30, epochs=1))
    found = weights(gates, given.view_NLT)
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_without_any_label_a_gate_stays_the_plain_mean(task: Task) -> None:
    given = material(task)
    nothing = replace(given, target_N=np.full_like(given.target_N, np.nan))
    found = weights(nothing.train(choice()), given.view_NLT, task)
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))


EVERYTHING = {
    "encoder": "conv", "joined": "outputs", "weights_per": "class", "top_k": 2, "balance": 0.1,
    "mix": "logits",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        *({"depth": depth, "leads": leads} for depth in (0, 1, 2) for leads in ("II", "all")),
        {"joined": "outputs"},
        {"joined": "outputs", "depth": 0, "top_k": 1},
        {"joined": "features"},
        {"joined": "features", "depth": 0, "encoder": "conv"},
        EVERYTHING,
    ],
    ids=str,
)
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_a_gate_in_a_stack_is_the_gate_trained_alone(task: Task, changes: dict[str, Any]) -> None:
    """Bit for bit: else what a fold learns would depend on which other folds chose its trial."""
    given = material(task, units=5)
    chosen = choice(width=16, **changes)
    stacked = given.train(chosen)
    for number in (0, 3, 4):
        assert_same(stacked.of_unit(number), given.unit(number).train(chosen))


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("what", ["labels", "outputs"])
@pytest.mark.parametrize("value", ["noise", "nan"])
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_records_a_gate_may_not_learn_from_change_nothing(
    task: Task, value: str, what: str, changes: dict[str, Any]
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
    before, after = (one.train(choice(**changes)) for one in (given, changed))
    assert is_finite(after)
    assert_same(before.of_unit(1), after.of_unit(1))
    if what == "labels":  # it did arrive: the other gates, which may see them, have changed
        assert not torch.equal(tensors(before.of_unit(0))[-1], tensors(after.of_unit(0))[-1]) or (
            not torch.equal(tensors(before.of_unit(0))[0], tensors(after.of_unit(0))[0])
        )


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_features_a_gate_may_not_learn_from_change_nothing(value: float) -> None:
    given = material()
    features = given.features_UNEK.copy()
    features[~given.learns_UN] = value
    chosen = choice(joined="features")
    before, after = (one.train(chosen) for one in (given, replace(given, features_UNEK=features)))
    assert is_finite(after)
    assert_same(before, after)
    features[1, given.learns_UN[1] & ~np.isnan(given.target_N)] = 0.0
    other = replace(given, features_UNEK=features).train(chosen)
    assert_same(before.of_unit(0), other.of_unit(0))
    assert not torch.equal(tensors(before.of_unit(1))[0], tensors(other.of_unit(1))[0])


def test_a_gate_learns_which_expert_is_right_where_features_tell() -> None:
    random = np.random.default_rng(2)
    n = 1200
    sign_N, target = random.choice([-1, 1], n), random.normal(50, 10, n)
    right, wrong = (target + random.normal(0, spread, n) for spread in (1, 15))
    upright = sign_N > 0
    outputs = np.stack([np.where(upright, right, wrong), np.where(upright, wrong, right)], axis=1)
    features = random.normal(size=(1, n, 2, SHOWN)).astype(np.float32)
    features[0, :, 0, 3], features[0, :, 1] = sign_N, np.nan
    view, learns = np.zeros((n, 12, 200), dtype=np.float16), np.arange(n) < 900
    given = Material(
        AGE, view, outputs[None, :, :, None].astype(np.float32), target, learns[None], features
    )
    gates = given.train(choice(experts=("a", "b"), joined="features", epochs=30))
    [mixed_BC], [weights_BE] = gates.predict(
        view[~learns], given.outputs_UNEC[:, ~learns], AGE, features[:, ~learns]
    )
    assert np.where(upright[~learns], weights_BE[:, 0], weights_BE[:, 1]).mean() > 0.9
    losses = [AGE.loss(target[~learns], outputs[~learns][:, [expert]]) for expert in (0, 1)]
    assert AGE.loss(target[~learns], mixed_BC) < 0.6 * min(losses)


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
@pytest.mark.parametrize(
    "changes",
    [{"depth": 0}, {"depth": 1}, {"encoder": "conv"}, {"mix": "logits"}, {"weights_per": "class"}],
    ids=str,
)
def test_a_gate_learns_which_expert_is_right_where_a_lead_tells(
    task: Task, changes: dict[str, Any]
) -> None:
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
    none = np.full((1, n, 2, SHOWN), np.nan, dtype=np.float32)
    given = Material(task, view, outputs[None].astype(np.float32), target, learns[None], none)
    settings = {"leads": "limb", "experts": ("a", "b"), "epochs": 30, "weight_decay": 0.01}
    chosen = choice(**settings | changes)
    weights_BE = weights(given.train(chosen), view[~learns], task)[0].numpy()
    picked = np.where(sign_N[~learns] > 0, weights_BE[:, 0], weights_BE[:, 1])
    assert picked.mean() > 0.9
    gated = np.einsum("be,bec->bc", weights_BE, outputs[~learns])
    losses = [task.loss(target[~learns], outputs[~learns][:, expert]) for expert in (0, 1)]
    assert task.loss(target[~learns], gated) < 0.6 * min(losses)


@pytest.mark.parametrize("leads", ["II", "all"])
def test_the_weights_of_a_record_do_not_depend_on_its_batch(leads: str) -> None:
    given = material()
    gates = given.train(choice(leads=leads))
    together = weights(gates, given.view_NLT[:20])
    for row in (0, 7, 19):
        alone = weights(gates, given.view_NLT[row : row + 1])
        torch.testing.assert_close(alone, together[:, row : row + 1], atol=1e-6, rtol=1e-5)


def test_a_gate_sees_only_its_leads() -> None:
    given = material()
    gates = given.train(choice(leads="II+V1"))
    changed = given.view_NLT[:5].copy()
    changed[:, [place for place, lead in enumerate(LEADS) if lead not in ("II", "V1")]] = 9
    assert torch.equal(weights(gates, changed), weights(gates, given.view_NLT[:5]))


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


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["plain", "everything"])
def test_an_expert_without_an_output_gets_no_weight_and_the_others_share(
    task: Task, changes: dict[str, Any]
) -> None:
    given = material(task, units=1)
    lacking = np.random.default_rng(3).random((1, 300, 3)) < 0.3
    outputs = given.outputs_UNEC.copy()
    outputs[lacking] = np.nan
    gates = replace(given, outputs_UNEC=outputs).train(choice(**changes))
    assert is_finite(gates)
    [mixed_NC], [weights_NE] = gates.predict(given.view_NLT, outputs, task)
    nobody_N = lacking[0].all(1)
    assert 0 < nobody_N.sum() < 30
    assert np.isnan(mixed_NC[nobody_N]).all() and np.isfinite(mixed_NC[~nobody_N]).all()
    assert (weights_NE[lacking[0]] == 0).all()
    np.testing.assert_allclose(weights_NE[~nobody_N].sum(1), 1, rtol=1e-5)
    alone_N = (~lacking[0]).sum(1) == 1
    there = outputs[0, alone_N][~lacking[0, alone_N]]
    np.testing.assert_allclose(mixed_NC[alone_N], there, rtol=1e-4, atol=1e-5)


def test_a_constant_gate_gives_the_weights_it_is_told() -> None:
    gate = constant_gate({"a": 3.0, "b": 0.0, "c": 1.0})
    view = material().view_NLT[:4]
    np.testing.assert_allclose(
        in_order(gate, view, EXPERTS), np.tile([0.75, 0, 0.25], (4, 1)), rtol=1e-6
    )
    assert gate.choice.experts == ("a", "c")


def test_each_epoch_is_shown_and_the_last_is_what_training_gives() -> None:
    given = material(units=1)
    what = (given.view_NLT, given.outputs_UNEC, given.target_N, given.learns_UN, AGE, 5)
    seen = [[t.clone() for t in tensors(gates)] for gates in epochs_of(choice(epochs=3), *what)]
    assert len(seen) == 3
    assert not torch.equal(seen[0][0], seen[1][0])
    for mine, theirs in zip(seen[-1], tensors(given.train(choice(epochs=3))), strict=True):
        assert torch.equal(mine, theirs)
    assert len([*epochs_of(choice(epochs=0), *what)]) == 1
