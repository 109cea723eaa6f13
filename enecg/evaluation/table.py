"""The results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from enecg.evaluation.metrics import main_metric
from enecg.evaluation.wording import (
    METRIC_NAMES,
    best,
    folds_named,
    interval_note,
    metrics_of,
    no_output_note,
    pretraining_note,
    seen_in_pretraining,
    with_interval,
)
from enecg.printable import printable
from enecg.progress import cell
from enecg.tasks import Task

SHOWN = 3
"""Metrics per task: what fits 100 columns with its interval. results.json has all."""


def results_table(results: Mapping[str, Any], tasks: Iterable[Task], width: int = 100) -> Table:
    """Return a table of predictors, grouped by task, with the main metrics.

    Parameters
    ----------
    results : mapping
        What results.json holds.
    tasks : iterable of Task
        The tasks in it.
    width : int
        Columns of the terminal.

    Returns
    -------
    rich.table.Table
        ``mean [ci95]`` per predictor and metric, the best of each metric marked ``*``: as many
        metrics as fit, no number cut short.
    """
    tasks, console = list(tasks), Console(width=10_000)
    for shown in range(SHOWN, 0, -1):
        table = _table(results, tasks, shown)
        if Measurement.get(console, console.options, table).maximum <= width:
            break
    return table


def _table(results: Mapping[str, Any], tasks: list[Task], shown: int) -> Table:
    """The table with at most so many metrics for each task."""
    table = Table(box=SIMPLE, show_header=False, padding=(0, 1, 0, 0), caption_justify="left")
    seen = seen_in_pretraining(results)
    notes = [
        f"mean over {folds_named(results.get('config', {}))} [95 % interval]; * best",
        interval_note(results),
        pretraining_note(results),
        no_output_note(results),
    ]
    if shown < SHOWN:
        notes.append("on a wider terminal: more metrics; results.json has all")
    table.caption = Text("\n".join(printable(note) for note in notes if note))
    table.add_column(overflow="fold")
    for _ in range(shown):
        table.add_column(no_wrap=True)
    for task in tasks:
        outcome = results["tasks"][task.name]
        predictors = outcome["predictors"]
        metrics = _shown(task, metrics_of(task, predictors))[:shown]
        unit = f" ({task.unit})" if task.unit else ""
        names = [METRIC_NAMES[m] + (unit if m == "mae" else "") for m in metrics]
        heading = cell(task.name, "bold").append(f"\nn = {outcome['n']}")
        table.add_row(heading, *(cell(name, "bold") for name in names))
        for place, (name, scores) in enumerate(predictors.items(), start=1):
            cells = [cell(name + " †" * (name in seen))]
            for metric in metrics:
                is_best = best(metric, predictors) == name
                mark, style = ("*", "bold") if is_best else (" ", "")
                cells.append(cell(with_interval(scores.get(metric)) + mark, style))
            table.add_row(*cells, end_section=place == len(predictors))
    return table


def _shown(task: Task, available: list[str]) -> list[str]:
    """Choose the columns: the main metric, then those most often reported."""
    wanted = (main_metric(task), "auroc", "f1", "accuracy", "mae", "mse", "r2")
    return [metric for metric in dict.fromkeys(wanted) if metric in available][:SHOWN]
