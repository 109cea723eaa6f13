"""Choosing among the trials, on training groups alone, and refitting what was chosen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from enecg.cluster import peak_memory_mb
from enecg.gate.combine import greedy_selection
from enecg.gate.network import Gates
from enecg.gate.search import predictions_path
from enecg.gate.space import GateChoice
from enecg.gate.trial import Arrays, refit
from enecg.progress import counting
from enecg.stage1.adapted import load_outputs
from enecg.tasks import Task

Key = tuple[str, str]
"""(task, scope)."""


@dataclass(frozen=True)
class Chosen:
    """Trials chosen for one task in one scope.

    Attributes
    ----------
    best : int
        The trial with the least out-of-fold loss.
    members : Counter
        Trial → how often greedy selection drew it.
    """

    best: int
    members: Counter[int]


@dataclass(frozen=True)
class GateEnsemble:
    """Trained gates whose weights are averaged, each as often as it was drawn.

    Attributes
    ----------
    members : list of (int, Gates)
        How often, and a single gate (U = 1).
    """

    members: list[tuple[int, Gates]]

    def weights(self, view_BLT: npt.NDArray[np.float16], experts: list[str]) -> torch.Tensor:
        """Return one weight per record and expert, shape (B, E); they sum to 1."""
        total = torch.zeros(len(view_BLT), len(experts))
        for count, gate in self.members:
            total += count * gate.weights(view_BLT, experts)[0]
        return total / sum(count for count, _ in self.members)


def choose(folder: Path, choices: list[GateChoice], arrays: Arrays, size: int) -> dict[Key, Chosen]:
    """Rank the trials of a search and select its ensemble, for every task and scope.

    Parameters
    ----------
    folder : Path
        The search's folder.
    choices : list of GateChoice
        What its trials tried.
    arrays : Arrays
    size : int
        Draws of the greedy selection.
    """
    chosen: dict[Key, Chosen] = {}
    nested = arrays.nested
    trials = [load_outputs(predictions_path(folder, choice)) for choice in choices]
    for task in arrays.tasks:
        for number, scope in enumerate(nested.scopes):
            training = nested.training(scope)
            target_B = arrays.targets[task.name][training]
            predictions = [trial[task.name][number][training] for trial in trials]
            losses = [task.loss(target_B, prediction) for prediction in predictions]
            members = greedy_selection(task, predictions, target_B, size)
            chosen[task.name, scope] = Chosen(int(np.argmin(losses)), members)
    return chosen


def refit_chosen(
    chosen: dict[Key, Chosen], choices: list[GateChoice], arrays: Arrays
) -> tuple[dict[tuple[str, str, int], Gates], float]:
    """Train every chosen gate on all training records of the scopes that chose it.

    Returns
    -------
    dict
        (task, scope, trial) → a single gate.
    float
        Peak memory of the largest worker in MB.
    """
    wanted: dict[tuple[str, int], list[str]] = {}
    for (task, scope), choice in chosen.items():
        for trial in sorted({choice.best, *choice.members}):
            wanted.setdefault((task, trial), []).append(scope)
    tasks = {task.name: task for task in arrays.tasks}
    shared = ray.put(arrays)
    pending = {
        _refit_remotely.remote(choices[trial], shared, tasks[task], scopes): (task, trial, scopes)
        for (task, trial), scopes in wanted.items()
    }
    gates: dict[tuple[str, str, int], Gates] = {}
    peak = 0.0
    with counting("chosen gates, on all training records", len(pending), "gates") as progress:
        while pending:
            [ready], _ = ray.wait(list(pending), num_returns=1)
            task_name, trial, scopes = pending.pop(ready)
            trained, memory = ray.get(ready)
            for unit, scope in enumerate(scopes):
                gates[task_name, scope, trial] = trained.of_unit(unit)
            peak = max(peak, memory)
            progress.advance(1)
    return gates, peak


@ray.remote(num_cpus=1)
def _refit_remotely(
    choice: GateChoice, arrays: Arrays, task: Task, scopes: list[str]
) -> tuple[Any, float]:
    torch.set_num_threads(1)
    return refit(choice, arrays, task, scopes), peak_memory_mb()
