"""One trial of the gate search: how good one choice is, for every task and scope."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enecg.gate.network import Gates, train_gates
from enecg.gate.space import GateChoice
from enecg.nested import Nested
from enecg.tasks import Task


@dataclass(frozen=True)
class Arrays:
    """What gates learn from; lies in shared memory while trials run.

    Attributes
    ----------
    view_NLT : float16 array, shape (N, 12, 200)
        What gates see of the signals.
    outputs : dict of str to float32 array, shape (S, N, E, C)
        Per task: the experts' outputs in every scope, out-of-fold for its training records.
    targets : dict of str to float array, shape (N,)
    nested : Nested
    tasks : list of Task
    experts : list of str
    seed : int
    """

    view_NLT: npt.NDArray[np.float16]
    outputs: dict[str, npt.NDArray[np.float32]]
    targets: dict[str, npt.NDArray[np.float64]]
    nested: Nested
    tasks: list[Task]
    experts: list[str]
    seed: int

    def chosen(self, choice: GateChoice, task: Task, scopes: list[int]) -> npt.NDArray[np.float32]:
        """Outputs of a choice's experts in some scopes (by number), shape (U, N, E', C)."""
        places = [self.experts.index(name) for name in choice.experts]
        return np.ascontiguousarray(self.outputs[task.name][scopes][:, :, places])


def cross_validate(choice: GateChoice, arrays: Arrays, task: Task) -> npt.NDArray[np.float32]:
    """Return a choice's out-of-fold predictions in every scope, shape (S, N, C).

    Each inner fold of a scope is predicted by a gate trained on the others. Test records of a
    scope are no part of this: theirs are NaN.
    """
    nested = arrays.nested
    units = [
        (number, fit) for number, scope in enumerate(nested.scopes) for fit in nested.fits(scope)
    ]
    outputs_UNEC = arrays.chosen(choice, task, [number for number, _ in units])
    gates = train_gates(
        choice,
        arrays.view_NLT,
        outputs_UNEC,
        arrays.targets[task.name],
        np.stack([nested.learns_from(fit) for _, fit in units]),
        task,
        arrays.seed,
    )
    weights_UNE = gates.weights(arrays.view_NLT, list(choice.experts)).numpy()
    mixed_UNC = np.einsum("une,unec->unc", weights_UNE, outputs_UNEC)
    predicted = np.full(
        (len(nested.scopes), len(arrays.view_NLT), task.width), np.nan, dtype=np.float32
    )
    for unit, (number, fit) in enumerate(units):
        held_out = nested.held_out(fit)
        predicted[number, held_out] = mixed_UNC[unit, held_out]
    return predicted


def refit(choice: GateChoice, arrays: Arrays, task: Task, scopes: list[str]) -> Gates:
    """Train a chosen gate on all training records of some scopes: one gate per scope, in order."""
    numbers = [arrays.nested.scopes.index(scope) for scope in scopes]
    return train_gates(
        choice,
        arrays.view_NLT,
        arrays.chosen(choice, task, numbers),
        arrays.targets[task.name],
        np.stack([arrays.nested.training(scope) for scope in scopes]),
        task,
        arrays.seed,
    )
