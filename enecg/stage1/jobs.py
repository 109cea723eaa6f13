"""Stage 1: every expert's own Ray Train job, side by side as far as the resources go."""

from __future__ import annotations

import math
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from enecg import __version__, experts
from enecg.cluster import peak_memory_mb
from enecg.config import Config
from enecg.errors import JobFailed, UserError, last_line
from enecg.experiment import Experiment
from enecg.files import fingerprint, read_json
from enecg.progress import say
from enecg.run_folder import begin, facts_of, finish, is_done
from enecg.stage1.board import Board, watch
from enecg.stage1.embed import compute_features
from enecg.stage1.worker import train_expert

RESTARTS = 3
"""How often a job whose worker died starts again from its last checkpoint."""
OUTCOME_FILES = ("outputs.safetensors", "models.safetensors", "models.json", "choices.json")


def expert_folder(config: Config, name: str) -> Path:
    """Return where an expert's results stand."""
    return Path(config.run_dir) / "experts" / name


def expert_fingerprint(experiment: Experiment, name: str) -> str:
    """Return the fingerprint of all that an expert's results depend on."""
    config = experiment.config
    settings = config.experts[name]
    backbone = experts.load(name, weights=settings.weights, **settings.options)
    changes_nothing = {"max_parallel", "checkpoint_seconds"}
    changes_nothing.add("precision" if settings.frozen else "heads")
    return fingerprint(
        {
            "version": __version__,
            "records": experiment.store.fingerprint,
            "tasks": [vars(task) for task in experiment.tasks],
            "folds": [config.fold_column or config.folds, config.inner_folds, config.seed],
            "backbone": backbone.fingerprint(),
            "adaptation": [settings.adaptation, settings.final_rule],
            "stage1": config.stage1.model_dump(exclude=changes_nothing),
        }
    )


def train_experts(experiment: Experiment) -> None:
    """Bring every expert's results up to date; those that are, are left alone.

    Raises
    ------
    JobFailed
        Some experts failed; names them and says why. The others' results are kept.
    UserError
        A job needs more than the cluster has.
    """
    config = experiment.config
    prints = {name: expert_fingerprint(experiment, name) for name in config.experts}
    wanted = [name for name in prints if not is_done(expert_folder(config, name), prints[name])]
    for name in prints:
        if name not in wanted:
            say(f"{name}: done before, kept")
    if not wanted:
        return
    side_by_side = parallel_jobs(config)
    failures: dict[str, str] = {}
    datasets: dict[str, Any] = {}
    peaks: dict[str, float] = {}
    for name in wanted:
        begin(expert_folder(config, name), prints[name])
        try:
            datasets[name], peaks[name] = _inputs(experiment, name)
        except Exception as error:  # one expert's failure must not stop the others
            failures[name] = last_line(error)
    board = ray.remote(num_cpus=0)(Board).remote()
    pool = ThreadPoolExecutor(side_by_side)
    try:
        jobs: dict[str, Future[None]] = {
            name: pool.submit(_run_job, config, name, dataset, peaks[name], prints[name], board)
            for name, dataset in datasets.items()
        }
        watch(board, lambda: all(job.done() for job in jobs.values()))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt must not wait for training
    for name, job in jobs.items():
        if (failure := job.exception()) is not None:
            failures[name] = last_line(failure)
    if failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        kept = [name for name in config.experts if name not in failures]
        raise JobFailed(
            f"{len(failures)} of {len(config.experts)} experts failed – {reasons}. "
            f"Kept: {', '.join(kept) or 'none'}; the same command tries the failed ones again"
        )


def parallel_jobs(config: Config) -> int:
    """Return how many experts train side by side.

    One CPU stays free for Ray Data: jobs that held every CPU would wait for their data forever.

    Raises
    ------
    UserError
        Not even one job fits.
    """
    resources = ray.cluster_resources()
    workers = config.stage1.workers
    fitting = int(resources.get("CPU", 0) - 1) // workers
    if (gpus := gpus_per_worker(config)) > 0:
        fitting = min(fitting, math.floor(resources.get("GPU", 0) / (workers * gpus) + 1e-6))
    if fitting < 1:
        raise UserError(
            f"stage1.workers = {workers} needs {workers + 1} CPUs and {workers * gpus:g} GPUs; "
            f"the cluster has {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
        )
    wanted = config.stage1.max_parallel
    return fitting if wanted == "auto" else min(wanted, fitting)


def gpus_per_worker(config: Config) -> float:
    """Return the GPUs that each train worker takes."""
    if config.stage1.gpus_per_worker != "auto":
        return config.stage1.gpus_per_worker
    return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0


def _inputs(experiment: Experiment, name: str) -> tuple[Any, float]:
    """The Ray dataset a job reads: features where the backbone is frozen, else signals."""
    config = experiment.config
    settings = config.experts[name]
    if not settings.frozen:
        return experiment.store.dataset(), 0.0
    features, peak = compute_features(experiment.store, config.features_dir, name, settings)
    return ray.data.read_parquet([str(path) for path in features.parts]), peak


def _run_job(config: Config, name: str, dataset: Any, peak: float, print_: str, board: Any) -> None:
    """Run one expert's job to its end and take its results into the run folder."""
    started = time.monotonic()
    folder = expert_folder(config, name)
    board.post.remote(name, "starting")
    options = ray.data.ExecutionOptions(preserve_order=True)
    trainer = TorchTrainer(
        train_expert,
        train_loop_config={
            "config": config.located().model_dump(),
            "expert": name,
            "board": board,
        },
        datasets={"inputs": dataset},
        # Every worker reads all records and takes its share of each batch (see feeding.py);
        # Ray's own split may drop rows to make the shares equal.
        dataset_config=ray.train.DataConfig(datasets_to_split=[], execution_options=options),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.stage1.workers,
            use_gpu=gpus_per_worker(config) > 0,
            resources_per_worker={"CPU": 1}
            | ({"GPU": gpus_per_worker(config)} if gpus_per_worker(config) > 0 else {}),
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
        if (outcome / "failed.json").exists():
            why = read_json(outcome / "failed.json")["why"]
            _discard(folder / "train")  # else the next try would resume at the failure
            raise JobFailed(why)
        for file in OUTCOME_FILES:
            shutil.copyfile(outcome / file, folder / file)
        memory = read_json(outcome / "memory.json")["peak_memory_mb"]
    finish(
        folder,
        print_,
        seconds=round(time.monotonic() - started, 1),
        worker_peak_memory_mb=max(memory, peak),
        driver_peak_memory_mb=peak_memory_mb(),
    )
    _discard(folder / "train")  # checkpoints: several times the size of the results
    board.post.remote(name, f"done in {facts_of(folder)['seconds']:.0f} s")


def _discard(folder: Path) -> None:
    """Remove a job's checkpoints; half removed, under the same name, Ray would trip over them."""
    doomed = folder.with_name(f"{folder.name}.discarded")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
