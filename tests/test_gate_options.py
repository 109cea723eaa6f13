"""What each option of a gate does: weights and mixes against NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from enecg.gate.network import Gates, leads_of, weigh
from enecg.signals import LEADS
from enecg.tasks import Task, known
from gates import choice, material, tensors, weights
from problems import AGE, FINDINGS, RHYTHM


def test_of_top_k_only_so_many_keep_a_weight() -> None:
    given = material()
    found = weights(given.train(choice(top_k=2, epochs=4)), given.view_NLT)
    assert ((found > 0).sum(-1) == 2).float().mean() > 0.9
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 300))


def test_balance_keeps_all_experts_in_use() -> None:
    given = material(n=600)
    outputs = given.outputs_UNEC.copy()
    outputs[:, :, 0, 0] = np.nan_to_num(given.target_N)  # always right
    best = replace(given, outputs_UNEC=outputs)
    shares = [
        weights(best.train(choice(epochs=15, balance=balance)), given.view_NLT).mean((0, 1))
        for balance in (0.0, 10.0)
    ]
    assert shares[0][0] > 0.7
    assert shares[1].max() - shares[1].min() < 0.1


@pytest.mark.parametrize("task", [RHYTHM, FINDINGS], ids=lambda task: task.name)
@pytest.mark.parametrize("changes", [{"mix": "logits"}, {"weights_per": "class"}], ids=str)
def test_what_is_mixed_is_always_probabilities(task: Task, changes: dict[str, Any]) -> None:
    given = material(task)
    given.outputs_UNEC[:, ::7] = np.eye(task.width)[0]  # quite certain ones, too
    gates = given.train(choice(**changes))
    mixed, _ = gates.predict(given.view_NLT, given.outputs_UNEC, task)
    assert (mixed >= 0).all() and (mixed <= 1).all()
    if task.kind == "classification":
        np.testing.assert_allclose(mixed.sum(-1), 1, rtol=1e-4)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def mixed_by_hand(
    weights_BCE: np.ndarray, outputs_BEC: np.ndarray, mixes: str, task: Task
) -> np.ndarray:
    """What `tune_spaces/gate.yaml` says of ``mix`` and ``weights_per``, in double precision."""
    outputs_BCE = outputs_BEC.astype(float).swapaxes(1, 2)
    if mixes == "probabilities" or task.kind == "regression":
        mixed_BC = (weights_BCE * outputs_BCE).sum(-1)
        whole = task.kind == "classification"
        return mixed_BC / mixed_BC.sum(-1, keepdims=True) if whole else mixed_BC
    if task.kind == "classification":
        return softmax((weights_BCE * np.log(outputs_BCE)).sum(-1))
    return 1 / (1 + np.exp(-(weights_BCE * np.log(outputs_BCE / (1 - outputs_BCE))).sum(-1)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_weights_are_the_softmax_of_logits_over_the_temperature(temperature: float) -> None:
    given = material(units=1)
    trained = given.train(choice(depth=0, epochs=4))
    x_BF = given.view_NLT[:, [LEADS.index("II"), LEADS.index("V1")]].reshape(300, -1)
    layer = {part: trained.parameters[f"dense0/{part}"][0].numpy() for part in ("weight", "bias")}
    logits_BE = x_BF.astype(float) @ layer["weight"] + layer["bias"]
    assert logits_BE.std() > 0.5
    gates = Gates(choice(depth=0, temperature=temperature), trained.parameters)
    [found_BE] = weights(gates, given.view_NLT).numpy()
    np.testing.assert_allclose(found_BE, softmax(logits_BE / temperature), atol=1e-5)


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
@pytest.mark.parametrize("mixes", ["probabilities", "logits"])
@pytest.mark.parametrize("per", ["record", "class"])
def test_what_is_mixed_is_what_weights_outputs_and_settings_say(
    task: Task, mixes: str, per: str
) -> None:
    given = material(task, units=1)
    gates = given.train(choice(mix=mixes, weights_per=per, epochs=4))
    [mixed_BC], [weights_BE] = gates.predict(given.view_NLT, given.outputs_UNEC, task)
    x_BLT = leads_of(given.view_NLT, gates.choice)
    [weights_BCE] = weigh(
        gates.parameters, x_BLT, torch.from_numpy(given.outputs_UNEC), gates.choice
    ).numpy()
    # One set for the record, or for each class one that differs from the others.
    assert weights_BCE.shape == (300, task.width if per == "class" else 1, 3)
    assert weights_BCE.std(0).max() > 0.02
    if weights_BCE.shape[1] > 1:
        assert weights_BCE.std(1).mean() > 0.01
    np.testing.assert_allclose(weights_BCE.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights_BE, weights_BCE.mean(1), atol=1e-6)
    outputs = given.outputs_UNEC[0]
    np.testing.assert_allclose(
        mixed_BC, mixed_by_hand(weights_BCE, outputs, mixes, task), rtol=1e-4, atol=1e-5
    )
    if task.kind != "regression":  # the other way of mixing is another
        other = "logits" if mixes == "probabilities" else "probabilities"
        far = np.abs(mixed_BC - mixed_by_hand(weights_BCE, outputs, other, task))
        assert far.mean() > 0.01 and far.max() > 0.1


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_a_gate_learns_for_the_way_of_mixing_that_it_has_and_values_have_one(task: Task) -> None:
    given = material(task, units=1)
    one, two = (given.train(choice(mix=mixes)) for mixes in ("probabilities", "logits"))
    same = all(torch.equal(*pair) for pair in zip(tensors(one), tensors(two), strict=True))
    assert same == (task.kind == "regression")


@pytest.mark.parametrize("joined", ["nothing", "features", "outputs"])
@pytest.mark.parametrize("changes", [{"depth": 0}, {"depth": 1}, {"encoder": "conv"}], ids=str)
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_weights_follow_the_outputs_of_a_record_where_those_are_joined(
    task: Task, changes: dict[str, Any], joined: str
) -> None:
    given = material(task, units=1)
    gates = given.train(choice(joined=joined, epochs=4, **changes))
    outputs = given.outputs_UNEC.copy()
    outputs[:, :20, 0] = outputs[:, 20:40, 0]
    features = given.features_UNEK if joined == "features" else None
    before_NE, after_NE = (
        gates.predict(given.view_NLT, shown, task, features)[1][0]
        for shown in (given.outputs_UNEC, outputs)
    )
    np.testing.assert_array_equal(after_NE[20:], before_NE[20:])
    if joined == "outputs":
        assert np.abs(after_NE[:20] - before_NE[:20]).max() > 0.005
    else:
        np.testing.assert_array_equal(after_NE[:20], before_NE[:20])


@pytest.mark.parametrize("unit", [1000.0, 0.001])
@pytest.mark.parametrize("changes", [{"balance": 1.0}, {"joined": "outputs"}], ids=str)
def test_the_unit_and_zero_of_a_value_do_not_matter(changes: dict[str, Any], unit: float) -> None:
    """AdamW hides a loss's factor; against the balance, and beside the leads, it would count."""
    given = material()
    given.outputs_UNEC[:, :, 0, 0] += 0.7 * np.nan_to_num(given.target_N)
    zero = 3 * unit
    other = replace(
        given, target_N=given.target_N * unit + zero,
        outputs_UNEC=(given.outputs_UNEC * unit + zero).astype(np.float32),
    )  # fmt: skip
    chosen = choice(epochs=6, **changes)
    (one, weights_one), (two, weights_two) = (
        each.train(chosen).predict(each.view_NLT, each.outputs_UNEC, AGE) for each in (given, other)
    )
    assert weights_one.std(1).mean() > 0.02
    np.testing.assert_allclose(weights_two, weights_one, atol=1e-4)
    np.testing.assert_allclose((two - zero) / unit, one, atol=1e-4)


def test_each_gate_has_its_own_records_mean_and_deviation() -> None:
    given = material()
    gates = given.train(choice(joined="outputs"))
    for number, learns_N in enumerate(given.learns_UN):
        seen = given.target_N[learns_N & known(given.target_N)]
        found = [gates.parameters[name][number].item() for name in ("center", "scale")]
        np.testing.assert_allclose(found, [seen.mean(), seen.std()], rtol=1e-4, atol=1e-6)
