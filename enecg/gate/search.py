"""Stage 2: the search over gates on Ray Tune.

Where all trials are drawn up front and none is stopped, one trial serves every scope. An adaptive
search (Optuna, ASHA) chooses what to try by how others did: then each scope has a search of its
own, on its training groups alone, or its candidates would have been chosen by its test labels.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enecg import __version__
from enecg.checked_files import DamagedFile, check_sealed, read_sealed_json, write_sealed_json
from enecg.cluster import dashboard_address, peak_memory_mb
from enecg.config import Config
from enecg.errors import JobFailed
from enecg.experiment import Experiment
from enecg.files import fingerprint, replacing
from enecg.gate.balanced import stage_2_tasks
from enecg.gate.features import load_features
from enecg.gate.network import gate_view
from enecg.gate.space import GateChoice, Space, plain_choices
from enecg.gate.studies import STUDIES, drop_damaged_studies
from enecg.gate.trial import Arrays
from enecg.gate.tuning import OBJECTIVE, TUNE, Trial, run_given, run_optuna, trial_losses
from enecg.progress import counting, say
from enecg.records.store import RecordStore, decode
from enecg.run_folder import begin, finish, is_done
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.stage1.jobs import expert_fingerprint, expert_folder

GATE = "gate"
VIEWS, FEATURES = "views.safetensors", "features.safetensors"
TRIALS, TABLE = "trials.json", "trials.parquet"


def gate_folder(config: Config) -> Path:
    """Return where the search's results stand."""
    return Path(config.run_dir) / GATE


def drawn_choices(config: Config) -> list[GateChoice]:
    """Return the gates that are drawn from the experiment's seed, all different.

    As many as `gate.trials` says, or as the space holds beside the plain ones.

    Raises
    ------
    UserError
        A mistake in the space.
    """
    space = Space(Path(config.gate.space), list(config.experts))
    return space.different(config.gate.trials, config.seed, plain_choices(list(config.experts)))


def is_adaptive(config: Config) -> bool:
    """Whether what is tried, or how long, depends on how other trials did."""
    return config.gate.searcher != "random" or config.gate.scheduler != "none"


def gate_fingerprint(experiment: Experiment) -> str:
    """Return the fingerprint of all that the search depends on."""
    gate = experiment.config.gate
    choices = [choice.model_dump() for choice in drawn_choices(experiment.config)]
    adaptive: list[Any] = []
    if is_adaptive(experiment.config):
        adaptive = [gate.searcher, gate.scheduler]
        if len(choices) < gate.trials:  # of a small space: how often Optuna may propose
            adaptive.append(gate.trials)
    return fingerprint(
        {"inputs": _inputs_fingerprint(experiment), "choices": choices, "adaptive": adaptive}
    )


def _inputs_fingerprint(experiment: Experiment) -> str:
    """The fingerprint of what every trial depends on, whichever gates are tried."""
    config = experiment.config
    experts = {name: expert_fingerprint(experiment, name) for name in config.experts}
    # Runs of unbalanced classes keep the fingerprint that they had before classes could count here.
    counted = {"balanced": True} if config.stage1.class_weights == "balanced" else {}
    return fingerprint({"version": __version__, "experts": experts, **counted})


def search_gate(experiment: Experiment) -> None:
    """Run every trial that has not run yet, repeat after repeat.

    Each leaves predictions and a table in its run folder.

    Raises
    ------
    JobFailed
        An expert's results are missing, or a trial failed.
    """
    for one in experiment.repeats:
        _search(one)


def _search(experiment: Experiment) -> None:
    """Search in one repeat."""
    config, called = experiment.config, experiment.called("gate search")
    folder, print_ = gate_folder(config), gate_fingerprint(experiment)
    if is_done(folder, print_):
        say(f"{called}: done before, kept")
        return
    if experiment.repeat > 1:
        say(called)
    started = time.monotonic()
    begin(folder, _inputs_fingerprint(experiment))  # trials of these inputs are good for any search
    drop_damaged(folder)
    arrays = load_arrays(experiment)
    say(f"watch the trials with: tensorboard --logdir {folder / TUNE}")
    if config.gate.searcher == "optuna":
        say(f"and Optuna's studies with: optuna-dashboard {folder / STUDIES}")
    if (address := dashboard_address()) is not None:
        say(f"Ray dashboard (jobs, Train runs, actors): {address}")
    trials, peak = run_trials(config, folder, arrays)
    write_sealed_json(
        folder / TRIALS, {"trials": [trial.settings(n) for n, trial in enumerate(trials)]}
    )
    with replacing(folder / TABLE) as temporary:
        trials_table(folder, trials, arrays).to_parquet(temporary, index=False)
    finish(
        folder,
        print_,
        [TRIALS, TABLE, *_kept(folder)],
        seconds=round(time.monotonic() - started, 1),
        worker_peak_memory_mb=peak,
        driver_peak_memory_mb=peak_memory_mb(),
    )


