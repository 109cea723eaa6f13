"""The plan of stage 1: what fits side by side, and what a job needs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from enecg import experts
from enecg.config import ExpertSettings, parse_config
from enecg.experts.beat_measures import BEAT, filtered, r_peaks
from enecg.experts.beats import MEASURES
from enecg.stage1 import plan
from enecg.stage1.board import Standing
from enecg.stage1.jobs import expert_fingerprint
from enecg.stage1.plan import Job, Node, fit_together, startable


def job(name: str = "a", workers: int = 1, gpus: float = 0.0, apart: bool = False) -> Job:
    return Job(name, "head", workers, gpus, apart, 0, 0.0, None)


@pytest.mark.parametrize(
    ("jobs", "nodes", "fits"),
    [
        ([job(workers=3)], [Node(4, 0)], True),
        ([job(workers=4)], [Node(4, 0)], False),  # a CPU is Ray Data's
        ([job(workers=2), job(workers=1)], [Node(4, 0)], True),
        ([job(workers=2), job(workers=2)], [Node(4, 0)], False),
        ([job(gpus=0.5), job(gpus=0.5)], [Node(8, 1)], True),
        ([job(gpus=0.5), job(gpus=0.6)], [Node(8, 1)], False),
        ([job(workers=2, gpus=0.6)], [Node(8, 1)], False),  # 1.2 GPUs, but 0.6 are never split
        ([job(workers=2, gpus=0.6)], [Node(8, 2)], True),
        ([job(workers=3, gpus=0.6)], [Node(8, 2)], False),
        ([job(workers=4, gpus=0.25), job(gpus=1)], [Node(8, 2)], True),
        ([job(workers=4, gpus=0.25), job(gpus=2)], [Node(8, 2)], False),
        ([job(gpus=2)], [Node(8, 1), Node(8, 1)], False),  # a worker is on one machine
        ([job(workers=2, apart=True)], [Node(8, 0)], False),
        ([job(workers=2, apart=True)], [Node(8, 0), Node(1, 0)], True),
        ([job()], [], False),
    ],
)
def test_what_fits_together(jobs: list[Job], nodes: list[Node], fits: bool) -> None:
    assert fit_together(jobs, nodes) is fits


def test_all_jobs_get_their_turn_whatever_fractions_they_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [Node(6, 2), Node(3, 1)]
    monkeypatch.setattr(plan, "cluster_nodes", lambda: nodes)
    shapes = [(1, 0.3), (2, 0.5), (1, 2.0), (3, 1.0), (2, 0.7), (4, 0.25), (1, 0.0), (3, 0.6)]
    waiting = [job(str(n), workers, gpus) for n, (workers, gpus) in enumerate(shapes)]
    assert all(fit_together([one], nodes) for one in waiting)
    running: list[Job] = []
    order: list[str] = []
    while waiting or running:
        started = startable(waiting, running, limit=3)
        assert started or running, "everything waits: a deadlock"
        running += started
        assert fit_together(running, nodes) and len(running) <= 3
        order += [one.name for one in started]
        waiting = [one for one in waiting if one not in started]
        running.pop(0)
    assert sorted(order) == sorted(str(n) for n in range(len(shapes)))


def test_a_job_that_has_no_room_does_not_hold_up_smaller_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "cluster_nodes", lambda: [Node(4, 0)])
    large, small = job("large", 3), job("small", 1)
    assert startable([large, small], [job("runs", 2)], 9) == [small]
    assert startable([large, small], [], 9) == [large]
    assert startable([large, small], [job("runs", 1)], 1) == []


def test_a_standing_is_one_line_of_what_is_known() -> None:
    standing = Standing("inner models")
    assert standing.line() == "inner models"
    full = replace(standing, epoch=3, epochs=20, rate=1234.5, loss=0.25, memory_mb=1500)
    assert full.line() == (
        "inner models, epoch 3 of ≤ 20, 1,234 records/s, validation loss 0.2500, memory 1.5 GB"
    )


def experiment(**stage1: Any) -> Any:
    """As much of one as plans and fingerprints ask for, with experts of own heads and without."""
    rocket = {"expert": "rocket", "kernels": 8}
    config = parse_config(
        {
            "records": "r", "run_dir": "d", "tasks": ["age"], "stage1": stage1,
            "experts": {
                "general": rocket,
                "kernel": rocket | {"heads": ["laplacian"]},
                "trees": rocket | {"heads": ["trees"]},
            },
        }
    )  # fmt: skip
    nested = SimpleNamespace(
        scopes=["0", "1", "all"], inner_models=[None] * 6, outer_N=[0] * 100_000, deployed=True
    )
    store = SimpleNamespace(fingerprint="f")
    return SimpleNamespace(config=config, nested=nested, store=store, tasks=config.task_list)


def test_memory_is_reckoned_by_an_experts_own_heads() -> None:
    asked, expert = experiment(heads=["ridge"]), experts.load("rocket", kernels=8)
    mb = {
        name: plan._memory_mb(asked, expert, settings)
        for name, settings in asked.config.experts.items()
    }
    assert mb["trees"] > mb["general"] + 150  # 158 features of 100,000 records, and a float64 copy
    assert mb["kernel"] > mb["trees"] + 9000  # similarities to 4,096 landmarks


def test_a_backbones_cost_is_measured_on_something_like_beats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "cluster_nodes", lambda: [Node(4, 0)])
    expert, shown = experts.load("beat-net"), []
    prepare = expert.prepare
    monkeypatch.setattr(expert, "prepare", lambda x_BLT: prepare(shown.append(x_BLT) or x_BLT))
    cost = plan.cost_of(expert)
    assert cost is not None and cost.prepare > 0 and cost.embed > 0
    for x_BLT in shown:
        assert len(r_peaks(filtered(x_BLT[0].numpy()))) > 8, "beats are found"
    assert cost.size == 4 * (MEASURES + 12 * BEAT)
    monkeypatch.setattr(plan, "cluster_nodes", lambda: [Node(4, 1)])
    if not torch.cuda.is_available():
        assert plan.cost_of(experts.load("rocket")) is None, "of GPUs this process knows nothing"


def test_training_prepares_once_what_can_be_held() -> None:
    asked, settings = experiment(epochs=10), ExpertSettings(adaptation="full")

    def seconds(**changes: Any) -> float:
        cost = plan.Cost(0.01, 0.001, 1000)._replace(**changes)
        found = plan._train_seconds(asked, settings, cost)
        assert found is not None
        return found

    held, passes = 100_000 * 0.01, 3 * 10 * (3 * 2) * 100_000 * 0.001  # three scopes, two folds
    assert seconds() == pytest.approx(20 + held + passes)
    assert seconds(size=10**6) == pytest.approx(20 + 20 * held + passes)
    assert plan._train_seconds(asked, settings, None) is None


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ({"epochs": 3}, {"general"}),
        ({"head_trials": 2}, {"general"}),
        ({"heads": ["trees"]}, {"general"}),
        ({"class_weights": "balanced"}, {"general", "kernel", "trees"}),
    ],
)
def test_a_setting_redoes_the_experts_whose_heads_heed_it(
    changed: dict[str, Any], redone: set[str]
) -> None:
    before, after = experiment(), experiment(**changed)
    assert redone == {
        name
        for name in before.config.experts
        if expert_fingerprint(before, name) != expert_fingerprint(after, name)
    }
