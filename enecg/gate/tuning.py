"""Trials of the gate search on Ray Tune: what one runs, and who proposes and stops them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import torch
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from enecg.cluster import peak_memory_mb
from enecg.config import GateSettings
from enecg.errors import JobFailed, one_line
from enecg.files import fingerprint
from enecg.gate.space import GateChoice, Space
from enecg.gate.studies import STUDIES, note_studies
from enecg.gate.trial import Arrays, Predictions, cross_validations
from enecg.progress import Counter
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.tasks import Task

TUNE = "tune"
"""Folder of Tune's own logs inside the search's: what TensorBoard is given."""
OBJECTIVE = "relative_to_uniform"
"""What adaptive searches make small: the loss over that of the experts' plain mean."""


@dataclass(frozen=True)
class Trial:
    """A gate that was tried, and the scopes it was tried in."""

    choice: GateChoice
    scopes: tuple[str, ...]

    def path(self, folder: Path) -> Path:
        """Return where its out-of-fold predictions stand; only a finished trial has them."""
        name = fingerprint({"gate": self.choice.model_dump(), "scopes": self.scopes})[:16]
        return folder / "predictions" / f"{name}.safetensors"

    def predictions(self, folder: Path) -> Predictions:
        """Read its out-of-fold predictions."""
        return load_outputs(self.path(folder))

    def settings(self, number: int) -> dict[str, Any]:
        """Return the trial as Tune passes it on; leads and experts as text TensorBoard can show."""
        gate = self.choice.model_dump()
        joined = {name: "+".join(gate[name]) for name in ("leads", "experts")}
        return {"trial": {"number": number, "scopes": "+".join(self.scopes), "gate": gate | joined}}

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Trial:
        """Return the trial that `settings` describes."""
        trial = settings["trial"]
        gate = {**trial["gate"], "experts": tuple(trial["gate"]["experts"].split("+"))}
        return cls(GateChoice.model_validate(gate), tuple(trial["scopes"].split("+")))


def run_trial(config: dict[str, Any], arrays: Arrays, folder: str) -> None:
    """Run one trial inside Ray Tune; a trial whose predictions are there is not run again.

    Parameters
    ----------
    config : dict
        What `Trial.settings` gives.
    arrays : Arrays
    folder : str
        The search's folder.
    """
    torch.set_num_threads(1)  # a trial has one CPU; and more threads would change the last bits
    trial = Trial.of(config)
    path = trial.path(Path(folder))
    if path.exists():
        tune.report(_metrics(trial, load_outputs(path), arrays, trial.choice.epochs))
        return
    for epoch, predicted in cross_validations(trial.choice, arrays, trial.scopes):
        if epoch == trial.choice.epochs:
            save_outputs(path, predicted)
        tune.report(_metrics(trial, predicted, arrays, epoch))


def trial_losses(
    trial: Trial, predicted: Predictions, arrays: Arrays
) -> dict[str, dict[str, float]]:
    """Return the out-of-fold loss on training records, per task and scope.

    A task that none of the trial's experts has outputs for is left out.
    """
    return {
        task.name: {
            scope: _loss(task, scope, predicted[task.name][place], arrays)
            for place, scope in enumerate(trial.scopes)
        }
        for task in arrays.tasks
        if trial.choice.among(arrays.experts_of(task)) is not None
    }


def _loss(task: Task, scope: str, predicted_NC: np.ndarray, arrays: Arrays) -> float:
    """A record that got no prediction counts with the mean of all others."""
    training = arrays.nested.training(scope)
    target, predicted = arrays.targets[task.name][training], predicted_NC[training]
    there = ~np.isnan(predicted).any(1)
    return task.loss(target[there], predicted[there])


def _metrics(
    trial: Trial, predicted: Predictions, arrays: Arrays, epoch: int
) -> dict[str, float | int]:
    losses = trial_losses(trial, predicted, arrays)
    places = [arrays.nested.scopes.index(scope) for scope in trial.scopes]
    plain = {
        task.name: np.nanmean(arrays.outputs[task.name][places], axis=2) for task in arrays.tasks
    }
    of_plain = trial_losses(trial, plain, arrays)
    relative = [losses[t][s] / of_plain[t][s] for t in losses for s in losses[t]]
    return {
        **{f"loss/{name}": float(np.mean([*of.values()])) for name, of in losses.items()},
        OBJECTIVE: float(np.mean(relative)),
        "epoch": epoch,
        "peak_memory_mb": peak_memory_mb(),
    }


def run_given(
    name: str, trials: list[Trial], folder: Path, arrays: Arrays, gate: GateSettings, done: Counter
) -> float:
    """Run trials that are known up front; return the largest process's peak memory in MB.

    With the scheduler ``asha``, those that do worse than others did after as many epochs are
    stopped, and leave no predictions.
    """
    if not trials:
        return 0.0
    space = [trial.settings(number)["trial"] for number, trial in enumerate(trials)]
    return _fit(
        name, {"trial": tune.grid_search(space)}, {}, len(trials), folder, arrays, gate, done
    )


