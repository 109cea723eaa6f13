"""One trial of the gate search: how good one choice is, for every task and scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from enecg.gate.network import Gates, leads_of
from enecg.gate.space import GateChoice
from enecg.gate.training import epochs_of, train_gates
from enecg.nested import Fit, Nested
from enecg.tasks import Task

Predictions = dict[str, npt.NDArray[np.float32]]
"""By task: out-of-fold predictions in some scopes, shape (S, N, C)."""


@dataclass(frozen=True)
class Arrays:
    """What gates learn from; lies in shared memory while trials run.

    Attributes
    ----------
    view_NLT : float16 array, shape (N, 12, 200)
        What gates see of the signals.
    outputs : dict of str to float32 array, shape (S, N, E, C)
        Per task: the experts' outputs in every scope, out-of-fold for its training records; NaN
        where an expert has none.
    targets : dict of str to float array, shape (N,) or (N, C)
    nested : Nested
    tasks : list of Task
    experts : list of str
    seed : int
    features : dict of str to float32 array, shape (N, E, K)
        By `Fit.key`: what gates of that fit see of the experts' features; empty where none does.
    answering : dict of str to list of str
        By task, the experts that have outputs for it; a task that is not there has those of all.
    """

    view_NLT: npt.NDArray[np.float16]
    outputs: dict[str, npt.NDArray[np.float32]]
    targets: dict[str, npt.NDArray[np.float64]]
    nested: Nested
    tasks: list[Task]
    experts: list[str]
    seed: int
    features: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    answering: dict[str, list[str]] = field(default_factory=dict)

    def experts_of(self, task: Task) -> list[str]:
        """Names of the experts that have outputs for a task, in order."""
        return self.answering.get(task.name, self.experts)

    def chosen(self, choice: GateChoice, task: Task, scopes: list[int]) -> npt.NDArray[np.float32]:
        """Outputs of a choice's experts in some scopes (by number), shape (U, N, E', C)."""
        places = [self.experts.index(name) for name in choice.experts]
        return np.ascontiguousarray(self.outputs[task.name][scopes][:, :, places])

    def shown(self, choice: GateChoice, fits: Sequence[Fit]) -> npt.NDArray[np.float32] | None:
        """Features that gates of some fits see, shape (U, N, E', K); None where they see none."""
        if choice.joined != "features":
            return None
        places = [self.experts.index(name) for name in choice.experts]
        return np.stack([self.features[fit.key][:, places] for fit in fits])


def cross_validations(
    choice: GateChoice, arrays: Arrays, scopes: Sequence[str]
) -> Iterator[tuple[int, Predictions]]:
    """Train a choice for every task, and show its out-of-fold predictions now and then.

    Each inner fold of a scope is predicted by a gate trained on the others. Test records of a
    scope are no part of this: theirs are NaN.

    Yields
    ------
    epoch : int
        1, 2, 4, … and the last one.
    dict of str to array, shape (S, N, C)
        Predictions, by task, in the given scopes; all NaN of a task that none of the choice's
        experts has outputs for.
    """
    nested = arrays.nested
    units = [(place, fit) for place, scope in enumerate(scopes) for fit in nested.fits(scope)]
    numbers = [nested.scopes.index(scopes[place]) for place, _ in units]
    learns_UN = np.stack([nested.learns_from(fit) for _, fit in units])
    x_NLT = leads_of(arrays.view_NLT, choice)
    fits = [fit for _, fit in units]
    own = [(task, choice.among(arrays.experts_of(task))) for task in arrays.tasks]
    trained = [(task, of_task) for task, of_task in own if of_task is not None]
    seen = {of_task.experts: arrays.shown(of_task, fits) for _, of_task in trained}
    features_of = [seen[of_task.experts] for _, of_task in trained]
    outputs = {task.name: arrays.chosen(of_task, task, numbers) for task, of_task in trained}
    in_training = [
        epochs_of(
            of_task, arrays.view_NLT, outputs[task.name], arrays.targets[task.name], learns_UN,
            task, arrays.seed, features,
        )
        for (task, of_task), features in zip(trained, features_of, strict=True)
    ]  # fmt: skip
    for epoch, of_tasks in enumerate(zip(*in_training, strict=True), start=1):
        if epoch < choice.epochs and epoch & (epoch - 1):
            continue
        shown: Predictions = {}
        for task in arrays.tasks:
            shape = (len(scopes), len(arrays.view_NLT), task.width)
            shown[task.name] = np.full(shape, np.nan, dtype=np.float32)
        for (task, _), gates, features in zip(trained, of_tasks, features_of, strict=True):
            for unit, (place, fit) in enumerate(units):
                rows = np.flatnonzero(nested.held_out(fit))
                [mixed_BC], _ = gates.of_unit(unit).predict_leads(
                    x_NLT[rows],
                    outputs[task.name][unit : unit + 1, rows],
                    task,
                    None if features is None else features[unit : unit + 1, rows],
                )
                shown[task.name][place, rows] = mixed_BC
        yield min(epoch, choice.epochs), shown


def cross_validate(choice: GateChoice, arrays: Arrays, scopes: Sequence[str]) -> Predictions:
    """Return a choice's out-of-fold predictions after its last epoch; see `cross_validations`."""
    *_, (_, last) = cross_validations(choice, arrays, scopes)
    return last


def refit(choice: GateChoice, arrays: Arrays, task: Task, scopes: list[str]) -> Gates:
    """Train a chosen gate on all training records of some scopes: one gate per scope, in order."""
    of_task = choice.among(arrays.experts_of(task))
    if of_task is None:
        raise ValueError(f"{task.name}: none of {', '.join(choice.experts)} has outputs for it")
    choice = of_task
    numbers = [arrays.nested.scopes.index(scope) for scope in scopes]
    return train_gates(
        choice,
        arrays.view_NLT,
        arrays.chosen(choice, task, numbers),
        arrays.targets[task.name],
        np.stack([arrays.nested.training(scope) for scope in scopes]),
        task,
        arrays.seed,
        arrays.shown(choice, [Fit(scope, None) for scope in scopes]),
    )
