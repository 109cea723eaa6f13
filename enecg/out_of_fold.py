"""What every predictor says of every record, learned without the record's outer fold.

Of the first repeat it is computed where bundles are written; of further repeats it is kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enecg.checked_files import read_sealed_json, write_sealed_json
from enecg.cluster import peak_memory_mb
from enecg.config import OTHER_PREDICTORS, Config
from enecg.evaluation.thresholds import answers
from enecg.experiment import Experiment
from enecg.files import fingerprint
from enecg.gate.combine import dummy
from enecg.gate.ensemble import Chosen, GateEnsemble, Key, TrainedGates, choose, refit_chosen
from enecg.gate.network import constant_gate
from enecg.gate.search import found_trials, gate_fingerprint, gate_folder, load_arrays
from enecg.gate.trial import Arrays
from enecg.nested import ALL, Fit
from enecg.progress import say
from enecg.run_folder import begin, finish, is_done
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.tasks import Task

Predictions = dict[str, np.ndarray]
SAID, DECISIONS = "predictions.safetensors", "decisions.json"
REVISION = 1
"""Raised whenever what is kept of a repeat changes: it is made anew."""


@dataclass(frozen=True)
class TestPredictions:
    """What every predictor says of every record, learned without the record's outer fold.

    Attributes
    ----------
    by_predictor : dict of str to float32 array, shape (N, C)
        Each expert alone, ``uniform``, ``stacking``, ``absolute_stacking`` (values only), ``gate``,
        ``ensemble``, ``deployed``, ``dummy``. ``deployed`` has the ensemble's probabilities; it
        answers by threshold.
    weights_NE : float32 array, shape (N, E)
        The ensemble's weights.
    answers_N : array or None
        What ``deployed`` answers: see `thresholds.answers`. None for values.
    half_width_N : float array, shape (N,)
        Half the width of each prediction interval; NaN where there is none.
    thresholds_NC : float array, shape (N, C)
        What ``deployed`` answers by; 0.5 where there is no threshold.
    """

    __test__ = False  # no class of tests, for pytest

    by_predictor: Predictions
    weights_NE: np.ndarray
    answers_N: np.ndarray | None
    half_width_N: np.ndarray
    thresholds_NC: np.ndarray


@dataclass(frozen=True)
class Repeat:
    """One repeat of the cross-validation: what its predictors say, and how that came.

    Attributes
    ----------
    said : dict of str to TestPredictions
        By task.
    decisions : dict
        By task and scope, as in results.json.
    """

    said: dict[str, TestPredictions]
    decisions: dict[str, dict[str, Any]]


def ensemble_folder(config: Config) -> Path:
    """Return where the last stage's work stands."""
    return Path(config.run_dir) / "ensemble"


def decide(experiment: Experiment) -> tuple[Arrays, dict[Key, Chosen], TrainedGates, float]:
    """Choose the ensembles of one repeat, and refit their gates.

    Returns
    -------
    Arrays
    dict of Key to Chosen
    TrainedGates
    float
        Peak memory of the largest worker in MB.
    """
    config = experiment.config
    arrays, trials = load_arrays(experiment), found_trials(config)
    chosen = choose(gate_folder(config), trials, arrays, config.ensemble)
    gates, peak = refit_chosen(chosen, [trial.choice for trial in trials], arrays)
    return arrays, chosen, gates, peak


def said_in(
    tasks: list[Task], arrays: Arrays, chosen: dict[Key, Chosen], gates: TrainedGates
) -> Repeat:
    """Predict all test groups of a repeat."""
    said = {task.name: predict_test_groups(task, arrays, chosen, gates) for task in tasks}
    return Repeat(said, {task.name: _decisions(task, chosen) for task in tasks})


def further_repeat(experiment: Experiment) -> Repeat:
    """Return what a repeat after the first says; computed where it is not kept."""
    config, called = experiment.config, experiment.called("ensemble")
    folder = ensemble_folder(config)
    settings = config.ensemble.model_dump(exclude={"seen_subjects"})
    searched = gate_fingerprint(experiment)
    print_ = fingerprint({"search": searched, "ensemble": settings, "revision": REVISION})
    if is_done(folder, print_):
        say(f"{called}: done before, kept")
        return _read(folder, experiment)
    say(called)
    clock = time.monotonic()
    begin(folder, print_)
    arrays, chosen, gates, peak = decide(experiment)
    repeat = said_in(experiment.tasks, arrays, chosen, gates)
    _write(folder, repeat)
    finish(
        folder,
        print_,
        [SAID, DECISIONS],
        seconds=round(time.monotonic() - clock, 1),
        worker_peak_memory_mb=peak,
        driver_peak_memory_mb=peak_memory_mb(),
    )
    return repeat


def _write(folder: Path, repeat: Repeat) -> None:
    arrays: dict[str, np.ndarray] = {}
    for task, said in repeat.said.items():
        arrays |= {f"{task}/said/{name}": one for name, one in said.by_predictor.items()}
        arrays |= {f"{task}/weights": said.weights_NE, f"{task}/half_width": said.half_width_N}
        arrays[f"{task}/thresholds"] = said.thresholds_NC
        if said.answers_N is not None:
            arrays[f"{task}/answers"] = said.answers_N
    save_outputs(folder / SAID, arrays)
    write_sealed_json(folder / DECISIONS, repeat.decisions)


