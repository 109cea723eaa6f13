"""Stage 1: every expert's own Ray Train job, side by side as far as the resources go."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.table import Table

from enecg import __version__, experts
from enecg.checked_files import DamagedFile, check_sealed, read_sealed_json
from enecg.cluster import check_shared, peak_memory_mb, read_parquet
from enecg.config import Config
from enecg.errors import JobFailed, UserError, last_line
from enecg.experiment import Experiment, answered
from enecg.experts.contract import Expert
from enecg.files import fingerprint
from enecg.ownership import claim
from enecg.progress import say, show
from enecg.run_folder import begin, facts_of, finish, is_done
from enecg.stage1.board import Board, watch
from enecg.stage1.embed import BATCH, Decoder, compute_features, missing
from enecg.stage1.feature_store import FeatureStore
from enecg.stage1.head_space import head_choices
from enecg.stage1.plan import (
    Job,
    job_of,
    measured,
    plan_table,
    repeats_line,
    shortage,
    startable,
)
from enecg.stage1.worker import FAILED, MICRO_BATCH, train_expert

RESTARTS = 3
"""How often a job whose worker died starts again from its last checkpoint."""
REVISION = 3
"""Raised whenever any stage gives other numbers for the same settings than before: finished runs
are then made anew, from the experts on."""
OUTCOME_FILES = ("outputs.safetensors", "models.safetensors", "models.json", "choices.json")


def expert_folder(config: Config, name: str) -> Path:
    """Return where an expert's results stand."""
    return Path(config.run_dir) / "experts" / name


def expert_fingerprint(experiment: Experiment, name: str, expert: Expert | None = None) -> str:
    """Return the fingerprint of all that an expert's results depend on.

    ``expert`` is the one called ``name``, where it has been loaded already.
    """
    config = experiment.config
    settings = config.experts[name]
    if expert is None:
        expert = experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
    changes_nothing = {"max_parallel", "checkpoint_seconds", "placement"}
    of_backbones = {"precision", "augment", "activation_checkpointing"}
    of_heads = {"heads", "head_trials", "head_space", "feature_format"}
    changes_nothing |= {"head_space", *(of_backbones if settings.frozen else of_heads)}
    stage1 = config.stage1.model_copy(update={"heads": settings.heads or config.stage1.heads})
    trains = not settings.frozen or "ffn" in stage1.heads
    if not trains:  # all heads are solved or grown, in no epochs
        changes_nothing |= {"epochs", "patience", "batch_size", "micro_batch", "learning_rate",
                            "weight_decay", "clip", "zero_stage", "head_trials"}  # fmt: skip
    heads = [choice.model_dump() for choice in head_choices(config.stage1, config.seed)]
    return fingerprint(
        {
            "version": [__version__, REVISION],
            "records": experiment.store.fingerprint,
            "tasks": [vars(task) for task in answered(experiment.tasks, expert.spec)],
            "folds": [config.fold_column or config.folds, config.inner_folds, config.seed],
            "scopes": experiment.nested.scopes,  # outputs are stored in their order
            "backbone": expert.fingerprint(),
            "adaptation": [settings.adaptation, settings.final_rule, settings.lora_rank],
            "heads": heads if settings.frozen and trains else [],
            "stage1": stage1.model_dump(exclude=changes_nothing),
        }
    )


@dataclass(frozen=True)
class Work:
    """One expert that has something to do in one repeat.

    Attributes
    ----------
    experiment : Experiment
        The repeat.
    name : str
        The expert's, in the config.
    job : Job
        What its training needs.
    expert : Expert
        Loaded, in the driver.
    features : FeatureStore or None
        Where its features are; None where the backbone is trained.
    print : str
        Fingerprint of all that its results depend on.
    tasks : list of str
        What it has outputs for.
    """

    experiment: Experiment
    name: str
    job: Job
    expert: Expert
    features: FeatureStore | None
    print: str
    tasks: list[str]

    @property
    def folder(self) -> Path:
        """Where its results stand."""
        return expert_folder(self.experiment.config, self.name)


