"""Small problems for the tests of training: features that hold the answer, folds, targets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from enecg.config import ExpertSettings, Stage1Settings
from enecg.nested import Nested
from enecg.stage1.choosing import Outcome, Setup
from enecg.stage1.feeding import Feed
from enecg.stage1.head_space import HeadChoice, papers_head
from enecg.stage1.train import Session, adapt_heads
from enecg.tasks import TASKS, Task

AGE, GENDER, RHYTHM = TASKS["age"], TASKS["gender"], TASKS["report_label"]
FINDINGS = Task("findings", "multilabel", classes=("MI", "CD", "HYP"))


def join_process_group(rank: int = 0, world: int = 1, path: str | None = None) -> None:
    """Join the process group that DeepSpeed needs; once per process, since DeepSpeed keeps it."""
    if not dist.is_initialized():
        os.environ["LOCAL_RANK"] = "0"
        path = path or tempfile.mktemp(prefix="enecg-test-")
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)


@dataclass(frozen=True)
class Problem:
    """N records with D features that determine age, gender and findings, some labels missing."""

    features_ND: np.ndarray
    nested: Nested
    tasks: list[Task]
    targets: dict[str, np.ndarray]

    def with_noise(self, rows: np.ndarray, seed: int = 1) -> Problem:
        """The same with the labels of some records replaced by noise, missing ones too."""
        random = np.random.default_rng(seed)
        targets = {name: values.copy() for name, values in self.targets.items()}
        for task in self.tasks:
            if task.kind == "regression":
                noise = random.uniform(0, 100, rows.sum())
            elif task.kind == "multilabel":
                noise = random.integers(0, 2, (rows.sum(), task.width))
            else:
                noise = random.integers(0, task.width, rows.sum())
            targets[task.name][rows] = noise
        return replace(self, targets=targets)

    def feed(self, rank: int = 0, world: int = 1) -> Feed:
        """Features in memory."""
        n, width = self.features_ND.shape
        everything = [(np.arange(n), self.features_ND)]
        return Feed(lambda: iter(everything), torch.from_numpy, n, 4 * width, 7, rank, world)


def small_problem(n: int = 150, width: int = 6, seed: int = 0) -> Problem:
    """Make a problem."""
    random = np.random.default_rng(seed)
    features_ND = random.normal(size=(n, width)).astype(np.float32)
    targets = {
        "age": 50 + 12 * features_ND[:, 0] + 3 * random.normal(size=n),
        "gender": (features_ND[:, 1] + 0.3 * random.normal(size=n) > 0).astype(float),
    }
    targets["findings"] = (
        features_ND[:, 2:5] + 0.3 * random.normal(size=(n, FINDINGS.width)) > 0.2
    ).astype(float)
    targets["age"][random.random(n) < 0.1] = np.nan
    targets["findings"][random.random(n) < 0.1] = np.nan
    nested = Nested(
        np.array([f"g{row}" for row in range(n)], dtype=object),
        random.integers(0, 3, n),
        random.integers(0, 3, n),
        random.integers(0, 5, n),
        ("0", "1", "2"),
    )
    return Problem(features_ND, nested, [AGE, GENDER, FINDINGS], targets)


def settings(**changes: Any) -> Stage1Settings:
    """Training settings for small problems."""
    values = {"epochs": 4, "patience": 3, "batch_size": 32, "learning_rate": 3e-3}
    return Stage1Settings.model_validate(values | changes)


def setup(
    problem: Problem,
    adaptation: Any = "head",
    final: Any = None,
    own_heads: list[str] | None = None,
    **changes: Any,
) -> Setup:
    """What a job on a problem is about."""
    expert = ExpertSettings.model_validate(
        {"adaptation": adaptation, "final": final, "heads": own_heads}
    )
    stage1 = settings(**changes)
    return Setup(problem.tasks, problem.nested, problem.targets, stage1, expert, 42)


def adapt(
    problem: Problem,
    session: Session | None = None,
    adaptation: str = "head",
    final: str = "refit",
    drawn: Sequence[HeadChoice] = (),
    **changes: Any,
) -> Outcome:
    """Train heads on a problem's features, in this process: the paper's, and some others."""
    join_process_group()
    job = setup(problem, adaptation, final, **changes)
    return adapt_heads(
        job,
        [papers_head(job.settings), *drawn],
        problem.feed(),
        session or Session(),
        torch.device("cpu"),
    )
