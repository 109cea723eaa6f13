"""Columns that a backbone takes in deviations: those of what its unit learns from alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enecg import experts
from enecg.config import ExpertSettings
from enecg.experts.beat_net import BeatNet
from enecg.experts.beats import MEASURES
from enecg.nested import ALL, Fit
from enecg.stage1.adapted import load_adapted, save_adapted
from enecg.stage1.choosing import Outcome
from enecg.stage1.feeding import Feed
from enecg.stage1.head_space import papers_head
from enecg.stage1.scaling import scale_inputs
from enecg.stage1.train import Session, train_backbones
from enecg.stage1.units import Unit, build_unit
from problems import Problem, join_process_group, setup, small_problem

WIDTH = MEASURES + 12 * 200


def made_up(n: int) -> np.ndarray:
    """Measures of many sizes, one that never varies, and beats."""
    random = np.random.default_rng(5)
    sizes = np.concatenate(
        [10.0 ** random.uniform(-3, 3, MEASURES), np.full(WIDTH - MEASURES, 0.3)]
    )
    x_NW = ((random.normal(size=(n, WIDTH)) + 2) * sizes).astype(np.float32)
    x_NW[:, 3] = 0.7
    return x_NW


def feed(x_NW: np.ndarray, rank: int = 0, world: int = 1, pieces: int = 70, **more: Any) -> Feed:
    def stream() -> Any:
        for start in range(0, len(x_NW), pieces):
            rows = np.arange(start, min(start + pieces, len(x_NW)))
            yield rows, x_NW[rows]

    return Feed(stream, torch.from_numpy, len(x_NW), 4 * WIDTH, 7, rank, world, **more)


def small_net() -> BeatNet:
    net = experts.load("beat-net", channels=2)
    assert isinstance(net, BeatNet)
    return net


def unit(problem: Problem, fit: Fit) -> Unit:
    job = setup(problem, "full")
    return build_unit(
        fit, problem.tasks, problem.targets, problem.nested, 42, papers_head(job.settings),
        make_backbone=small_net,
    )  # fmt: skip


def scales(one: Unit) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(one.model.backbone, BeatNet)
    return one.model.backbone.measure_mean.numpy(), one.model.backbone.measure_std.numpy()


def test_each_unit_gets_what_it_learns_from() -> None:
    problem = small_problem()
    x_NW = made_up(len(problem.features_ND))
    units = [unit(problem, Fit("0", 1)), unit(problem, Fit(ALL, 2))]
    scale_inputs(units, feed(x_NW))
    for one in units:
        learned = x_NW[np.logical_or.reduce(list(one.learns.values())), :MEASURES].astype(float)
        mean_M, std_M = scales(one)
        np.testing.assert_allclose(mean_M, learned.mean(0), rtol=1e-5)
        varies = np.arange(MEASURES) != 3
        np.testing.assert_allclose(std_M[varies], learned.std(0)[varies], rtol=1e-4)
        assert std_M[3] == 1


def test_what_it_does_not_learn_from_leaves_no_trace() -> None:
    problem = small_problem()
    x_NW = made_up(len(problem.features_ND))
    one, other = unit(problem, Fit("0", 1)), unit(problem, Fit("0", 1))
    scale_inputs([one], feed(x_NW))
    unseen = ~np.logical_or.reduce(list(one.learns.values()))
    assert unseen.any()
    x_NW[unseen] = np.inf
    scale_inputs([other], feed(x_NW))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(scales(one), scales(other), strict=True))


@pytest.mark.parametrize("held_bytes", [10**9, 0])
def test_every_worker_gets_the_same(held_bytes: int) -> None:
    problem = small_problem()
    x_NW = made_up(len(problem.features_ND))
    found = []
    for rank in range(2):
        units = [unit(problem, Fit("1", 0))]
        scale_inputs(units, feed(x_NW, rank, world=2, held_bytes=held_bytes))
        found.append(scales(units[0]))
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1].tobytes() == found[1][1].tobytes()


def trained(
    problem: Problem,
    x_NW: np.ndarray,
    weights: str | None = None,
    session: Session | None = None,
) -> Outcome:
    join_process_group()
    job = setup(problem, "full", epochs=1)
    job = replace(job, expert=job.expert.model_copy(update={"weights": weights}))
    return train_backbones(
        job, small_net, feed(x_NW), session or Session(), torch.device("cpu"), bf16=False
    )


def test_a_job_that_goes_on_has_it_again() -> None:
    """What is kept of models that are done, or were interrupted, are parameters alone."""
    problem = small_problem()
    x_NW = made_up(len(problem.features_ND))
    first = Session()
    whole = trained(problem, x_NW, session=first)
    again = trained(problem, x_NW, session=Session(finished=first.finished))
    for key, adapted in whole.adapted.items():
        for one, other in zip(adapted.models, again.adapted[key].models, strict=True):
            assert isinstance(one.backbone, BeatNet) and isinstance(other.backbone, BeatNet)
            assert torch.equal(one.backbone.measure_mean, other.backbone.measure_mean)
    assert all(np.array_equal(whole.outputs[t.name], again.outputs[t.name]) for t in problem.tasks)


def test_it_goes_into_what_is_saved_and_what_began_with_weights_keeps_theirs(
    tmp_path: Path,
) -> None:
    problem = small_problem()
    x_NW = made_up(len(problem.features_ND))
    outcome = trained(problem, x_NW)
    save_adapted(tmp_path, outcome.adapted)
    settings = ExpertSettings.model_validate({"adaptation": "full", "channels": 2})
    read = load_adapted(tmp_path, {"age/all": problem.tasks[0]}, "beat-net", settings)
    for model, saved in zip(outcome.adapted["age/all"].models, read["age/all"].models, strict=True):
        assert isinstance(model.backbone, BeatNet) and isinstance(saved.backbone, BeatNet)
        assert not torch.equal(saved.backbone.measure_mean, torch.zeros(MEASURES))
        assert torch.equal(saved.backbone.measure_mean, model.backbone.measure_mean)
    begun = trained(problem, x_NW, weights="some.safetensors").adapted["age/all"].models[0]
    assert isinstance(begun.backbone, BeatNet)
    assert torch.equal(begun.backbone.measure_mean, torch.zeros(MEASURES))
