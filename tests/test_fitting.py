"""Training under DeepSpeed: units do not notice each other, workers or interruptions."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enecg.errors import JobFailed
from enecg.nested import Fit
from enecg.stage1.choosing import Outcome
from enecg.stage1.fitting import Progress, fit_units
from enecg.stage1.head_space import HeadChoice, papers_head
from enecg.stage1.heads import balanced
from enecg.stage1.lora import merge_lora
from enecg.stage1.train import Session
from enecg.stage1.units import Unit, build_unit
from enecg.tasks import Task
from problems import AGE, GENDER, Problem, adapt, join_process_group, settings, small_problem


@pytest.fixture(autouse=True)
def _process_group() -> None:
    join_process_group()


PAPERS = papers_head(settings())
DROPS = HeadChoice(
    depth=1, width=16, dropout=0.4, input_dropout=0.2, learning_rate=1e-2, weight_decay=0.1
)


def unit_of(
    problem: Problem, fit: Fit, task: Task, choice: HeadChoice = PAPERS, **options: Any
) -> Unit:
    return build_unit(
        fit,
        [task],
        problem.targets,
        problem.nested,
        42,
        choice,
        features_ND=torch.from_numpy(problem.features_ND),
        **options,
    )


def train(
    problem: Problem, units: list[Unit], rank: int = 0, world: int = 1, **changes: Any
) -> None:
    fit_units(units, problem.feed(rank, world), problem.targets, settings(**changes))


def tensors(units: list[Unit]) -> dict[str, torch.Tensor]:
    return {
        f"{unit.key}/{name}": value
        for unit in units
        for name, value in unit.model.state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_head_trained_alone_equals_the_same_head_among_others() -> None:
    problem = small_problem()
    fits = [Fit("0", 0), Fit("1", 2), Fit("all", 1)]
    kinds: list[dict[str, Any]] = [
        {},
        {"choice": DROPS, "number": 1, "balance": True},
        {"lora_rank": 2, "number": 2},
    ]
    made = [(fit, task, kind) for fit in fits for task in (AGE, GENDER) for kind in kinds]
    together = [unit_of(problem, fit, task, **kind) for fit, task, kind in made]
    train(problem, together, clip=0.5)
    for unit, (fit, task, kind) in zip(together, made, strict=True):
        alone = unit_of(problem, fit, task, **kind)
        train(problem, [alone], clip=0.5)
        assert alone.best_epoch == unit.best_epoch
        same(tensors([alone]), tensors([unit]))


def test_lora_on_a_head_learns_and_leaves_the_hidden_layers_as_drawn() -> None:
    problem = small_problem(300)
    unit, fresh = (unit_of(problem, Fit("0", 0), AGE, lora_rank=4) for _ in range(2))
    train(problem, [unit], epochs=15, learning_rate=1e-2)
    learned = {name for name, value in tensors([unit]).items()
               if not torch.equal(value, tensors([fresh])[name])}  # fmt: skip
    assert learned and all("lora_" in name or "layers.4" in name for name in learned)
    assert set(unit.best_state) == {name.partition("/")[2] for name in learned}
    head = unit.model.head("age")
    x = torch.from_numpy(problem.features_ND)
    before = head(x)
    merge_lora(head)
    torch.testing.assert_close(head(x), before, atol=1e-5, rtol=1e-4)
    assert not [name for name in head.state_dict() if "lora" in name]
    assert unit.best_loss < 0.5, "of about 0.8 for the mean of the targets"


def test_clipping_is_each_units_own_and_changes_what_is_learned() -> None:
    problem = small_problem()
    free, clipped = (unit_of(problem, Fit("0", 0), AGE) for _ in range(2))
    train(problem, [free])
    train(problem, [clipped], clip=1e-3)
    assert free.best_loss != clipped.best_loss


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(stage: int) -> None:
    problem = small_problem()
    choices = {"choice": DROPS, "number": 1}
    whole, parts = (
        [unit_of(problem, Fit("0", 0), AGE, **choices), unit_of(problem, Fit("1", 1), GENDER)]
        for _ in range(2)
    )
    train(problem, whole, clip=0.5, zero_stage=stage)
    train(problem, parts, clip=0.5, zero_stage=stage, micro_batch=7)
    for name, value in tensors(whole).items():
        torch.testing.assert_close(tensors(parts)[name], value, atol=1e-5, rtol=1e-3)


def test_class_weights_make_rare_classes_count_as_much() -> None:
    rare = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1])
    weight_C = balanced(rare, 3, "classification")
    assert weight_C is not None
    torch.testing.assert_close(weight_C[:2] * torch.tensor([6.0, 2.0]), torch.tensor([4.0, 4.0]))
    assert weight_C[2] == 1
    several = balanced(torch.stack([rare, torch.ones(8)], 1), 2, "multilabel")
    assert several is not None
    torch.testing.assert_close(several, torch.tensor([[8 / 12, 1.0], [2.0, 1.0]]))
    problem = small_problem(300)
    noise = np.random.default_rng(0).normal(size=300)
    problem.targets["gender"][:] = (problem.features_ND[:, 1] + noise > 1.8).astype(float)
    recalls = []
    for weights in ("none", "balanced"):
        outcome = adapt(problem, heads=["ridge"], class_weights=weights)
        said = outcome.outputs["gender"][0].argmax(1)
        recalls.append(said[problem.targets["gender"] == 1].mean())
    assert recalls[1] > recalls[0] + 0.1


def test_training_lowers_the_loss_and_keeps_the_best_epoch() -> None:
    problem = small_problem(300)
    unit = unit_of(problem, Fit("0", 0), AGE)
    rows = np.flatnonzero(unit.validates["age"])
    x = torch.from_numpy(problem.features_ND[rows])
    truth = problem.targets["age"][rows]

    def error() -> float:
        with torch.no_grad():
            head = unit.model.heads["age"]
            return float(np.abs(head.answer(head(x))[:, 0].numpy() - truth).mean())

    before = error()
    train(problem, [unit], epochs=15)
    assert error() < 0.6 * before
    deviation = float(unit.model.heads["age"].target_std)
    assert error() / deviation == pytest.approx(unit.best_loss, rel=1e-4)


def test_a_unit_without_patience_left_changes_no_more() -> None:
    unit = unit_of(small_problem(), Fit("0", 0), AGE)
    observed = [unit.observe(e, loss, 2) for e, loss in enumerate([3, 2, 2.5, 2.2, 1], start=1)]
    assert observed == [True, True, False, False, False]
    assert (unit.best_epoch, unit.best_loss, unit.finished) == (2, 2, True)


def test_without_patience_all_epochs_are_trained_on_all_training_records() -> None:
    problem, session = small_problem(), Session()
    adapt(problem, session, heads=["ffn"], patience="none", epochs=3)
    assert {facts["epoch"] for facts in session.finished.values()} == {3}
    fit = Fit("0", 0)
    wanted = problem.nested.learns_from(fit) & np.isfinite(problem.targets["age"])
    np.testing.assert_array_equal(unit_of(problem, fit, AGE, epochs=3).learns["age"], wanted)
    assert wanted.sum() > unit_of(problem, fit, AGE).learns["age"].sum()
    expected = unit_of(problem, fit, AGE, epochs=3)
    train(problem, [expected], epochs=3)
    state = session.finished[expected.key]["state"]
    for name, value in expected.best_state.items():
        torch.testing.assert_close(state[name], value)


def test_dropout_takes_its_share_of_features_and_hidden_outputs() -> None:
    problem = small_problem()
    unit = unit_of(problem, Fit("0", 0), AGE, DROPS.model_copy(update={"width": 400}))
    features_BD, hidden_BH = unit.dropout(500, torch.arange(500), 1, 0)["age"]
    assert features_BD.shape == (500, 6) and hidden_BH.shape == (500, 400)
    for mask, rate in ((features_BD, 0.2), (hidden_BH, 0.4)):
        assert float((mask == 0).float().mean()) == pytest.approx(rate, abs=0.03)
        assert float(mask.max()) == pytest.approx(1 / (1 - rate))
    head, x = unit.model.head("age"), torch.from_numpy(problem.features_ND[:4])
    torch.testing.assert_close(head(x, [torch.ones(1, 1), torch.ones(1, 1)]), head(x))
    assert head(x, [torch.zeros(1, 1)]).unique().numel() == 1, "all features forgotten"


def test_a_loss_that_is_not_finite_ends_in_one_clear_line() -> None:
    problem = small_problem()
    problem.features_ND[::7] = np.inf
    with pytest.raises(JobFailed, match=r"loss of .* is (nan|inf) after epoch 1"):
        train(problem, [unit_of(problem, Fit("all", 0), AGE)])


def test_weights_that_are_not_finite_end_it_at_once_where_nothing_is_validated() -> None:
    problem = small_problem()
    problem.features_ND[::7] = np.inf
    with pytest.raises(JobFailed, match="weights that are not finite after epoch 1;"):
        train(problem, [unit_of(problem, Fit("all", 0), AGE, epochs=4)])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_give_the_same_heads(stage: int) -> None:
    problem = small_problem()
    plain, sharded = ([unit_of(problem, Fit("0", 0), AGE)] for _ in range(2))
    train(problem, plain)
    train(problem, sharded, zero_stage=stage)
    for name, value in tensors(plain).items():
        torch.testing.assert_close(tensors(sharded)[name], value, atol=1e-5, rtol=1e-4)


def test_bfloat16_trains_to_about_the_same_head_with_exact_scales() -> None:
    problem = small_problem()
    exact, rounded = (unit_of(problem, Fit("0", 0), AGE) for _ in range(2))
    train(problem, [exact])
    fit_units([rounded], problem.feed(), problem.targets, settings(), bf16=True)
    assert torch.equal(exact.model.heads["age"].target_mean, rounded.model.heads["age"].target_mean)
    assert rounded.best_loss == pytest.approx(exact.best_loss, rel=0.1)


def _worker(rank: int, world: int, path: str, results: Any) -> None:
    torch.set_num_threads(1)
    problem = small_problem()
    join_process_group(rank, world, path)
    units = [
        unit_of(problem, Fit("0", 0), AGE),
        unit_of(problem, Fit("0", 0), GENDER, DROPS, number=1, balance=True),
        unit_of(problem, Fit("1", 1), AGE, number=2, lora_rank=2),
    ]
    train(problem, units, rank, world, clip=0.5, zero_stage=1 if world == 4 else 0)
    if rank == 0:
        results.put({name: value.numpy() for name, value in tensors(units).items()})


def test_two_and_four_workers_give_the_heads_of_one(tmp_path: Path) -> None:
    found = []
    context = multiprocessing.get_context("spawn")
    for number, world in enumerate((1, 2, 2, 4)):
        results = context.Queue()
        workers = [
            context.Process(target=_worker, args=(r, world, str(tmp_path / f"{number}"), results))
            for r in range(world)
        ]
        for worker in workers:
            worker.start()
        found.append(results.get(timeout=120))
        for worker in workers:
            worker.join(60)
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], found[2][name])
        for more in found[1:]:
            np.testing.assert_allclose(more[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("phase", "epoch"), [("inner models", 2), ("final models", 1)])
def test_an_interrupted_training_ends_as_if_it_had_never_stopped(
    phase: str, epoch: int, tmp_path: Path
) -> None:
    problem = small_problem()
    arguments: dict[str, Any] = {
        "adaptation": "head_lora", "drawn": [DROPS], "clip": 0.5, "heads": ["ffn"],
    }  # fmt: skip
    undisturbed = adapt(problem, **arguments)

    class Killed(Exception):
        pass

    left: dict[str, Any] = {}

    def kill(
        at: str, finished: dict[str, Any], progress: Progress, save: Callable[[Path], None]
    ) -> None:
        if (at, progress.epoch) == (phase, epoch):
            save(tmp_path)
            left.update(finished)
            raise Killed

    with pytest.raises(Killed):
        adapt(problem, Session(report=kill), **arguments)
    resumed = adapt(problem, Session(left, resume_from=tmp_path), **arguments)
    assert_same_outcome(undisturbed, resumed)


def assert_same_outcome(one: Outcome, other: Outcome) -> None:
    assert one.choices == other.choices
    for task, outputs in one.outputs.items():
        np.testing.assert_array_equal(outputs, other.outputs[task])
    for key, adapted in one.adapted.items():
        for mine, theirs in zip(adapted.models, other.adapted[key].models, strict=True):
            same(mine.head.state_dict(), theirs.head.state_dict())
