"""The results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from enecg.evaluation.metrics import main_metric
from enecg.evaluation.wording import (
    METRIC_NAMES,
    best,
    interval_note,
    metrics_of,
    pretraining_note,
    seen_in_pretraining,
    with_interval,
)
from enecg.tasks import Task

SHOWN = 3
"""Metrics per task: what fits 100 columns with its interval. results.json has all."""


def results_table(results: Mapping[str, Any], tasks: Iterable[Task]) -> Table:
    """Return a table of predictors, grouped by task, with the main metrics.

    Parameters
    ----------
    results : mapping
        What results.json holds.
    tasks : iterable of Task
        The tasks in it.

    Returns
    -------
    rich.table.Table
        ``mean [ci95]`` per predictor and metric, the best of each metric marked ``*``; readable
        at 100 columns.
    """
    table = Table(box=SIMPLE, show_header=False, padding=(0, 1, 0, 0), caption_justify="left")
    seen = seen_in_pretraining(results)
    notes = [
        "mean over folds [95 % interval]; * best",
        interval_note(results),
        pretraining_note(results),
    ]
    table.caption = Text("\n".join(note for note in notes if note))
    table.add_column(no_wrap=True)
    for _ in range(SHOWN):
        table.add_column(no_wrap=True)
    for task in tasks:
        outcome = results["tasks"][task.name]
        predictors = outcome["predictors"]
        metrics = _shown(task, metrics_of(task, predictors))
        unit = f" ({task.unit})" if task.unit else ""
        names = [METRIC_NAMES[m] + (unit if m == "mae" else "") for m in metrics]
        heading = [f"{task.name}\nn = {outcome['n']}", *names]
        table.add_row(*(Text(cell, style="bold") for cell in heading))
        for place, (name, scores) in enumerate(predictors.items(), start=1):
            cells = [Text(name + " †" * (name in seen))]
            for metric in metrics:
                is_best = best(metric, predictors) == name
                mark, style = ("*", "bold") if is_best else (" ", "")
                cells.append(Text(with_interval(scores.get(metric)) + mark, style=style))
            table.add_row(*cells, end_section=place == len(predictors))
    return table


def _shown(task: Task, available: list[str]) -> list[str]:
    """Choose the columns: the main metric, then those most often reported."""
    wanted = (main_metric(task), "auroc", "f1", "accuracy", "mae", "mse", "r2")
    return [metric for metric in dict.fromkeys(wanted) if metric in available][:SHOWN]
