"""What goes into the bundle: decided by rule, on training groups alone, in every scope.

Two ways of using gates (the bagged greedy selection, the mean of the best trials) stand against
plain ones (the best expert, the experts' uniform mean, one learned weight per expert by least
squares, and for values also by the least absolute error). Each is fitted without one inner fold at
a time and judged on that fold. The gates are taken if they are better than the best plain way by
more than one standard error of the difference (over groups); otherwise the plain way is: what looks
at every record anew has to be worth it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from enecg.cluster import peak_memory_mb
from enecg.config import EnsembleSettings
from enecg.evaluation.thresholds import Aim, choose_thresholds
from enecg.evaluation.value_ranges import fit_half_width
from enecg.gate.calibration import UNCHANGED, Calibration, fit_calibration
from enecg.gate.combine import (
    absolute_weights,
    bagged_selection,
    best_trials,
    dummy,
    mean_of,
    mix,
    stacking_weights,
)
from enecg.gate.network import Gates, constant_gate
from enecg.gate.space import GateChoice
from enecg.gate.trial import Arrays, refit
from enecg.gate.tuning import Trial
from enecg.progress import counting
from enecg.tasks import Task, known

Key = tuple[str, str]
"""(task, scope)."""
TrainedGates = dict[tuple[str, str, int], Gates]
"""(task, scope, trial) → a single gate."""
GATED = ("greedy", "best trials")
PLAIN = ("best expert", "uniform", "stacking", "absolute_stacking")
"""The last for values alone."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one task in one scope.

    Attributes
    ----------
    way : str
        One of `GATED` or `PLAIN`.
    members : Counter
        Trial → how often it is in the ensemble; empty for a plain way.
    weights : dict of str to float
        By expert, for a plain way; else empty.
    calibration : Calibration
        For the ensemble's predictions.
    best : int
        The trial with the least out-of-fold loss.
    stacking, absolute_stacking : dict of str to float
        The weights of the ways of these names; the second is empty for classes.
    thresholds : tuple of float
        By class, for the calibrated probabilities; empty for values and where none are wanted.
    half_width : float or None
        Half the width of the prediction interval around calibrated values; None for classes.
    best_plain : str
        What that trial is where it is no gate that looks at records: one expert, or the mean of
        all; else empty.
    losses : dict of str to float
        By way: the loss on inner folds that it was fitted without.
    gain, error : float
        How much less the better gated way loses than the best plain one, and the standard error.
    """

    way: str
    members: Counter[int]
    weights: dict[str, float]
    calibration: Calibration
    best: int
    stacking: dict[str, float]
    absolute_stacking: dict[str, float] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    half_width: float | None = None
    best_plain: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    gain: float = 0.0
    error: float = 0.0

    def ensemble(self, key: Key, gates: TrainedGates) -> GateEnsemble:
        """Return the chosen ensemble, of trained gates."""
        members = [(count, gates[(*key, trial)]) for trial, count in sorted(self.members.items())]
        return GateEnsemble(
            members or [(1, constant_gate(self.weights))],
            self.calibration,
            self.thresholds,
            self.half_width,
        )


@dataclass(frozen=True)
class GateEnsemble:
    """Trained gates whose predictions are averaged, each as often as it was drawn.

    Attributes
    ----------
    members : list of (int, Gates)
        How often, and a single gate (U = 1).
    calibration : Calibration
    thresholds : tuple of float
        By class, of calibrated probabilities: see `enecg.evaluation.thresholds`.
    half_width : float or None
        Of the prediction interval: see `enecg.evaluation.value_ranges`.
    """

    members: list[tuple[int, Gates]]
    calibration: Calibration = UNCHANGED
    thresholds: tuple[float, ...] = ()
    half_width: float | None = None

    def predict(
        self,
        view_BLT: npt.NDArray[np.float16],
        outputs_BEC: npt.NDArray[np.float32],
        experts: list[str],
        task: Task,
        features_BEK: npt.NDArray[np.float32] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mix the experts' outputs.

        Parameters
        ----------
        view_BLT : array, shape (B, 12, 200)
            What `network.gate_view` gives.
        outputs_BEC : array, shape (B, E, C)
            NaN where an expert has no output: the others' weights then sum to 1.
        experts : list of str
            Names of the E experts.
        task : Task
        features_BEK : array, shape (B, E, K), optional
            What is seen of the experts' features, where some gate sees it.

        Returns
        -------
        predictions : float32 array, shape (B, C)
            NaN where no expert that any member weighs has an output.
        weights : float32 array, shape (B, E)
        """
        total_BC = np.zeros((len(view_BLT), task.width))
        weights_BE = np.zeros((len(view_BLT), len(experts)))
        counted_B = np.zeros(len(view_BLT))
        for count, gate in self.members:
            places = [experts.index(name) for name in gate.choice.experts]
            shown = np.ascontiguousarray(outputs_BEC[None, :, places])
            features = None if features_BEK is None else features_BEK[None, :, places]
            [mixed_BC], [shares_BE] = gate.predict(view_BLT, shown, task, features)
            there_B = ~np.isnan(mixed_BC).any(1)
            total_BC[there_B] += count * mixed_BC[there_B]
            weights_BE[:, places] += count * there_B[:, None] * shares_BE
            counted_B += count * there_B
        with np.errstate(invalid="ignore"):  # 0 / 0: nobody has an output
            mean_BC = (total_BC / counted_B[:, None]).astype(np.float32)
        weights_BE /= np.maximum(counted_B, 1)[:, None]
        return self.calibration.apply(mean_BC, task), weights_BE.astype(np.float32)


