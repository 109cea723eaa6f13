"""Stage 2 as the proofs of the nested procedure run it, whole or with one part that leaks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from enecg.config import EnsembleSettings
from enecg.gate.ensemble import Chosen, choose
from enecg.gate.network import Gates
from enecg.gate.space import GateChoice
from enecg.gate.trial import Arrays, cross_validate, refit
from enecg.gate.tuning import Trial
from enecg.nested import Nested
from enecg.out_of_fold import predict_test_groups
from enecg.signals import LEADS
from enecg.stage1.adapted import save_outputs

CHOICES = [
    GateChoice.model_validate(
        {
            "leads": leads, "experts": names, "depth": 1, "width": 4, "dropout": 0.2,
            "temperature": 1.0, "learning_rate": 1e-2, "weight_decay": 0.1, "epochs": 2,
        }
        | more
    )
    for leads, names, more in (
        (("II",), ("rocket", "dlinear"), {}),
        (("I", "V1"), ("rocket",), {}),
        (LEADS, ("dlinear", "rocket"), {"encoder": "conv", "joined": "outputs"}),
        (("II",), ("rocket", "dlinear"), {"joined": "features"}),
    )
]  # fmt: skip


@dataclass
class Stage2:
    """All that stage 2 learns."""

    cross_validated: dict[str, list[np.ndarray]]
    chosen: dict[tuple[str, str], Chosen]
    gates: dict[tuple[str, str, int], Gates]
    predictions: dict[str, dict[str, np.ndarray]]


def stage_2(arrays: Arrays, folder: Path, leaky: str = "") -> Stage2:
    """Gates, choice, refit, prediction; the part called ``leaky`` breaks the rule.

    It is given folds in which every scope trains on all records, its test records too.
    """
    broken = replace(arrays, nested=LeakyNested(**vars_of(arrays.nested)))

    def given(part: str) -> Arrays:
        return broken if part == leaky else arrays

    scopes = arrays.nested.scopes
    trials = [Trial(choice, scopes) for choice in CHOICES]
    cross_validated: dict[str, list[np.ndarray]] = {task.name: [] for task in arrays.tasks}
    for trial in trials:
        found = cross_validate(trial.choice, given("trials"), trial.scopes)
        save_outputs(trial.path(folder), found)
        for name, predicted in found.items():
            cross_validated[name].append(predicted)
    chosen = choose(folder, trials, given("choice"), EnsembleSettings(size=3))
    gates = {
        (task.name, scope, trial): refit(CHOICES[trial], given("refit"), task, [scope])
        for task in arrays.tasks
        for scope in scopes
        for trial in {chosen[task.name, scope].best, *chosen[task.name, scope].members}
    }
    predictions = {
        task.name: predict_test_groups(task, given("dummy"), chosen, gates).by_predictor
        for task in arrays.tasks
    }
    return Stage2(cross_validated, chosen, gates, predictions)


def learned_by_stage_2(learned: Stage2, nested: Nested, scope: str) -> dict[str, Any]:
    number, test = nested.scopes.index(scope), nested.test(scope)
    found: dict[str, Any] = {}
    for task, trials in learned.cross_validated.items():
        found[f"gates {task}"] = [trial[number].tobytes() for trial in trials]
        choice = learned.chosen[task, scope]
        found |= {f"{name} {task}": value for name, value in vars(choice).items()}
        for (named, at, trial), gates in learned.gates.items():
            if (named, at) == (task, scope):
                layers = [value.numpy().tobytes() for value in gates.parameters.values()]
                found[f"refitted gate {task} {trial}"] = layers
        for predictor, predicted in learned.predictions[task].items():
            found[f"{predictor} predicts {task}"] = predicted[test].tobytes()
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


class LeakyNested(Nested):
    """Breaks the rule: every scope learns from all records."""

    def training(self, scope: str) -> Any:
        return np.ones(len(self.outer_N), dtype=bool)


def vars_of(nested: Nested) -> dict[str, Any]:
    return {name: getattr(nested, name) for name in nested.__dataclass_fields__}
