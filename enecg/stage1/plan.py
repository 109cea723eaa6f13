"""Which jobs there are to do, what each needs, and which can run side by side.

A job holds all of its workers or none (Ray reserves them together), and one CPU of the cluster is
never given to workers: it is what Ray Data delivers with. So no job can wait for another that
waits for it, fractions of GPUs or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from enecg.cluster import local_cpus
from enecg.config import Config, ExpertSettings
from enecg.errors import UserError
from enecg.experiment import Experiment, answered
from enecg.experts.contract import Expert
from enecg.progress import cell, duration
from enecg.signals import LEADS, N_SAMPLES
from enecg.stage1.engine import ADAM_BYTES
from enecg.stage1.feeding import HELD_BYTES
from enecg.stage1.heads import FFN_HIDDEN
from enecg.stage1.kernel import KERNELS, MOST_LANDMARKS

HEADS_GPU = 0.25
"""Share of a GPU that a worker gets by default for heads on stored features; it needs little."""
BASE_MB = 900.0
"""A worker's Python, torch and DeepSpeed."""
CORE_FLOPS = 1e10
"""What one core is reckoned to do per second in small matrix products."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: int


@dataclass(frozen=True)
class Job:
    """What one expert's training job needs.

    Attributes
    ----------
    name, adaptation : str
    workers : int
        One CPU each.
    gpus : float
        Per worker.
    apart : bool
        Whether every worker needs a machine of its own.
    to_embed : int
        Records whose features are missing.
    memory_mb : float
        Of a worker, roughly.
    seconds : float or None
        Roughly and at most, of embedding and training; None where nothing is known yet.
    """

    name: str
    adaptation: str
    workers: int
    gpus: float
    apart: bool
    to_embed: int
    memory_mb: float
    seconds: float | None


def cluster_nodes() -> list[Node]:
    """Return the machines that are alive; in no cluster, this one as a local cluster counts it."""
    if not ray.is_initialized():  # `ray.nodes` would start one
        return [Node(local_cpus(), torch.cuda.device_count())]
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(has.get("CPU", 0.0), int(has.get("GPU", 0))) for has in found]


def fit_together(jobs: Sequence[Job], nodes: Sequence[Node]) -> bool:
    """Whether some jobs can hold all of their workers at once, with one CPU left over.

    A worker with a fraction of a GPU, or several whole ones, has them on one machine; a fraction
    is of one GPU.
    """
    cpus = [node.cpus for node in nodes]
    if not cpus:
        return False
    cpus[int(np.argmax(cpus))] -= 1  # Ray Data's
    gpus = [[1.0] * node.gpus for node in nodes]
    for job in sorted(jobs, key=lambda job: (job.apart, job.gpus, job.workers), reverse=True):
        used: set[int] = set()
        for _ in range(job.workers):
            for number in range(len(nodes)):
                if (job.apart and number in used) or cpus[number] < 1:
                    continue
                if (left := _without(gpus[number], job.gpus)) is not None:
                    cpus[number] -= 1
                    gpus[number] = left
                    used.add(number)
                    break
            else:
                return False
    return True


def _without(gpus: list[float], wanted: float) -> list[float] | None:
    """The free shares of a machine's GPUs once a worker has its own; None if it cannot."""
    if wanted == 0:
        return gpus
    left, slack = sorted(gpus), 1e-6
    if wanted >= 1:
        if sum(share > 1 - slack for share in left) < wanted:
            return None
        return left[: len(left) - math.ceil(wanted)]
    for place, share in enumerate(left):  # the fullest GPU that has room
        if share >= wanted - slack:
            return [*left[:place], share - wanted, *left[place + 1 :]]
    return None


def shortage(job: Job) -> str | None:
    """Return what a job needs and what there is, where the cluster is too small for it alone."""
    nodes = cluster_nodes()
    if fit_together([job], nodes):
        return None
    have = ", ".join(f"{node.cpus:g} CPUs and {node.gpus} GPUs" for node in nodes)
    on = f" on {job.workers} machines (stage1.placement = strict_spread)" if job.apart else ""
    needs = f"{job.workers + 1} CPUs and {job.workers * job.gpus:g} GPUs{on}"
    return f"{needs}; the cluster has {have}"


def startable(waiting: Sequence[Job], running: Sequence[Job], limit: int) -> list[Job]:
    """Return those of the waiting jobs that can start now, in order, beside the running ones."""
    if not waiting:
        return []
    nodes = cluster_nodes()
    chosen: list[Job] = []
    for job in waiting:
        here = [*running, *chosen]
        if len(here) < limit and fit_together([*here, job], nodes):
            chosen.append(job)
    return chosen