def choose(
    folder: Path, trials: list[Trial], arrays: Arrays, settings: EnsembleSettings
) -> dict[Key, Chosen]:
    """Decide, for every task and scope, what its ensemble is.

    Parameters
    ----------
    folder : Path
        The search's folder.
    trials : list of Trial
        Those that are not finished take no part.
    arrays : Arrays
    settings : EnsembleSettings
    """
    finished = [n for n, trial in enumerate(trials) if trial.path(folder).exists()]
    predictions = {number: trials[number].predictions(folder) for number in finished}
    chosen: dict[Key, Chosen] = {}
    for task in arrays.tasks:
        for scope in arrays.nested.scopes:
            own = {n: trials[n].choice.among(arrays.experts_of(task)) for n in finished}
            of_task = {n: choice for n, choice in own.items() if choice is not None}
            of_scope = [number for number in of_task if scope in trials[number].scopes]
            candidates = [
                predictions[number][task.name][trials[number].scopes.index(scope)]
                for number in of_scope
            ]
            found = choose_way(task, scope, candidates, arrays, settings)
            members = Counter({of_scope[place]: count for place, count in found.members.items()})
            best = of_scope[found.best]
            chosen[task.name, scope] = replace(
                found, members=members, best=best, best_plain=plain_name(of_task[best])
            )
    return chosen


def plain_name(choice: GateChoice) -> str:
    """Name what a choice is where it looks at no record: ``rocket alone`` or ``the mean``."""
    if choice.epochs:
        return ""
    return f"{choice.experts[0]} alone" if len(choice.experts) == 1 else "the experts' mean"


