"""The three stages of a run, in order; each goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from enecg import interrupts
from enecg.bundle_folders import PLACES, check_bundles
from enecg.cluster import connect, is_named
from enecg.config import Config, load_config
from enecg.errors import UserError
from enecg.evaluation.table import results_table
from enecg.evaluation.wording import comparison_sentences, decision_sentence
from enecg.experiment import Experiment, check_experts, open_experiment
from enecg.files import read_json, write_text
from enecg.gate.search import drawn_choices, gate_folder, search_gate
from enecg.out_of_fold import ensemble_folder
from enecg.ownership import check_free, claim
from enecg.printable import printable
from enecg.progress import cell, say, screen
from enecg.records.subjects import subjects_note
from enecg.repeats import FOLDER, run_of
from enecg.results import ensemble_and_evaluate, results_path
from enecg.run_folder import claimed
from enecg.stage1.jobs import expert_folder, plan_experts, train_experts

STAGES = {
    "experts": train_experts,
    "search": search_gate,
    "ensemble": ensemble_and_evaluate,
}


def show_plan(config_path: Path, changes: list[str] | None) -> None:
    """Print the plan of stage 1 on standard output; no cluster is started for it."""
    config = load_config(config_path, changes)
    experiment = open_experiment(config.located())
    check_places(experiment.config)
    check_experts(config)
    for note in experiment.label_notes:
        say(note)
    if is_named():
        connect()
    _, plan = plan_experts(experiment)
    screen(140).print(plan)


def run_stages(config_path: Path, changes: list[str] | None, stages: list[str]) -> None:
    """Run some stages of an experiment; after the last one, show the results.

    Parameters
    ----------
    config_path : Path
    changes : list of str, optional
        ``key=value`` settings.
    stages : list of str
        Some of `STAGES`, in their order.
    """
    config = load_config(config_path, changes)
    experiment = open_experiment(config.located())
    check_places(experiment.config)
    check_experts(config)
    drawn_choices(config)  # a mistake in the space is told now, not after hours of training
    run_dir = Path(config.run_dir)
    with claimed(run_dir):  # nothing is made before this
        interrupts.keeps(f"what is finished in {run_dir} is kept")
        connect()
        _note_inputs(experiment)
        for stage in stages:
            STAGES[stage](experiment)
    if "ensemble" in stages:
        show_results(config)


def check_places(config: Config) -> None:
    """Refuse to work in folders that are something else's; nothing is made.

    Raises
    ------
    UserError
        Names the folder, and what is in the way.
    """
    run_dir, features = Path(config.run_dir), config.features_dir
    check_free("run_dir", run_dir, "run")
    check_free("features", features, "features")
    run, inside = run_dir.resolve(), features.resolve()
    used = [run / name for name in ("experts", "gate", "ensemble", FOLDER, *PLACES)]
    if run.is_relative_to(inside) or any(inside.is_relative_to(folder) for folder in used):
        raise UserError(
            f"features {features}: is run_dir {run_dir}, around it, or in a folder of its results; "
            "give another folder"
        )
    for repeat in range(1, config.repeats + 1):
        one = run_of(config, repeat)
        if repeat > 1:
            check_free("run_dir", Path(one.run_dir), "repeat")
        works = [expert_folder(one, name) for name in config.experts]
        for folder in (*works, gate_folder(one), ensemble_folder(one)):
            check_free("run_dir", folder, "work")
    for name in PLACES:
        check_bundles(run_dir / name)


def show_results(config: Config) -> None:
    """Print the results table, and last the path of results.json on a line of its own."""
    results, console = read_json(results_path(config)), screen(120)
    console.print(results_table(results, config.task_list, console.width))
    for task in config.task_list:
        outcome = results["tasks"][task.name]
        sentences = comparison_sentences(task, outcome["comparisons"])
        said = " ".join([decision_sentence(outcome["decisions"]), *sentences])
        console.print(cell(f"{task.name}: {said}"))
    print(printable(f"report: {Path(config.run_dir) / 'report.html'}"))
    print(printable(f"bundle: {Path(config.run_dir) / 'bundle'}"))
    print(printable(f"results: {results_path(config)}"))


def _note_inputs(experiment: Experiment) -> None:
    """Leave the settings and everybody's folds in the run folder, for people to look at."""
    config, nested = experiment.config, experiment.nested
    write_text(Path(config.run_dir) / "config.json", config.model_dump_json(indent=2) + "\n")
    for one in experiment.repeats:
        if one.repeat > 1:
            claim("run_dir", Path(one.config.run_dir), "repeat")
        write_text(Path(one.config.run_dir) / "folds.csv", _folds_table(one).to_csv(index=False))
    for note in experiment.label_notes:
        say(note)
    inner = "folds, the others as inner" if nested.shared else f"× {config.inner_folds} inner"
    repeats = f", {config.repeats} repeats" if config.repeats > 1 else ""
    index = experiment.store.index
    say(
        f"{len(index):,} records of {index['group_id'].nunique():,} groups, "
        f"{len(nested.outer_names)} outer {inner} folds{repeats}; "
        f"tasks: {', '.join(task.name for task in experiment.tasks)}; "
        f"experts: {', '.join(config.experts)}"
    )
    if whose := subjects_note(experiment.store.description):
        say(f"note: {whose}")


def _folds_table(experiment: Experiment) -> pd.DataFrame:
    """Who is in which fold."""
    nested = experiment.nested
    table = experiment.store.index[["record_id", "group_id"]].assign(
        outer_fold=[nested.outer_names[fold] for fold in nested.outer_N]
    )
    return table if nested.shared else table.assign(inner_fold=nested.inner_N)
