"""Stage 2: the search over gates on Ray Tune."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ray import tune

from enecg import __version__
from enecg.cluster import peak_memory_mb
from enecg.config import Config
from enecg.errors import JobFailed, one_line
from enecg.experiment import Experiment
from enecg.files import fingerprint, replacing
from enecg.gate.network import gate_view
from enecg.gate.space import GateChoice, draw_trials, plain_choices
from enecg.gate.trial import Arrays, cross_validate
from enecg.progress import counting, say
from enecg.records.store import RecordStore, decode
from enecg.run_folder import begin, finish, is_done
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.stage1.jobs import expert_fingerprint, expert_folder

TUNE_NAME = "tune"
VIEWS = "views.safetensors"


def gate_folder(config: Config) -> Path:
    """Return where the search's results stand."""
    return Path(config.run_dir) / "gate"


def drawn_choices(config: Config) -> list[GateChoice]:
    """Return the experiment's trials: the plain ones, and those drawn from its seed."""
    names = list(config.experts)
    drawn = draw_trials(Path(config.gate.space), names, config.gate.trials, config.seed)
    return [*plain_choices(names), *drawn]


def gate_fingerprint(experiment: Experiment) -> str:
    """Return the fingerprint of all that the search depends on."""
    choices = [choice.model_dump() for choice in drawn_choices(experiment.config)]
    return fingerprint({"inputs": _inputs_fingerprint(experiment), "choices": choices})


def _inputs_fingerprint(experiment: Experiment) -> str:
    """The fingerprint of what every trial depends on, whichever gates are tried."""
    config = experiment.config
    experts = {name: expert_fingerprint(experiment, name) for name in config.experts}
    return fingerprint({"version": __version__, "experts": experts})


def search_gate(experiment: Experiment) -> None:
    """Run every trial that has not run yet; leaves predictions and a table in the run folder.

    Raises
    ------
    JobFailed
        An expert's results are missing, or a trial failed.
    """
    config = experiment.config
    folder, print_ = gate_folder(config), gate_fingerprint(experiment)
    if is_done(folder, print_):
        say("gate search: done before, kept")
        return
    started = time.monotonic()
    choices = drawn_choices(config)
    begin(folder, _inputs_fingerprint(experiment))  # trials of these inputs are good for any search
    arrays = load_arrays(experiment)
    say(
        f"gate search: {len(choices)} trials; "
        f"watch them with: tensorboard --logdir {folder / TUNE_NAME}"
    )
    peak = _run_trials(folder, choices, arrays, config)
    table = _trials_table(folder, choices, arrays)
    with replacing(folder / "trials.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    finish(
        folder,
        print_,
        seconds=round(time.monotonic() - started, 1),
        worker_peak_memory_mb=peak,
        driver_peak_memory_mb=peak_memory_mb(),
    )


def load_arrays(experiment: Experiment) -> Arrays:
    """Gather what gates learn from; what they see of the signals is computed once per search.

    Raises
    ------
    JobFailed
        Results of some expert are missing or belong to other settings.
    """
    config = experiment.config
    names = list(config.experts)
    for name in names:
        if not is_done(expert_folder(config, name), expert_fingerprint(experiment, name)):
            raise JobFailed(
                f"expert {name} has no results for these settings in {config.run_dir}; "
                "run train_experts.py first"
            )
    found = {
        name: load_outputs(expert_folder(config, name) / "outputs.safetensors") for name in names
    }
    outputs = {
        task.name: np.stack([found[name][task.name] for name in names], axis=2)
        for task in experiment.tasks
    }
    views_path = gate_folder(config) / VIEWS
    if not views_path.exists():
        save_outputs(views_path, {"view_NLT": gate_views(experiment.store)})
    return Arrays(
        load_outputs(views_path)["view_NLT"],
        outputs,
        experiment.targets,
        experiment.nested,
        experiment.tasks,
        names,
        config.seed,
    )


def gate_views(store: RecordStore) -> np.ndarray:
    """Return what gates see of a store's records, shape (N, 12, 200), computed by Ray Data."""

    def view(batch: Any) -> Any:
        return {"record_id": batch["record_id"], "view": gate_view(decode(batch))}

    dataset = store.dataset()
    row_of = {record: row for row, record in enumerate(store.index["record_id"])}
    views: np.ndarray | None = None
    seen = 0
    with counting("leads for the gate", len(row_of)) as progress:
        for batch in dataset.map_batches(view, batch_size=64).iter_batches(batch_format="numpy"):
            rows = [row_of[record] for record in batch["record_id"]]
            if views is None:
                views = np.zeros((len(row_of), *batch["view"].shape[1:]), dtype=np.float16)
            views[rows] = batch["view"]
            seen += len(rows)
            progress.advance(len(rows))
    if views is None or seen != len(row_of):
        raise RuntimeError(f"{seen} of {len(row_of)} records were delivered")
    return views