def found_trials(config: Config) -> list[Trial]:
    """Return the trials of a finished search, in the order of their numbers."""
    return [Trial.of(one) for one in read_sealed_json(gate_folder(config) / TRIALS)["trials"]]


def drop_damaged(folder: Path) -> None:
    """Remove what an earlier search left and is not what it was: it is computed again."""
    for name in _kept(folder):
        try:
            check_sealed(folder / name)
        except DamagedFile as error:
            say(f"{error.place} {error.problem}; it is removed, and computed again")
            (folder / name).unlink()
    drop_damaged_studies(folder)


def _kept(folder: Path) -> list[str]:
    """Return the names of the arrays that a search keeps: views, features, predictions."""
    found = [*folder.glob("*.safetensors"), *folder.glob("predictions/*.safetensors")]
    return sorted(str(path.relative_to(folder)) for path in found)


def run_trials(config: Config, folder: Path, arrays: Arrays) -> tuple[list[Trial], float]:
    """Run the plain gates and those that the config asks for, unless they have run before.

    Returns
    -------
    list of Trial
        All of them, the plain ones first; what ASHA stopped has no predictions.
    float
        Peak memory of the largest trial process in MB.
    """
    scopes, gate = arrays.nested.scopes, config.gate
    trials = [Trial(choice, scopes) for choice in plain_choices(arrays.experts)]
    drawn = drawn_choices(config)
    if len(drawn) < gate.trials and gate.searcher == "random":
        say(
            f"gate.trials: {gate.trials:,} asked for, {len(drawn):,} tried: {gate.space} holds no "
            "more gates that differ from each other and from the plain ones"
        )
    each = gate.trials if gate.searcher == "optuna" else len(drawn)
    count = len(trials) + each * (len(scopes) if is_adaptive(config) else 1)
    with counting("gate search", count, "trials") as done:
        if not is_adaptive(config):
            trials += [Trial(choice, scopes) for choice in drawn]
            return trials, run_given("all", trials, folder, arrays, gate, done)
        plain = gate.model_copy(update={"scheduler": "none"})
        peaks = [run_given("plain", trials, folder, arrays, plain, done)]
        for scope in scopes:
            if gate.searcher == "optuna":
                space = Space(Path(gate.space), arrays.experts)
                of_scope, peak = run_optuna(scope, space, folder, arrays, gate, done)
                if (different := len(set(of_scope))) < len(of_scope):
                    say(
                        f"scope {scope}: of {len(of_scope):,} gates proposed {different:,} are "
                        "different; one that is proposed again is not trained again"
                    )
            else:
                of_scope = [Trial(choice, (scope,)) for choice in drawn]
                peak = run_given(f"scope-{scope}", of_scope, folder, arrays, gate, done)
            trials += of_scope
            peaks.append(peak)
    return trials, max(peaks)


def load_arrays(experiment: Experiment) -> Arrays:
    """Gather what gates learn from; what they see of the signals is computed in the first repeat.

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
    outputs: dict[str, np.ndarray] = {}
    answering: dict[str, list[str]] = {}
    for task in experiment.tasks:
        answering[task.name] = [name for name in names if task.name in found[name]]
        none = np.full_like(found[answering[task.name][0]][task.name], np.nan)
        outputs[task.name] = np.stack([found[name].get(task.name, none) for name in names], axis=2)
    views_path = experiment.first_run / GATE / VIEWS
    if not views_path.exists():
        save_outputs(views_path, {"view_NLT": gate_views(experiment.store)})
    return Arrays(
        load_outputs(views_path)["view_NLT"],
        outputs,
        experiment.targets,
        experiment.nested,
        stage_2_tasks(config.stage1, experiment.tasks),
        names,
        config.seed,
        load_features(experiment, gate_folder(config) / FEATURES)
        if Space(Path(config.gate.space), names).may_be("joined", "features")
        else {},
        answering,
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


def trials_table(folder: Path, trials: list[Trial], arrays: Arrays) -> pd.DataFrame:
    """One row per trial: what it chose, whether it was finished, its loss per task and scope.

    ``relative_to_uniform`` is the loss over that of the experts' plain mean, averaged over tasks
    and scopes; a trial that was stopped early has no losses.
    """
    every = arrays.nested.scopes
    uniform = Trial(plain_choices(arrays.experts)[-1], every)
    plain = trial_losses(uniform, uniform.predictions(folder), arrays)
    rows = []
    for number, trial in enumerate(trials):
        row: dict[str, Any] = {"trial": number} | trial.choice.model_dump()
        row |= {name: "+".join(row[name]) for name in ("leads", "experts")}
        row["scope"] = "every" if trial.scopes == every else "+".join(trial.scopes)
        row["finished"] = trial.path(folder).exists()
        if row["finished"]:
            losses = trial_losses(trial, trial.predictions(folder), arrays)
            row |= {f"loss/{t}/{s}": of for t, by in losses.items() for s, of in by.items()}
            relative = [losses[t][s] / plain[t][s] for t in losses for s in losses[t]]
            row[OBJECTIVE] = float(np.mean(relative))
        rows.append(row)
    return pd.DataFrame(rows)
