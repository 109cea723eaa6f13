"""The two proofs of the nested procedure (DESIGN §7), over everything that is learned or chosen.

Labels that a model may not see are replaced by noise; what was learned without them must stay
the same, bit for bit. Each proof is shown to fire when the rule it guards is broken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from enecg import experts
from enecg.experts.contract import Expert
from enecg.gate.features import reduce_features
from enecg.gate.trial import Arrays
from enecg.nested import Fit, Nested
from enecg.stage1.adapted import AdaptedExpert
from enecg.stage1.choosing import Outcome
from enecg.stage1.feeding import Feed
from enecg.stage1.head_space import HeadChoice
from enecg.stage1.train import Session, train_backbones
from problems import Problem, adapt, join_process_group, setup, small_problem
from proofs import LeakyNested, Stage2, differences, learned_by_stage_2, stage_2, vars_of

DRAWN = HeadChoice(depth=1, width=16, dropout=0.3, learning_rate=1e-2, weight_decay=0.1)


@dataclass
class Learned:
    """All that one run of the procedure learns."""

    outcomes: dict[str, Outcome]
    stage_2: Stage2


def make_dlinear() -> Expert:
    return experts.load("dlinear", kernel=25, pred_len=2)


def procedure(problem: Problem, folder: Any) -> Learned:
    """Stage 1 (heads on features; a backbone from scratch), gates, choice, refit, prediction."""
    join_process_group()
    n = len(problem.features_ND)
    signals = np.random.default_rng(3).normal(size=(n, 12, 5000)).astype(np.float32) * 0.3
    backbone = make_dlinear()
    prepared = Feed(
        lambda: iter([(np.arange(n), signals)]),
        lambda x_BLT: backbone.prepare(torch.from_numpy(x_BLT)), n, 4 * 12 * 500, 7,
    )  # fmt: skip
    outcomes = {
        "rocket": adapt(
            problem, adaptation="head_lora", drawn=[DRAWN], epochs=2, clip=1.0,
            class_weights="balanced",
        ),
        "dlinear": train_backbones(
            setup(problem, "full", epochs=2, clip=1.0, patience="none"), make_dlinear, prepared,
            Session(), torch.device("cpu"), bf16=False,
        ),
    }  # fmt: skip
    arrays = Arrays(
        np.random.default_rng(4).normal(size=(n, 12, 200)).astype(np.float16),
        {
            task.name: np.stack([o.outputs[task.name] for o in outcomes.values()], axis=2)
            for task in problem.tasks
        },
        problem.targets,
        problem.nested,
        problem.tasks,
        list(outcomes),
        5,
        reduce_features([problem.features_ND, None], problem.nested, 5)[0],
    )
    return Learned(outcomes, stage_2(arrays, folder))


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem(90, seed=11)


@pytest.fixture(scope="module")
def untouched(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    return procedure(problem, tmp_path_factory.mktemp("untouched"))


def model_bytes(expert: AdaptedExpert) -> list[bytes]:
    modules = [m for model in expert.models for m in (model.head, model.backbone) if m is not None]
    return [value.numpy().tobytes() for m in modules for value in m.state_dict().values()]


def learned_in_scope(learned: Learned, nested: Nested, scope: str) -> dict[str, Any]:
    """Everything that was learned for one scope, and its predictions for its test records."""
    number = nested.scopes.index(scope)
    found: dict[str, Any] = {}
    for name, outcome in learned.outcomes.items():
        for task, outputs in outcome.outputs.items():
            found[f"{name} outputs {task}"] = outputs[number].tobytes()
            found[f"{name} models {task}"] = model_bytes(outcome.adapted[f"{task}/{scope}"])
            found[f"{name} choice {task}"] = outcome.choices[f"{task}/{scope}"]
    return found | learned_by_stage_2(learned.stage_2, nested, scope)


def test_labels_of_an_outer_test_fold_reach_nothing_learned_for_it(
    problem: Problem, untouched: Learned, tmp_path: Any
) -> None:
    noisy = procedure(problem.with_noise(problem.nested.test("1")), tmp_path)
    compared = [learned_in_scope(learned, problem.nested, "1") for learned in (untouched, noisy)]
    assert differences(*compared) == []
    # The noise did arrive: what may see these labels has changed.
    others = [learned_in_scope(learned, problem.nested, "0") for learned in (untouched, noisy)]
    assert "rocket models age" in differences(*others)
    assert "dlinear models age" in differences(*others)
    assert "gates gender" in differences(*others)


def out_of_fold(learned: Learned, problem: Problem, fit: Fit) -> dict[str, bytes]:
    """The experts' outputs for an inner fold, by the models that were trained without it.

    Compared head by head, since the choice among heads may look at all of the training labels.
    """
    number, rows = problem.nested.scopes.index(fit.scope), problem.nested.held_out(fit)
    return {
        f"{name} {task}": outputs[number, rows].tobytes()
        for name, outcome in learned.outcomes.items()
        for task, outputs in outcome.outputs.items()
    }


@pytest.mark.parametrize("heads", [["ridge"], ["ffn"]])
def test_labels_of_an_inner_fold_reach_nothing_learned_without_it(
    problem: Problem, heads: list[str]
) -> None:
    join_process_group()
    fit = Fit("0", 2)
    found = []
    for labelled in (problem, problem.with_noise(problem.nested.held_out(fit))):
        outcome = adapt(labelled, final="average", epochs=2, heads=heads)
        held_out = problem.nested.held_out(fit)
        found.append(
            {
                task: (
                    outputs[0, held_out].tobytes(),
                    [v.numpy().tobytes() for v in
                     outcome.adapted[f"{task}/0"].models[2].head.state_dict().values()],
                )
                for task, outputs in outcome.outputs.items()
            }
        )  # fmt: skip
    assert found[0] == found[1]


def test_labels_of_an_inner_fold_do_not_reach_a_backbone_trained_without_it(
    problem: Problem, untouched: Learned, tmp_path: Any
) -> None:
    fit = Fit("0", 2)
    noisy = procedure(problem.with_noise(problem.nested.held_out(fit)), tmp_path)
    one, other = (out_of_fold(learned, problem, fit) for learned in (untouched, noisy))
    assert one["dlinear age"] == other["dlinear age"]
    assert one["dlinear gender"] == other["dlinear gender"]
    models = [learned.outcomes["dlinear"].adapted["age/0"].models for learned in (untouched, noisy)]
    for with_labels, with_noise in zip(models[0][:2], models[1][:2], strict=True):
        # The two models that did learn from that fold did notice.
        assert model_bytes(AdaptedExpert([with_labels], "ffn")) != model_bytes(
            AdaptedExpert([with_noise], "ffn")
        )


@pytest.fixture(scope="module")
def shared_folds(problem: Problem) -> Problem:
    """The same, with the outer folds as inner ones."""
    return replace(problem, nested=replace(problem.nested, inner_N=problem.nested.outer_N))


def test_models_that_serve_two_scopes_see_neither_ones_test_labels(
    shared_folds: Problem, tmp_path: Any
) -> None:
    nested = shared_folds.nested
    noisy = shared_folds.with_noise(nested.test("1"))
    untouched, changed = (procedure(one, tmp_path) for one in (shared_folds, noisy))
    compared = [learned_in_scope(learned, nested, "1") for learned in (untouched, changed)]
    assert differences(*compared) == []
    others = [learned_in_scope(learned, nested, "0") for learned in (untouched, changed)]
    assert "dlinear models age" in differences(*others)
    assert "gates gender" in differences(*others)
    # The one model without folds 0 and 1 serves both scopes, and has noticed nothing in either.
    assert nested.model_of(Fit("1", 0)) == Fit("0", 1)
    for learned in (untouched, changed):
        of_0, of_1 = (learned.outcomes["dlinear"].adapted[f"age/{scope}"] for scope in "01")
        assert model_bytes(AdaptedExpert([of_0.models[0]], "ffn")) == model_bytes(
            AdaptedExpert([of_1.models[0]], "ffn")
        )
    [one, other] = (
        out_of_fold(learned, shared_folds, Fit("0", 1)) for learned in (untouched, changed)
    )
    assert one["dlinear age"] == other["dlinear age"]


class _MixedUp(Nested):
    """Breaks the rule: a model that serves one scope serves another, whose test labels it saw."""

    def model_of(self, fit: Fit) -> Fit:
        return Fit("0", 1) if fit == Fit("0", 2) else super().model_of(fit)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("final", ["average", "refit"])
def test_heads_that_serve_two_scopes_see_neither_ones_test_labels(
    shared_folds: Problem, final: str, broken: bool
) -> None:
    if broken:
        mixed_up = _MixedUp(**vars_of(shared_folds.nested))
        shared_folds = replace(shared_folds, nested=mixed_up)
    nested, found = shared_folds.nested, []
    for labelled in (shared_folds, shared_folds.with_noise(nested.test("2"))):
        outcome = adapt(labelled, final=final, epochs=2, heads=["ridge"])
        found.append({"models": model_bytes(outcome.adapted["age/2"])})
        held_out = nested.held_out(Fit("0", 2))
        found[-1]["out of fold"] = [outcome.outputs["age"][0, held_out].tobytes()]
    # Of scope 2 nothing has changed; the mix-up lets its labels into what is out of fold in 0.
    assert differences(*found) == (["out of fold"] if broken else [])


@pytest.mark.parametrize("kind", ["ridge", "trees", "laplacian"])
def test_refitted_heads_are_the_same_whoever_shares_them(
    problem: Problem, shared_folds: Problem, kind: str
) -> None:
    one, other = (adapt(p, final="refit", epochs=2, heads=[kind]) for p in (problem, shared_folds))
    for scope in problem.nested.scopes:
        assert model_bytes(one.adapted[f"age/{scope}"]) == model_bytes(
            other.adapted[f"age/{scope}"]
        )


def test_the_proof_fires_when_test_records_are_trained_on(problem: Problem, tmp_path: Any) -> None:
    leaky = replace(problem, nested=LeakyNested(**vars_of(problem.nested)))
    test = problem.nested.test("1")
    clean = procedure(leaky, tmp_path / "clean")
    noisy = procedure(leaky.with_noise(test), tmp_path / "noisy")
    found = differences(*(learned_in_scope(one, leaky.nested, "1") for one in (clean, noisy)))
    assert {"rocket models age", "dlinear models age", "gates age"} <= set(found)