def _read(folder: Path, experiment: Experiment) -> Repeat:
    arrays = load_outputs(folder / SAID)

    def of_task(task: str) -> TestPredictions:
        prefix = f"{task}/said/"
        given = {k.removeprefix(prefix) for k in arrays if k.startswith(prefix)}
        names = _in_order(experiment.config.experts, given)
        return TestPredictions(
            {name: arrays[prefix + name] for name in names},
            arrays[f"{task}/weights"],
            arrays.get(f"{task}/answers"),
            arrays[f"{task}/half_width"],
            arrays[f"{task}/thresholds"],
        )

    said = {task.name: of_task(task.name) for task in experiment.tasks}
    return Repeat(said, read_sealed_json(folder / DECISIONS))


def _in_order(experts: Iterable[str], given: Iterable[str]) -> list[str]:
    """Predictors as results.json lists them."""
    there = set(given)
    return [name for name in (*experts, *OTHER_PREDICTORS) if name in there]


def _decisions(task: Task, chosen: dict[Key, Chosen]) -> dict[str, Any]:
    """What was decided for a task, by scope."""
    return {
        scope: {
            "way": choice.way,
            "losses": choice.losses,
            "gain_of_gates": choice.gain,
            "standard_error": choice.error,
            "calibration": choice.calibration.kind,
            "plain_gate": choice.best_plain,
            "thresholds": dict(zip(task.classes, choice.thresholds, strict=False)),
        }
        for (name, scope), choice in chosen.items()
        if name == task.name
    }


def predict_test_groups(
    task: Task, arrays: Arrays, chosen: dict[Key, Chosen], gates: TrainedGates
) -> TestPredictions:
    """Predict every record once, by what was learned without its outer fold.

    A predictor that has no output for a record (none of its experts has one) counts as if it said
    what ``dummy`` says.
    """
    n, each = len(arrays.view_NLT), arrays.experts_of(task)
    predictions: Predictions = {}
    weights_NE = np.zeros((n, len(arrays.experts)), dtype=np.float32)
    half_width_N = np.full(n, np.nan)
    thresholds_NC = np.full((n, task.width), 0.5)
    answers_N: np.ndarray | None = None
    if task.kind != "regression":
        several = task.kind == "multilabel"
        answers_N = np.zeros((n, task.width) if several else n, dtype=bool if several else np.int64)
    missing: Counter[str] = Counter()
    for number, scope in enumerate(arrays.nested.scopes):
        if scope == ALL:
            continue
        training, test = arrays.nested.training(scope), arrays.nested.test(scope)
        filler_BC = dummy(task, arrays.targets[task.name][training], int(test.sum()))
        choice = chosen[task.name, scope]
        features = arrays.features.get(Fit(scope, None).key)
        said: Predictions = {"dummy": filler_BC}
        for name, mixture in _mixtures((task.name, scope), choice, each, gates).items():
            predicted_BC, weights_BE = mixture.predict(
                arrays.view_NLT[test],
                arrays.outputs[task.name][number, test],
                arrays.experts,
                task,
                None if features is None else features[test],
            )
            lacking = np.isnan(predicted_BC)
            missing[name] += int(lacking.any(1).sum())
            said[name] = np.where(lacking, filler_BC, predicted_BC)
        weights_NE[test] = weights_BE  # the ensemble's: it is the last
        said["deployed"] = said["ensemble"]
        if answers_N is not None:
            answers_N[test] = answers(task, said["deployed"], choice.thresholds)
            thresholds_NC[test] = choice.thresholds or 0.5
        if choice.half_width is not None:
            half_width_N[test] = choice.half_width
        for name, predicted_BC in said.items():
            empty = np.zeros((n, task.width), dtype=np.float32)
            predictions.setdefault(name, empty)[test] = predicted_BC
    for name, count in missing.items():
        if count:
            say(f"{task.name}: {name} has no output for {count:,} records; counted as the dummy's")
    by_predictor = {name: predictions[name] for name in _in_order(each, predictions)}
    return TestPredictions(by_predictor, weights_NE, answers_N, half_width_N, thresholds_NC)


def _mixtures(
    key: Key, choice: Chosen, each: list[str], gates: TrainedGates
) -> dict[str, GateEnsemble]:
    """Return a scope's predictors by name; the ensemble is the last."""
    plain = {
        **{name: {name: 1.0} for name in each},
        "uniform": dict.fromkeys(each, 1.0),
        "stacking": choice.stacking,
    }
    if choice.absolute_stacking:
        plain["absolute_stacking"] = choice.absolute_stacking
    return {
        **{name: GateEnsemble([(1, constant_gate(given))]) for name, given in plain.items()},
        "gate": GateEnsemble([(1, gates[*key, choice.best])]),
        "ensemble": choice.ensemble(key, gates),
    }