def choose_way(
    task: Task,
    scope: str,
    candidates: list[npt.NDArray[np.float32]],
    arrays: Arrays,
    settings: EnsembleSettings,
) -> Chosen:
    """Decide for one task in one scope; trials go by their place among the candidates.

    Parameters
    ----------
    candidates : list of K arrays, shape (N, C)
        The trials' out-of-fold predictions in this scope.
    """
    nested, names = arrays.nested, arrays.experts_of(task)
    places = [arrays.experts.index(name) for name in names]
    labelled = nested.training(scope) & known(arrays.targets[task.name])
    target_B = arrays.targets[task.name][labelled]
    outputs_BEC = arrays.outputs[task.name][nested.scopes.index(scope)][labelled][:, places]
    part_B, group_B = nested.inner_N[labelled], nested.group_N[labelled]
    predictions = [one[labelled] for one in candidates]
    experts = list(outputs_BEC.transpose(1, 0, 2))
    filler_BC = dummy(task, target_B, len(target_B))

    def filled(prediction_BC: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What has no output is counted as if it said what the dummy says."""
        return np.where(np.isnan(prediction_BC), filler_BC[: len(prediction_BC)], prediction_BC)

    predictions = [filled(one) for one in predictions]

    def members(way: str, rows: npt.NDArray[np.bool_]) -> Counter[int]:
        given = ([one[rows] for one in predictions], target_B[rows], settings.size)
        if way == "greedy":
            return bagged_selection(task, *given, settings.bags, arrays.seed)
        return best_trials(task, *given)

    def weights(way: str, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        if way == "stacking":
            return stacking_weights(task, outputs_BEC[rows], target_B[rows])
        if way == "absolute_stacking":
            return absolute_weights(outputs_BEC[rows], target_B[rows])
        if way == "uniform":
            return np.full(len(names), 1 / len(names))
        losses = [task.loss(target_B[rows], filled(one[rows])) for one in experts]
        return np.eye(len(names))[int(np.argmin(losses))]

    def predict(way: str, learned: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        if way in GATED:
            return mean_of(predictions, members(way, learned))
        return filled(mix(outputs_BEC, weights(way, learned)))

    ways = [way for way in PLAIN if way != "absolute_stacking" or task.kind == "regression"]
    honest: dict[str, npt.NDArray[Any]] = {}
    for way in (*ways, *GATED):
        honest[way] = np.zeros((len(target_B), task.width), dtype=np.float32)
        for part in np.unique(part_B):
            out = part_B == part
            honest[way][out] = predict(way, ~out)[out]
    losses = {way: task.loss(target_B, one) for way, one in honest.items()}
    gated, plain = (min(given, key=losses.__getitem__) for given in (GATED, ways))
    gain, error = gain_with_error(
        task.losses(target_B, honest[plain]) - task.losses(target_B, honest[gated]), group_B
    )
    way = gated if gain > error else plain
    everything = np.ones(len(target_B), dtype=bool)
    calibration = fit_calibration(task, honest[way], target_B, part_B)
    calibrated_BC = calibration.apply(honest[way], task)
    return Chosen(
        way,
        members(way, everything) if way in GATED else Counter(),
        named(names, weights(way, everything)) if way in PLAIN else {},
        calibration,
        int(np.argmin([task.loss(target_B, one) for one in predictions])),
        named(names, weights("stacking", everything)),
        named(names, weights("absolute_stacking", everything)) if task.kind == "regression" else {},
        choose_thresholds(task, calibrated_BC, target_B, Aim.read(settings.threshold)),
        fit_half_width(task, calibrated_BC, target_B),
        losses=losses,
        gain=gain,
        error=error,
    )


def named(names: list[str], weights_E: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return weights by expert."""
    return dict(zip(names, map(float, weights_E), strict=True))


def gain_with_error(
    gain_B: npt.NDArray[np.float64], group_B: npt.NDArray[Any]
) -> tuple[float, float]:
    """Return a mean over records, and its standard error where groups, not records, are drawn."""
    names, number_B = np.unique(group_B.astype(str), return_inverse=True)
    mean = float(gain_B.mean())
    off_G = np.bincount(number_B, weights=gain_B - mean, minlength=len(names))
    return mean, float(np.sqrt((off_G**2).sum()) / len(gain_B))


def refit_chosen(
    chosen: dict[Key, Chosen], choices: list[GateChoice], arrays: Arrays
) -> tuple[TrainedGates, float]:
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
    gates: TrainedGates = {}
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