def plan_experts(experiment: Experiment) -> tuple[list[Work], Table]:
    """Find out what is to be done, in all repeats; nothing is started.

    Returns
    -------
    list of Work
        For the experts that are not done yet: repeat by repeat, in the config's order.
    Table
        The plan for people to read.

    Raises
    ------
    UserError
        A job needs more than the cluster has.
    """
    config, repeats = experiment.config, experiment.repeats
    todo: list[Work] = []
    kept: list[str] = []
    for name, settings in config.experts.items():
        expert = experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
        cost = measured(expert, settings)
        features, lacking, rate = None, None, None
        for one in repeats:
            print_ = expert_fingerprint(one, name, expert)
            if is_done(expert_folder(one.config, name), print_):
                kept.append(one.called(name))
                continue
            if config.stage1.augment and not settings.frozen and expert.prepares_on == "cpu":
                raise UserError(
                    f"stage1.augment: {name} is prepared before training, by CPU workers; train it "
                    "without (augment: [])"
                )
            if settings.frozen and lacking is None:
                format_ = config.stage1.feature_format
                features = FeatureStore.of(config.features_dir, expert, format_)
                lacking, rate = len(missing(one.store.index, features.keys())), features.rate()
            job = job_of(one, name, expert, lacking or 0, rate, cost)
            lacking = 0 if settings.frozen else None  # the first job to come computes them for all
            tasks = [task.name for task in answered(one.tasks, expert.spec)]
            todo.append(Work(one, name, job, expert, features, print_, tasks))
    todo.sort(key=lambda work: work.experiment.repeat)
    first = [work.job for work in todo if work.experiment.repeat == 1]
    further = {
        name: [w.job for w in todo if w.name == name and w.experiment.repeat > 1]
        for name in config.experts
    }
    kept_first = [name for name in config.experts if name in kept]
    line = repeats_line(further, len(kept) - len(kept_first), len(repeats))
    return todo, plan_table(first, kept_first, most_side_by_side(config), line)


def train_experts(experiment: Experiment) -> None:
    """Bring every expert's results up to date in all repeats; those that are, are left alone.

    Raises
    ------
    JobFailed
        Some experts failed; names them and says why. The others' results are kept.
    UserError
        A job needs more than the cluster has, or the machines do not share the run folder.
    """
    config = experiment.config
    todo, plan = plan_experts(experiment)
    names = {work.job.name for work in todo}
    every = [one.called(name) for one in experiment.repeats for name in config.experts]
    for name in every:
        if name not in names:
            say(f"{name}: done before, kept")
    if not todo:
        return
    show(plan)
    places = [Path(config.run_dir), config.features_dir]
    claim("features", config.features_dir, "features")
    check_shared(*places, *([] if experiment.store.folder.remote else [experiment.store.path]))
    failures: dict[str, str] = {}
    datasets: dict[str, Any] = {}
    peaks: dict[str, float] = {}
    for work in todo:
        name = work.job.name
        try:
            begin(work.folder, work.print)
            datasets[name], peaks[name] = _inputs(work)
        except Exception as error:  # one expert's failure must not stop the others
            failures[name] = last_line(error)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # With the driver: it must not go down with a machine that the jobs survive.
    board: Any = ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote()
    waiting = [work for work in todo if work.job.name in datasets]
    for work in waiting:
        board.post.remote(work.job.name, state="waiting for room")
    running: dict[str, tuple[Work, Future[None]]] = {}
    limit = most_side_by_side(config)
    pool = ThreadPoolExecutor(len(todo))
    short: set[str] = set()

    def mind_lost_machines(jobs: list[Job]) -> None:
        """Say so where a job waits for a machine: Ray starts it again as soon as one joins."""
        for job in jobs:
            lacks = shortage(job)
            if lacks is not None and job.name not in short:
                short.add(job.name)
                board.post.remote(job.name, state="waiting for a machine")
                say(f"{job.name}: waits for a machine to join; it needs {lacks}")
            elif lacks is None and job.name in short:
                short.remove(job.name)
                board.post.remote(job.name, state="starting again")
                say(f"{job.name}: there is room again")

    def advance() -> bool:
        """Start what has room, take note of what has ended; say whether all have."""
        for name, (_, future) in list(running.items()):
            if future.done():
                del running[name]
                if (error := future.exception()) is not None:
                    failures[name] = last_line(error)
                    board.post.remote(name, state=f"failed: {failures[name]}")
        busy = [work.job for work, _ in running.values()]
        for job in startable([work.job for work in waiting], busy, limit):
            work = next(work for work in waiting if work.job is job)
            waiting.remove(work)
            future = pool.submit(_run_job, work, datasets[job.name], peaks[job.name], board)
            running[job.name] = (work, future)
        mind_lost_machines([*(w.job for w, _ in running.values()), *(w.job for w in waiting)])
        return not running and not waiting

    try:
        watch(board, advance)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt must not wait for training
    if failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        done = [name for name in every if name not in failures]
        raise JobFailed(
            f"{len(failures)} of {len(every)} experts failed – {reasons}. "
            f"Kept: {', '.join(done) or 'none'}; the same command tries the failed ones again"
        )