def job_of(
    experiment: Experiment,
    name: str,
    expert: Expert,
    to_embed: int,
    rate: Any,
    cost: Callable[[], Cost | None] | None = None,
) -> Job:
    """Plan one expert's job.

    Parameters
    ----------
    expert : Expert
        The expert called ``name``, loaded.
    to_embed : int
        Records that have no features yet.
    rate : float or None
        Records per second that were embedded the last time.
    cost : callable, optional
        Gives what `cost_of` gives, where that has been measured.

    Raises
    ------
    UserError
        The cluster is too small for it.
    """
    config = experiment.config
    settings = config.experts[name]
    workers, gpus = config.stage1.workers, gpus_of(config, settings)
    cost = cost or measured(expert, settings)
    spent: float | None
    if settings.frozen:
        heads = spent = _head_seconds(experiment, expert, settings)
        if to_embed:
            each = Cost(0.0, 1 / rate, 0) if rate is not None else cost()
            spent = None if each is None else heads + to_embed * (each.prepare + each.embed)
    else:
        spent = _train_seconds(experiment, settings, cost())
    memory = _memory_mb(experiment, expert, settings)
    apart = config.stage1.placement == "strict_spread"
    called = experiment.called(name)
    job = Job(called, settings.adaptation, workers, gpus, apart, to_embed, memory, spent)
    if (lacks := shortage(job)) is not None:
        raise UserError(f"{called}: stage1.workers = {workers} needs {lacks}")
    return job


def gpus_of(config: Config, settings: ExpertSettings) -> float:
    """Return the GPUs that each worker of an expert takes."""
    if config.stage1.gpus_per_worker != "auto":
        return config.stage1.gpus_per_worker
    if not _gpus_there():
        return 0.0
    return HEADS_GPU if settings.frozen else 1.0


def _gpus_there() -> bool:
    return any(node.gpus for node in cluster_nodes())


NARROWEST = 6
"""Characters of a column, also on a narrow terminal."""


