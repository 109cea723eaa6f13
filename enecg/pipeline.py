"""The three stages of a run, in order; each goes on where it stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from enecg.cluster import connect
from enecg.config import Config, load_config
from enecg.evaluation.table import results_table
from enecg.evaluation.wording import comparison_sentences, decision_sentence
from enecg.experiment import Experiment, check_experts, open_experiment
from enecg.files import read_json, write_text
from enecg.gate.search import drawn_choices, search_gate
from enecg.progress import say
from enecg.records.subjects import subjects_note
from enecg.results import ensemble_and_evaluate, results_path
from enecg.run_folder import claimed
from enecg.stage1.jobs import plan_experts, train_experts

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The experiment, as YAML.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, for example --set stage1.epochs=5; values are YAML. May repeat.",
    ),
]
STAGES = {
    "experts": train_experts,
    "search": search_gate,
    "ensemble": ensemble_and_evaluate,
}


PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print what stage 1 would do, and with what; start nothing.")
]


def show_plan(config_path: Path, changes: list[str] | None) -> None:
    """Print the plan of stage 1 on standard output."""
    config = load_config(config_path, changes)
    experiment = open_experiment(config.located())
    check_experts(config)
    connect()
    _, plan = plan_experts(experiment)
    Console(width=None if os.isatty(1) else 140).print(plan)


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
    run_dir = Path(config.run_dir)
    with claimed(run_dir):
        experiment = open_experiment(config.located())
        check_experts(config)
        drawn_choices(config)  # a mistake in the space is told now, not after hours of training
        connect()
        _note_inputs(experiment)
        for stage in stages:
            STAGES[stage](experiment)
    if "ensemble" in stages:
        show_results(config)


def show_results(config: Config) -> None:
    """Print the results table, and last the path of results.json on a line of its own."""
    width = None if os.isatty(1) else 120
    results, console = read_json(results_path(config)), Console(width=width)
    console.print(results_table(results, config.task_list))
    for task in config.task_list:
        outcome = results["tasks"][task.name]
        sentences = comparison_sentences(task, outcome["comparisons"])
        said = " ".join([decision_sentence(outcome["decisions"]), *sentences])
        console.print(f"{task.name}: {said}", markup=False, highlight=False)
    print(f"report: {Path(config.run_dir) / 'report.html'}")
    print(f"bundle: {Path(config.run_dir) / 'bundle'}")
    print(f"results: {results_path(config)}")


def _note_inputs(experiment: Experiment) -> None:
    """Leave the settings and everybody's folds in the run folder, for people to look at."""
    config, nested = experiment.config, experiment.nested
    run_dir = Path(config.run_dir)
    write_text(run_dir / "config.json", config.model_dump_json(indent=2) + "\n")
    table = experiment.store.index[["record_id", "group_id"]].assign(
        outer_fold=[nested.outer_names[fold] for fold in nested.outer_N]
    )
    inner = f"× {config.inner_folds} inner"
    if nested.shared:
        inner = "folds, the others as inner"
    else:
        table["inner_fold"] = nested.inner_N
    write_text(run_dir / "folds.csv", table.to_csv(index=False))
    say(
        f"{len(table):,} records of {table['group_id'].nunique():,} groups, "
        f"{len(nested.outer_names)} outer {inner} folds; "
        f"tasks: {', '.join(task.name for task in experiment.tasks)}; "
        f"experts: {', '.join(config.experts)}"
    )
    if note := subjects_note(experiment.store.description):
        say(f"note: {note}")