def most_side_by_side(config: Config) -> int:
    """Return how many experts may train side by side, if there is room."""
    wanted = config.stage1.max_parallel
    return len(config.experts) * config.repeats if wanted == "auto" else wanted


def _inputs(work: Work) -> tuple[Any, float]:
    """The Ray dataset a job reads: features where the backbone is frozen, else signals."""
    experiment, settings = work.experiment, work.experiment.config.experts[work.name]
    if work.features is None:
        signals = experiment.store.dataset()
        if work.expert.prepares_on == "cpu":
            cpus = int(ray.cluster_resources()["CPU"])
            signals = signals.map_batches(
                Decoder,
                fn_constructor_args=((work.expert.name, work.expert.options),),
                batch_size=BATCH,
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=max(1, cpus - 1 - work.job.workers)
                ),
                # Where workers hold all CPUs but one, reading takes that one: these processes
                # would wait for a job to end, or, if they came first, reading would.
                num_cpus=0,
            )
        return signals, 0.0
    peak = compute_features(experiment.store, work.features, work.expert, settings)
    return read_parquet([str(path) for path in work.features.parts]), peak


def _run_job(work: Work, dataset: Any, peak: float, board: Any) -> None:
    """Run one expert's job to its end and take its results into the run folder."""
    started = time.monotonic()
    config, name, job, folder = work.experiment.config, work.job.name, work.job, work.folder
    board.post.remote(name, state="starting")
    options = ray.data.ExecutionOptions(preserve_order=True)
    trainer = TorchTrainer(
        train_expert,
        train_loop_config={
            # A worker has to do with its own repeat alone.
            "config": config.located().model_copy(update={"repeats": 1}).model_dump(),
            "deployed": work.experiment.nested.deployed,
            "expert": work.name,
            "job": name,
            "tasks": work.tasks,
            "heads": [choice.model_dump() for choice in head_choices(config.stage1, config.seed)],
            "folder": str(folder.resolve()),
            "board": board,
        },
        datasets={"inputs": dataset},
        # Every worker reads all records and takes its share of each batch (see feeding.py);
        # Ray's own split may drop rows to make the shares equal.
        dataset_config=ray.train.DataConfig(datasets_to_split=[], execution_options=options),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.workers,
            use_gpu=job.gpus > 0,
            resources_per_worker={"CPU": 1} | ({"GPU": job.gpus} if job.gpus > 0 else {}),
            placement_strategy=config.stage1.placement.upper(),
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(folder.resolve()),
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    )
    checkpoint = trainer.fit().checkpoint
    if checkpoint is None:
        raise JobFailed("the training job ended without results")
    with checkpoint.as_directory() as results:
        outcome = Path(results)
        if (outcome / FAILED).exists():
            why = read_sealed_json(outcome / FAILED)["why"]
            (folder / FAILED).unlink(missing_ok=True)
            (folder / MICRO_BATCH).unlink(missing_ok=True)
            _discard(folder / "train")  # else the next try would resume at the failure
            raise JobFailed(why)
        try:
            for file in OUTCOME_FILES:
                shutil.copyfile(outcome / file, folder / file)
                check_sealed(folder / file)
            memory = read_sealed_json(outcome / "memory.json")["peak_memory_mb"]
        except DamagedFile as error:
            _discard(folder / "train")  # else the next try would hand in the same again
            raise JobFailed(
                f"{error.place} {error.problem}; the same command trains {name} again"
            ) from None
    finish(
        folder,
        work.print,
        OUTCOME_FILES,
        seconds=round(time.monotonic() - started, 1),
        worker_peak_memory_mb=max(memory, peak),
        driver_peak_memory_mb=peak_memory_mb(),
    )
    _discard(folder / "train")  # checkpoints: several times the size of the results
    board.post.remote(name, state=f"done in {facts_of(folder)['seconds']:.0f} s")


def _discard(folder: Path) -> None:
    """Remove a job's checkpoints; half removed, under the same name, Ray would trip over them."""
    doomed = folder.with_name(f"{folder.name}.discarded")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
