"""Runs of the probe expert, for faults to strike."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from enecg.config import parse_config
from enecg.experiment import Experiment, open_experiment
from enecg.records import RecordStore
from enecg.stage1.adapted import load_outputs
from enecg.stage1.jobs import expert_folder, train_experts
from extra_experts.probe import calls_by
from runs import settings


def experiment_in(folder: Path, store: RecordStore, adaptation: str, **stage1: Any) -> Experiment:
    """An experiment with the probe expert; its hooks are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    values = settings(
        store.path,
        folder / "run",
        tasks=["gender"],
        features=str(folder / "features"),
        experts={"probe": {"adaptation": adaptation, "hooks": str(folder)}},
        stage1={"epochs": 3, "batch_size": 32, "heads": ["ridge"], "checkpoint_seconds": 0}
        | stage1,
    )
    return open_experiment(parse_config(values))


def outputs_of(experiment: Experiment) -> np.ndarray:
    folder = expert_folder(experiment.config, "probe")
    return load_outputs(folder / "outputs.safetensors")["gender"]


def disturbed(experiment: Experiment, inject: Callable[[], bool]) -> None:
    """Train, and call ``inject`` until it has done its work."""
    failures: list[BaseException] = []

    def train() -> None:
        try:
            train_experts(experiment)
        except BaseException as error:
            failures.append(error)

    running = threading.Thread(target=train)
    running.start()
    done = False
    while running.is_alive():
        done = done or inject()
        time.sleep(0.05)
    if failures:
        raise failures[0]
    assert done, "it ended before anything was injected"


def workers(folder: Path) -> list[int]:
    """Living processes other than this one that called the backbone, the last one last."""
    called = dict.fromkeys(process for _, process in calls_by(folder) if process != os.getpid())
    return [process for process in called if Path(f"/proc/{process}").exists()]