def predictions_path(folder: Path, choice: GateChoice) -> Path:
    """Return where the out-of-fold predictions of a choice stand."""
    return folder / "predictions" / f"{fingerprint(choice.model_dump())[:16]}.safetensors"


def run_trial(config: dict[str, Any], arrays: Arrays, folder: str) -> None:
    """Run one trial inside Ray Tune; a trial whose predictions are there is not run again.

    Parameters
    ----------
    config : dict
        ``trial``, with ``number`` and ``gate`` (a `GateChoice`'s values; leads and experts joined
        by ``+``, which TensorBoard can show).
    arrays : Arrays
    folder : str
        The search's folder.
    """
    torch.set_num_threads(1)  # a trial has one CPU; and more threads would change the last bits
    trial = config["trial"]
    gate = trial["gate"]
    choice = GateChoice.model_validate({**gate, "experts": tuple(gate["experts"].split("+"))})
    path = predictions_path(Path(folder), choice)
    if not path.exists():
        predicted = {task.name: cross_validate(choice, arrays, task) for task in arrays.tasks}
        save_outputs(path, predicted)
    losses = trial_losses(load_outputs(path), arrays)
    metrics: dict[str, float] = {
        f"loss/{name}": float(np.mean(list(by_scope.values()))) for name, by_scope in losses.items()
    }
    plain = {
        task.name: trial_losses({task.name: arrays.outputs[task.name].mean(2)}, arrays, [task])[
            task.name
        ]
        for task in arrays.tasks
    }
    metrics["relative_to_uniform"] = float(
        np.mean([losses[t.name][s] / plain[t.name][s] for t in arrays.tasks for s in plain[t.name]])
    )
    tune.report({**metrics, "peak_memory_mb": peak_memory_mb()})


def trial_losses(
    predicted: dict[str, np.ndarray], arrays: Arrays, tasks: list[Any] | None = None
) -> dict[str, dict[str, float]]:
    """Return the out-of-fold loss on training records, per task and scope."""
    nested = arrays.nested
    return {
        task.name: {
            scope: task.loss(
                arrays.targets[task.name][nested.training(scope)],
                predicted[task.name][number][nested.training(scope)],
            )
            for number, scope in enumerate(nested.scopes)
        }
        for task in tasks or arrays.tasks
    }


def _run_trials(folder: Path, choices: list[GateChoice], arrays: Arrays, config: Config) -> float:
    """Run the trials on Ray Tune; return the largest trial process's peak memory in MB."""
    space = [
        {
            "number": number,
            "gate": choice.model_dump()
            | {"leads": "+".join(choice.leads), "experts": "+".join(choice.experts)},
        }
        for number, choice in enumerate(choices)
    ]
    # Predictions outlive an interrupted search; Tune's own log of it is begun anew.
    shutil.rmtree(folder / TUNE_NAME, ignore_errors=True)
    with counting("gate search", len(choices), "trials") as progress:

        class Watch(tune.Callback):
            def on_trial_complete(self, *_: Any, **__: Any) -> None:
                progress.advance(1)

        limit = config.gate.max_parallel
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, arrays=arrays, folder=str(folder.resolve())),
                {"cpu": 1},
            ),
            param_space={"trial": tune.grid_search(space)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # importing torch takes longer than many a trial
                max_concurrent_trials=None if limit == "auto" else limit,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']['number']:04d}",
                trial_name_creator=lambda trial: f"trial-{trial.config['trial']['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name=TUNE_NAME,
                storage_path=str(folder.resolve()),
                verbose=0,
                callbacks=[Watch()],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        ).fit()
    if results.errors:
        raise JobFailed(
            f"gate search: {len(results.errors)} of {len(choices)} trials failed; "
            f"the first: {one_line(results.errors[0])[-300:]}"
        )
    return float(results.get_dataframe()["peak_memory_mb"].max())


def _trials_table(folder: Path, choices: list[GateChoice], arrays: Arrays) -> pd.DataFrame:
    """One row per trial: what it chose, and its loss per task and scope."""
    rows = []
    for number, choice in enumerate(choices):
        losses = trial_losses(load_outputs(predictions_path(folder, choice)), arrays)
        row = {"trial": number} | choice.model_dump()
        row |= {"leads": "+".join(choice.leads), "experts": "+".join(choice.experts)}
        row |= {f"loss/{t}/{s}": loss for t, scopes in losses.items() for s, loss in scopes.items()}
        rows.append(row)
    return pd.DataFrame(rows)