def run_optuna(
    scope: str,
    space: Space,
    folder: Path,
    arrays: Arrays,
    gate: GateSettings,
    done: Counter,
) -> tuple[list[Trial], float]:
    """Let Optuna's TPE propose a scope's trials; what an interrupted study holds counts.

    Returns
    -------
    list of Trial
        All trials of the study that came to an end.
    float
        Peak memory of the largest trial process in MB.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    backend = JournalFileBackend(str(folder / STUDIES))
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=study_name(scope, space, gate),
        direction="minimize",
        load_if_exists=True,
    )
    # A study gone on with must not be proposed its first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=arrays.seed + len(study.trials))
    running = optuna.trial.TrialState.RUNNING
    for left in study.get_trials(states=(running,)):  # whoever ran these is gone
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    complete = optuna.trial.TrialState.COMPLETE
    count = gate.trials - len(study.get_trials(states=(complete,)))
    done.advance(gate.trials - max(count, 0))
    peak = 0.0
    if count > 0:
        peak = _fit(
            f"scope-{scope}",
            None,
            {"search_alg": _Proposals(study, space, scope, folder), "num_samples": count},
            count,
            folder,
            arrays,
            gate,
            done,
        )
    told = [json.loads(t.user_attrs["settings"]) for t in study.get_trials(states=(complete,))]
    told = told[: gate.trials]  # an earlier search may have asked for more
    return [Trial.of(settings) for settings in told], peak


def study_name(scope: str, space: Space, gate: GateSettings) -> str:
    """Name a scope's study; another space, or another rule that cuts trials short, has its own.

    Optuna refuses a choice among other values than before, and would count the old trials.
    """
    of = fingerprint({"space": space.forms, "scheduler": gate.scheduler})[:8]
    return f"gates of scope {scope}, space {of}"


class _Proposals(Searcher):
    """Optuna's proposals for Ray Tune: their state is the study's, which lies in its storage."""

    def __init__(self, study: optuna.Study, space: Space, scope: str, folder: Path) -> None:
        super().__init__(metric=OBJECTIVE, mode="min")
        self.study, self.space, self.scope, self.folder = study, space, scope, folder
        self._asked: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        asked = self._asked[trial_id] = self.study.ask()
        trial = Trial(self.space.draw(_Suggestions(asked)), (self.scope,))
        settings = trial.settings(asked.number)
        asked.set_user_attr("settings", json.dumps(settings))
        return settings

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        asked = self._asked.pop(trial_id)
        if error or result is None:
            self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked, result[OBJECTIVE])
        note_studies(self.folder)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Suggestions:
    """An Optuna trial as the source of a gate's values."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def place(self, name: str, count: int) -> int:
        """Return a number from 0 to ``count - 1``; they are names to Optuna, without an order."""
        return int(self._trial.suggest_categorical(name, list(range(count))))

    def number(self, name: str, low: float, high: float, log: bool) -> float:
        """Return a number between two, or one whose logarithm is between theirs."""
        return self._trial.suggest_float(name, low, high, log=log)


class _Watch(tune.Callback):
    """Counts trials that have ended. Tune pickles its callbacks; a `Counter` leaves its bar out."""

    def __init__(self, done: Counter) -> None:
        self._done = done

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        self._done.advance(1)


def side_by_side(gate: GateSettings) -> int:
    """Return how many trials run at a time: one per CPU, and not more than there really are."""
    fitting = int(ray.cluster_resources()["CPU"])
    if len(ray.nodes()) == 1:  # a local cluster claims four CPUs even where there are two
        fitting = min(fitting, os.cpu_count() or 1)
    return max(1, fitting if gate.max_parallel == "auto" else min(gate.max_parallel, fitting))


def _fit(
    name: str,
    param_space: dict[str, Any] | None,
    proposing: dict[str, Any],
    count: int,
    folder: Path,
    arrays: Arrays,
    gate: GateSettings,
    done: Counter,
) -> float:
    """Run trials on Ray Tune."""
    # Predictions outlive an interrupted search; Tune's own log of it is begun anew.
    shutil.rmtree(folder / TUNE / name, ignore_errors=True)

    scheduler = None
    if gate.scheduler == "asha":
        scheduler = ASHAScheduler(
            time_attr="epoch", metric=OBJECTIVE, mode="min", grace_period=1, reduction_factor=2,
            max_t=10_000,  # a trial ends by itself
        )  # fmt: skip

    def named(trial: Any) -> str:
        return f"trial-{trial.config['trial']['number']:04d}"

    results = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, arrays=arrays, folder=str(folder.resolve())),
            {"cpu": 1},
        ),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            reuse_actors=True,  # importing torch takes longer than many a trial
            max_concurrent_trials=side_by_side(gate),
            trial_dirname_creator=named,
            trial_name_creator=named,
            scheduler=scheduler,
            **proposing,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str((folder / TUNE).resolve()),
            verbose=0,
            callbacks=[_Watch(done)],
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    ).fit()
    if results.errors:
        raise JobFailed(
            f"gate search: {len(results.errors)} of {count} trials failed; "
            f"the first: {one_line(results.errors[0])[-300:]}"
        )
    return float(results.get_dataframe()["peak_memory_mb"].max())