def plan_table(jobs: Sequence[Job], kept: Sequence[str], limit: int, repeated: str = "") -> Table:
    """Return the plan for people to read; what is ``repeated`` stands below."""
    table = Table("expert", "adaptation", "to embed", "workers", "GPUs each", "memory each",
                  "time, at most", "starts", title="stage 1", title_justify="left",
                  caption=cell(repeated) if repeated else None, caption_justify="left",
                  box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    for column in table.columns:
        column.overflow = "fold"
        column.min_width = NARROWEST
    table.columns[1].no_wrap = True
    first = startable(jobs, [], limit)
    for job in jobs:
        table.add_row(
            cell(job.name),
            job.adaptation,
            f"{job.to_embed:,} records" if job.to_embed else "–",
            str(job.workers),
            f"{job.gpus:g}",
            f"{job.memory_mb / 1000:.1f} GB",
            "not known yet" if job.seconds is None else f"about {duration(job.seconds)}",
            "at once" if job in first else "when there is room",
        )
    for name in kept:
        table.add_row(cell(name), "", "", "", "", "", "", "done before, kept")
    return table


def repeats_line(jobs: Mapping[str, Sequence[Job]], kept: int, repeats: int) -> str:
    """Return what further repeats cost, in words; nothing where there are none.

    Parameters
    ----------
    jobs : mapping of str to sequence of Job
        By expert: what is to be done in repeats after the first.
    kept : int
        How many of them are done before.
    repeats : int
        Of the whole cross-validation, the first one included.
    """
    if repeats == 1:
        return ""
    said = []
    for name, [job, *others] in ((name, of) for name, of in jobs.items() if of):
        each = "not known yet" if job.seconds is None else f"about {duration(job.seconds)}"
        frozen = job.adaptation in ("head", "head_lora")
        what = "heads, on the same features" if frozen else "backbone and heads trained anew"
        said.append(f"{name} {1 + len(others)} × {each} ({what})")
    said += [f"{kept} done before, kept"] if kept else []
    return (
        f"{repeats - 1} more repeats with other folds, at most: {'; '.join(said)}. "
        "Gate search and ensemble are done in each."
    )


class Cost(NamedTuple):
    """What one record takes of a backbone: seconds to prepare and to embed it, bytes between."""

    prepare: float
    embed: float
    size: int


def measured(expert: Expert, settings: ExpertSettings) -> Callable[[], Cost | None]:
    """Return a function that measures a backbone as it will be used, once."""
    return cache(lambda: cost_of(expert if settings.frozen else expert.train()))


def cost_of(expert: Expert) -> Cost | None:
    """Measure a backbone on this process's device; None where others will do the work."""
    if _gpus_there() and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x_BLT = torch.zeros(2, len(LEADS), N_SAMPLES, device=device)
    x_BLT[..., 250::400] = 1.0  # mV: something like beats, for those who look for them

    def timed(compute: Callable[[], Tensor]) -> tuple[Tensor, float]:
        started = time.monotonic()
        found = compute()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found, time.monotonic() - started

    with torch.no_grad():
        timed(lambda: expert.to(device).features(x_BLT[:1]))  # some set things up when first called
        prepared, spent = timed(lambda: expert.prepare(x_BLT))
        embed = timed(lambda: expert.embed(prepared))[1] / len(prepared)
        if embed < 0.02:  # a small backbone's time lies in the call, the first one above all
            many = prepared.repeat_interleave(4, dim=0)
            with suppress(torch.OutOfMemoryError):
                embed = min(timed(lambda: expert.embed(many))[1] for _ in range(2)) / len(many)
    size = prepared.element_size() * prepared[0].numel()
    return Cost(spent / len(x_BLT), embed, size)


def _models(experiment: Experiment, settings: ExpertSettings) -> int:
    """Number of models per task: inner ones, and every scope's refitted one."""
    nested = experiment.nested
    inner = len(nested.inner_models)
    return inner + (len(nested.scopes) if settings.final_rule == "refit" else 0)


def _train_seconds(
    experiment: Experiment, settings: ExpertSettings, cost: Cost | None
) -> float | None:
    """Time to train a backbone per fit."""
    if cost is None:
        return None
    n, stage1 = len(experiment.nested.outer_N), experiment.config.stage1
    passes = 3 * _models(experiment, settings) * stage1.epochs  # backward is about twice forward
    # Every worker prepares all records, once if they can be held.
    held = n * cost.size <= HELD_BYTES and not stage1.augment
    prepared = 1 if held else 2 * stage1.epochs
    return 20 + n * (prepared * cost.prepare + passes * cost.embed / stage1.workers)


def _head_seconds(experiment: Experiment, expert: Expert, settings: ExpertSettings) -> float:
    """Time for all heads on a frozen backbone's features."""
    n, stage1 = len(experiment.nested.outer_N), experiment.config.stage1
    flops, heads = 0.0, settings.heads or stage1.heads
    if "ffn" in heads:
        kinds = 1 + stage1.head_trials
        flops += 6 * kinds * _head_parameters(expert.spec.width) * n * stage1.epochs
        flops /= stage1.workers
    if "ridge" in heads:  # as measured, doubled
        flops += 12 * min(n, expert.spec.width) ** 3
    if "trees" in heads:  # as measured
        flops += 2e4 * n * expert.spec.width
    most = min(n, MOST_LANDMARKS)
    kernels = sum(kind in KERNELS for kind in heads)
    flops += kernels * (12 * most**3 + 10 * most * n * expert.spec.width)
    tasks = len(answered(experiment.tasks, expert.spec))
    return 20 + flops * _models(experiment, settings) * tasks / CORE_FLOPS


def _memory_mb(experiment: Experiment, expert: Expert, settings: ExpertSettings) -> float:
    n, width = len(experiment.nested.outer_N), expert.spec.width
    models = _models(experiment, settings)
    if settings.frozen:
        heads = settings.heads or experiment.config.stage1.heads
        kernels, most = sum(kind in KERNELS for kind in heads), min(n, MOST_LANDMARKS)
        kinds = 1 + experiment.config.stage1.head_trials
        each = kinds * _head_parameters(width) * ADAM_BYTES if "ffn" in heads else 0
        each += kernels * 4 * most * width  # their landmarks
        held = 12 * n * width if "trees" in heads or kernels else 0
        if kernels:
            held += 3 * 8 * n * most  # similarities
        if "ridge" in heads:
            held = max(held, 4 * 8 * min(n, width) * width)
        tasks = len(answered(experiment.tasks, expert.spec))
        return BASE_MB + (held + each * models * tasks) / 1e6
    every = sum(parameter.numel() for parameter in expert.parameters())
    learns = every if settings.adaptation == "full" else _lora_parameters(expert, settings)
    one = ADAM_BYTES * learns + 4 * (every - learns)
    at_once = max(one, min(models * one, HELD_BYTES))  # as many as half of the memory holds
    return BASE_MB + (at_once + 4 * every) / 1e6


def _lora_parameters(expert: Expert, settings: ExpertSettings) -> int:
    targets = expert.spec.lora_targets
    shapes = [
        value.shape
        for name, value in expert.named_parameters()
        if value.ndim > 1 and any(name.endswith(f"{target}.weight") for target in targets)
    ]
    return sum(settings.lora_rank * (s[0] + math.prod(s[1:])) for s in shapes)


def _head_parameters(width: int) -> int:
    widths = [width, *FFN_HIDDEN]
    return sum(a * b for a, b in zip(widths, [*FFN_HIDDEN, 1], strict=True))
