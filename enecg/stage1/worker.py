"""The training function that Ray Train runs on every worker of one expert's job."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from enecg import experts
from enecg.cluster import peak_memory_mb
from enecg.config import parse_config
from enecg.errors import JobFailed, one_line
from enecg.experiment import Experiment, open_experiment
from enecg.files import read_json, write_json
from enecg.records.store import decode
from enecg.signals import LEADS, N_SAMPLES
from enecg.stage1.adapted import save_adapted, save_outputs
from enecg.stage1.feeding import WINDOW, Feed, Rows
from enecg.stage1.fitting import Progress
from enecg.stage1.train import Outcome, Session, adapt_heads, train_backbones

PHASES = ("inner models", "final models")


def train_expert(loop: dict[str, Any]) -> None:
    """Adapt one expert; the last reported checkpoint holds what `write_outcome` writes.

    Parameters
    ----------
    loop : dict
        ``config`` (the experiment's settings), ``expert`` (its name there), ``board`` (an actor
        that shows progress).
    """
    config = parse_config(loop["config"])
    name: str = loop["expert"]
    settings = config.experts[name]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1)  # a worker has one CPU; and more threads would change the last bits
    device = ray.train.torch.get_device()
    experiment = open_experiment(config)
    shard = ray.train.get_dataset_shard("inputs")
    key = "physical_sha256" if settings.frozen else "record_id"
    backbone = experts.load(name, weights=settings.weights, **settings.options).to(device)

    @torch.no_grad()
    def prepare(x_BLT: np.ndarray) -> torch.Tensor:
        return backbone.prepare(torch.from_numpy(x_BLT).to(device)).cpu()

    feed = Feed(
        lambda: _windows(shard, key, experiment),
        torch.from_numpy if settings.frozen else prepare,
        len(experiment.nested.outer_N),
        4 * backbone.spec.width if settings.frozen else _bytes_prepared(prepare),
        config.seed,
        rank,
        world,
    )
    if _hand_in_again(rank):
        return
    session = _session(name, rank, loop["board"], config.stage1.checkpoint_seconds)
    arguments = (experiment.tasks, experiment.nested, experiment.targets, feed, config.stage1)
    folder = Path(tempfile.mkdtemp(prefix="enecg-outcome-"))
    try:
        if settings.frozen:
            outcome = adapt_heads(*arguments, settings.final_rule, config.seed, session, device)
        else:
            wants_bf16 = config.stage1.precision == "bf16"
            bf16 = wants_bf16 or (config.stage1.precision == "auto" and device.type == "cuda")
            outcome = train_backbones(
                *arguments, (name, settings), config.seed, session, device, bf16
            )
        if rank == 0:
            write_outcome(folder, outcome)
    except JobFailed as failure:  # every worker fails alike; trying again would change nothing
        write_json(folder / "failed.json", {"why": one_line(failure)})
    if session.resume_from is not None:
        shutil.rmtree(session.resume_from)
    peak = torch.tensor([peak_memory_mb()])
    if world > 1:
        peak = peak.to(device)
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    write_json(folder / "memory.json", {"peak_memory_mb": float(peak)})
    _hand_in(folder, rank)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write outputs, models and choices of one expert to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_outputs(folder / "outputs.safetensors", outcome.outputs)
    save_adapted(folder, outcome.adapted)
    write_json(folder / "choices.json", outcome.choices)


def _hand_in(folder: Path, rank: int) -> None:
    """Report a folder of results as the job's last checkpoint; the folder goes with it."""
    checkpoint = Checkpoint.from_directory(str(folder)) if rank == 0 else None
    ray.train.report(
        {"finished": 1}, checkpoint=checkpoint, delete_local_checkpoint_after_upload=True
    )


def _hand_in_again(rank: int) -> bool:
    """Hand in the results of an earlier run that ended without their being taken, if there are."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return False
    with checkpoint.as_directory() as found:
        if not (Path(found) / "memory.json").exists():
            return False
        folder = Path(tempfile.mkdtemp(prefix="enecg-outcome-"))
        if rank == 0:
            shutil.copytree(found, folder, dirs_exist_ok=True)
    _hand_in(folder, rank)
    return True


def _bytes_prepared(prepare: Callable[[np.ndarray], torch.Tensor]) -> int:
    """Size of one prepared record."""
    one = prepare(np.zeros((1, len(LEADS), N_SAMPLES), dtype=np.float32))
    return one.element_size() * one.numel()


def _windows(shard: Any, key: str, experiment: Experiment) -> Iterator[tuple[Rows, np.ndarray]]:
    """Row numbers and raw inputs from Ray Data: features, or signals in mV."""
    rows_of: dict[str, list[int]] = {}
    for row, value in enumerate(experiment.store.index[key]):
        rows_of.setdefault(value, []).append(row)
    waiting = len(experiment.nested.outer_N)
    for batch in shard.iter_batches(batch_size=WINDOW, batch_format="numpy"):
        # Identical signals share a key; and two jobs may have stored features of the same record.
        found = [rows_of.pop(value, []) for value in batch[key]]
        rows = np.array([row for many in found for row in many], dtype=np.int64)
        source = np.repeat(np.arange(len(found)), [len(many) for many in found])
        raw = batch["features"] if "features" in batch else decode(batch)
        for start in range(0, len(rows), WINDOW):
            part = slice(start, start + WINDOW)
            yield rows[part], np.asarray(raw)[source[part]]
        waiting -= len(rows)
    if waiting:
        raise RuntimeError(
            f"{waiting} of {len(experiment.nested.outer_N)} records were not delivered"
        )


def _session(name: str, rank: int, board: Any, checkpoint_seconds: float) -> Session:
    """Take up what an interrupted run of this job reported last, and report from here on."""
    session = Session()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        folder = Path(tempfile.mkdtemp(prefix="enecg-resume-"))
        checkpoint.to_directory(str(folder))
        if (folder / "phase.json").exists():
            session.phase = read_json(folder / "phase.json")["phase"]
            session.inner = torch.load(folder / "inner.pt", weights_only=True)
            session.resume_from = folder
    last = time.monotonic()

    def report(
        phase: int, inner: dict[str, Any], progress: Progress, save: Callable[[Path], None]
    ) -> None:
        nonlocal last
        due = torch.tensor([float(time.monotonic() - last >= checkpoint_seconds)])
        due = due.to(ray.train.torch.get_device())
        dist.broadcast(due, src=0)  # checkpoints are collective: the first worker's clock decides
        metrics: dict[str, float] = {"phase": phase, "epoch": progress.epoch}
        if progress.loss is not None:
            metrics["validation_loss"] = progress.loss
        if rank == 0:
            loss = f", validation loss {progress.loss:.4f}" if progress.loss is not None else ""
            text = f"{PHASES[phase]}, epoch {progress.epoch} of at most {progress.epochs}{loss}"
            board.post.remote(name, text)
        if not due.item():
            ray.train.report(metrics)
            return
        folder = Path(tempfile.mkdtemp(prefix="enecg-checkpoint-"))
        save(folder)
        if rank == 0:
            torch.save(inner, folder / "inner.pt")
            write_json(folder / "phase.json", {"phase": phase})
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(str(folder)),
            delete_local_checkpoint_after_upload=True,
        )
        last = time.monotonic()

    session.report = report
    return session
