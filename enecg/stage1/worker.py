"""The training function that Ray Train runs on every worker of one expert's job."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from enecg import experts
from enecg.checked_files import read_sealed_json, write_sealed_json
from enecg.cluster import peak_memory_mb
from enecg.config import ExpertSettings, Stage1Settings, parse_config
from enecg.errors import JobFailed, one_line
from enecg.experiment import Experiment, open_experiment
from enecg.experts.contract import Expert
from enecg.records.store import decode
from enecg.signals import LEADS, N_SAMPLES
from enecg.stage1.adapted import backbone_with_lora, save_adapted, save_outputs
from enecg.stage1.augment import augment
from enecg.stage1.checkpoints import newest_whole, seal
from enecg.stage1.choosing import Outcome, Setup
from enecg.stage1.feeding import PIECE, Feed, Rows
from enecg.stage1.fitting import Progress
from enecg.stage1.head_space import HeadChoice
from enecg.stage1.train import Session, adapt_heads, train_backbones

MICRO_BATCH, FAILED = "micro_batch.json", "failed.json"


def train_expert(loop: dict[str, Any]) -> None:
    """Adapt one expert; the last reported checkpoint holds what `write_outcome` writes.

    Parameters
    ----------
    loop : dict
        ``config`` (the experiment's settings), ``deployed`` (whether something is trained on all
        groups), ``expert`` (its name there), ``tasks`` (names of those it has outputs for), ``job``
        (what it is called on the board), ``heads`` (the feed-forward heads to try), ``folder`` (the
        expert's, that all workers see), ``board`` (an actor that shows progress).
    """
    config = parse_config(loop["config"])
    name: str = loop["expert"]
    settings, folder = config.experts[name], Path(loop["folder"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(1)  # a worker has one CPU; and more threads would change the last bits
    # Every unit takes other numbers of records from a batch, and for each number, and convolution,
    # oneDNN compiles code; by default it forgets what is beyond 1,024 pieces.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
    device = ray.train.torch.get_device()
    if _hand_in_again(rank):
        return
    if (folder / FAILED).exists():  # what one worker found, no restart will mend
        _hand_in(_folder_with(FAILED, read_sealed_json(folder / FAILED)), rank)
        return
    stage1 = config.stage1
    if halved := (folder / MICRO_BATCH).exists():
        stage1 = stage1.model_copy(update=read_sealed_json(folder / MICRO_BATCH))
    experiment = open_experiment(config, loop["deployed"])
    tasks = [task for task in experiment.tasks if task.name in loop["tasks"]]
    setup = Setup(tasks, experiment.nested, experiment.targets, stage1, settings, config.seed)
    session = _session(loop["job"], rank, loop["board"], config.stage1.checkpoint_seconds)
    resumed = session.resume_from
    try:
        feed = _feed(experiment, name, stage1, device, rank, world)
        if settings.frozen:
            heads = [HeadChoice.model_validate(choice) for choice in loop["heads"]]
            outcome = adapt_heads(setup, heads, feed, session, device)
        else:
            outcome = train_backbones(
                setup,
                lambda: starting_backbone(name, settings),
                feed,
                session,
                device,
                _in_bf16(stage1, device),
            )
        if not experiment.nested.deployed:
            outcome.adapted.clear()  # its outputs are all that is used
        left = Path(tempfile.mkdtemp(prefix="enecg-outcome-"))
        if rank == 0:
            write_outcome(left, outcome)
    except JobFailed as failure:  # every worker fails alike; trying again would change nothing
        left = _folder_with(FAILED, {"why": one_line(failure)})
    except torch.OutOfMemoryError:
        _out_of_memory(folder, loop["job"], stage1, world, halved, loop["board"])
        raise
    if resumed is not None:
        shutil.rmtree(resumed, ignore_errors=True)
    peak = torch.tensor([peak_memory_mb()])
    if world > 1:
        peak = peak.to(device)
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    write_sealed_json(left / "memory.json", {"peak_memory_mb": float(peak)})
    _hand_in(left, rank)


def _feed(
    experiment: Experiment,
    name: str,
    stage1: Stage1Settings,
    device: torch.device,
    rank: int,
    world: int,
) -> Feed:
    """This worker's batches: features, or signals for a backbone that is trained."""
    config = experiment.config
    settings, n = config.experts[name], len(experiment.nested.outer_N)
    shard = ray.train.get_dataset_shard("inputs")
    key = "physical_sha256" if settings.frozen else "record_id"
    backbone = experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
    record_ids = experiment.store.index["record_id"].to_numpy(dtype=object)
    ready = settings.frozen or backbone.prepares_on == "cpu"  # when it comes from Ray Data
    if not ready:
        backbone = backbone.to(device)

    @torch.no_grad()
    def prepare(inputs: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(inputs)
        return tensor if ready else backbone.prepare(tensor.to(device)).cpu()

    def changed(x_BLT: np.ndarray, rows: Rows, epoch: int) -> np.ndarray:
        return augment(x_BLT, record_ids[rows], stage1.augment, config.seed, epoch)

    augmented = bool(stage1.augment) and not ready
    if settings.frozen:
        each = 4 * backbone.spec.width
    else:
        each = 4 * len(LEADS) * N_SAMPLES if augmented else _bytes_prepared(backbone)
    return Feed(
        lambda: _pieces(shard, key, experiment),
        prepare,
        n,
        each,
        config.seed,
        rank,
        world,
        augment=changed if augmented else None,
    )


def _in_bf16(stage1: Stage1Settings, device: torch.device) -> bool:
    """Whether a trained backbone computes in bfloat16."""
    if stage1.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return stage1.precision == "bf16"


def starting_backbone(name: str, settings: ExpertSettings) -> Expert:
    """Return the backbone that training starts from."""
    if settings.adaptation == "lora":
        return backbone_with_lora(name, settings)
    return experts.load(settings.backbone(name), weights=settings.weights, **settings.options)


def _out_of_memory(
    folder: Path, name: str, stage1: Stage1Settings, world: int, halved: bool, board: Any
) -> None:
    """Let the next start have half the micro-batch; if this one had that already, let it fail."""
    share = -(-stage1.batch_size // world)
    size = share if stage1.micro_batch == "auto" else min(share, stage1.micro_batch)
    if halved or size == 1:
        why = (
            f"out of device memory, even {size} records at a time; more workers, "
            "stage1.activation_checkpointing = blocks, or a higher stage1.zero_stage need less"
        )
        write_sealed_json(folder / FAILED, {"why": why})
        return
    write_sealed_json(folder / MICRO_BATCH, {"micro_batch": -(-size // 2)})
    text = (
        f"{name}: out of device memory; starts again with {-(-size // 2)} records at a time, "
        "their gradients added up"
    )
    ray.get(board.tell.remote(text))  # now: this process is about to end


def _device_memory_mb() -> float:
    """Peak memory of this worker's GPU, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_memory_mb()


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write outputs, models and choices of one expert to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_outputs(folder / "outputs.safetensors", outcome.outputs)
    save_adapted(folder, outcome.adapted)
    write_sealed_json(folder / "choices.json", outcome.choices)


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


@torch.no_grad()
def _bytes_prepared(backbone: Expert) -> int:
    """Size of one prepared record."""
    here = next((value.device for value in backbone.parameters()), None)
    one = backbone.prepare(torch.zeros(1, len(LEADS), N_SAMPLES, device=here))
    return one.element_size() * one.numel()


def _folder_with(name: str, value: Any) -> Path:
    """A new folder that holds one JSON file."""
    folder = Path(tempfile.mkdtemp(prefix="enecg-outcome-"))
    write_sealed_json(folder / name, value)
    return folder


class _Signals:
    """Stored signals of a batch; only those that are asked for get decoded."""

    def __init__(self, batch: dict[str, np.ndarray], source: Rows) -> None:
        self.batch, self.source = batch, source

    def __getitem__(self, places: Any) -> np.ndarray:
        chosen = self.source[places]
        return decode({name: values[chosen] for name, values in self.batch.items()})


def _pieces(shard: Any, key: str, experiment: Experiment) -> Iterator[tuple[Rows, Any]]:
    """Row numbers and raw inputs from Ray Data: features, or signals in mV."""
    rows_of: dict[str, list[int]] = {}
    for row, value in enumerate(experiment.store.index[key]):
        rows_of.setdefault(value, []).append(row)
    waiting = len(experiment.nested.outer_N)
    for batch in shard.iter_batches(batch_size=PIECE, batch_format="numpy"):
        # Identical signals share a key; and two jobs may have stored features of the same record.
        found = [rows_of.pop(value, []) for value in batch[key]]
        rows = np.array([row for many in found for row in many], dtype=np.int64)
        source = np.repeat(np.arange(len(found)), [len(many) for many in found])
        if "signal" in batch:
            yield rows, _Signals(batch, source)
        else:
            column = "features" if "features" in batch else "inputs"
            yield rows, np.asarray(batch[column], dtype=np.float32)[source]
        waiting -= len(rows)
    if waiting:
        raise RuntimeError(
            f"{waiting} of {len(experiment.nested.outer_N)} records were not delivered"
        )


def _session(name: str, rank: int, board: Any, checkpoint_seconds: float) -> Session:
    """Take up what an interrupted run of this job reported last, and report from here on."""
    session = Session()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        found = newest_whole(
            Path(checkpoint.path).parent,
            lambda text: board.tell.remote(f"{name}: {text}") if rank == 0 else None,
        )
        if found is not None:
            folder = Path(tempfile.mkdtemp(prefix="enecg-resume-"))
            shutil.copytree(found, folder, dirs_exist_ok=True)
            session.finished = torch.load(folder / "finished.pt", weights_only=True)
            session.resume_from = folder
    last = time.monotonic()

    def report(
        what: str, finished: dict[str, Any], progress: Progress, save: Callable[[Path], None]
    ) -> None:
        nonlocal last
        due = torch.tensor([float(time.monotonic() - last >= checkpoint_seconds)])
        due = due.to(ray.train.torch.get_device())
        dist.broadcast(due, src=0)  # checkpoints are collective: the first worker's clock decides
        metrics: dict[str, float] = {"epoch": progress.epoch}
        if progress.loss is not None:
            metrics["validation_loss"] = progress.loss
        if rank == 0:
            board.post.remote(
                name,
                state=what,
                epoch=progress.epoch,
                epochs=progress.epochs,
                rate=progress.rate,
                loss=progress.loss,
                memory_mb=_device_memory_mb(),
            )
        if not due.item():
            ray.train.report(metrics)
            return
        folder = Path(tempfile.mkdtemp(prefix="enecg-checkpoint-"))
        save(folder)
        if rank == 0:
            torch.save(finished, folder / "finished.pt")
        seal(folder, rank, dist.get_world_size())
        ray.train.report(
            metrics,
            checkpoint=Checkpoint.from_directory(str(folder)),
            delete_local_checkpoint_after_upload=True,
        )
        last = time.monotonic()

    def solved(done: int, of: int) -> None:
        if rank == 0:
            board.post.remote(name, state=f"heads: {done} of {of} solved")

    session.report, session.solved = report, solved
    return session
