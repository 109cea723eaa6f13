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
from enecg.stage1.fitting import Progress, fit_units
from enecg.stage1.train import Outcome, Session
from enecg.stage1.units import Unit, build_unit
from enecg.tasks import Task
from problems import AGE, GENDER, Problem, adapt, join_process_group, settings, small_problem


@pytest.fixture(autouse=True)
def _process_group() -> None:
    join_process_group()


def unit_of(problem: Problem, fit: Fit, task: Task) -> Unit:
    return build_unit(
        fit,
        [task],
        problem.targets,
        problem.nested,
        42,
        features_ND=torch.from_numpy(problem.features_ND),
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
    together = [unit_of(problem, fit, task) for fit in fits for task in (AGE, GENDER)]
    train(problem, together)
    for unit in together:
        task = AGE if "age" in unit.key else GENDER
        alone = unit_of(problem, unit.fit, task)
        train(problem, [alone])
        assert alone.best_epoch == unit.best_epoch
        same(tensors([alone]), tensors([unit]))


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


def test_a_loss_that_is_not_finite_ends_in_one_clear_line() -> None:
    problem = small_problem()
    problem.features_ND[::7] = np.inf
    with pytest.raises(JobFailed, match=r"loss of .* is (nan|inf) after epoch 1"):
        train(problem, [unit_of(problem, Fit("all", 0), AGE)])


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
    units = [unit_of(problem, Fit("0", 0), AGE), unit_of(problem, Fit("0", 0), GENDER)]
    train(problem, units, rank, world)
    if rank == 0:
        results.put({name: value.numpy() for name, value in tensors(units).items()})


def test_two_workers_give_the_heads_of_one(tmp_path: Path) -> None:
    found = []
    context = multiprocessing.get_context("spawn")
    for world in (1, 2):
        results = context.Queue()
        workers = [
            context.Process(target=_worker, args=(r, world, str(tmp_path / f"pg{world}"), results))
            for r in range(world)
        ]
        for worker in workers:
            worker.start()
        found.append(results.get(timeout=120))
        for worker in workers:
            worker.join(60)
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("phase", "epoch"), [(0, 2), (1, 1)])
def test_an_interrupted_training_ends_as_if_it_had_never_stopped(
    phase: int, epoch: int, tmp_path: Path
) -> None:
    problem = small_problem()
    undisturbed = adapt(problem)

    class Killed(Exception):
        pass

    left: dict[str, Any] = {}

    def kill(
        at: int, inner: dict[str, Any], progress: Progress, save: Callable[[Path], None]
    ) -> None:
        if (at, progress.epoch) == (phase, epoch):
            save(tmp_path)
            left.update(inner)
            raise Killed

    with pytest.raises(Killed):
        adapt(problem, Session(report=kill))
    resumed = adapt(problem, Session(phase=phase, resume_from=tmp_path, inner=left))
    assert_same_outcome(undisturbed, resumed)


def assert_same_outcome(one: Outcome, other: Outcome) -> None:
    assert one.choices == other.choices
    for task, outputs in one.outputs.items():
        np.testing.assert_array_equal(outputs, other.outputs[task])
    for key, adapted in one.adapted.items():
        for mine, theirs in zip(adapted.models, other.adapted[key].models, strict=True):
            same(mine.head.state_dict(), theirs.head.state_dict())
