"""Two runs, paired: the same records in the same folds, predicted by either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from enecg.errors import UserError
from enecg.evaluation.comparisons import verdict_of
from enecg.evaluation.events import OF_ANSWERS
from enecg.evaluation.folds import ordered
from enecg.evaluation.intervals import paired_difference
from enecg.evaluation.kept_predictions import FILE, OutOfFold, read_predictions
from enecg.evaluation.metrics import score
from enecg.evaluation.thresholds import as_probabilities
from enecg.evaluation.wording import METRIC_NAMES, number, signed
from enecg.files import write_json
from enecg.output_file import holds_comparison, output_file
from enecg.printable import printable
from enecg.progress import cell, screen

PREFERRED = ("deployed", "ensemble")
"""The predictor that is compared where both runs have it; the first of these."""


def compare_runs(first: Path, second: Path, predictor: str | None = None) -> dict[str, Any]:
    """Compare two runs' out-of-fold predictions, task by task.

    Parameters
    ----------
    first, second : Path
        Run folders.
    predictor : str, optional
        Which predictor of each; by default what is deployed.

    Returns
    -------
    dict
        ``runs`` (their folders) and ``tasks``: by task ``n``, ``predictor``, and ``metrics``: by
        metric a Summary of the first run minus the second, with ``first``, ``second`` (the means
        over folds) and ``verdict`` (the first run is ``better``, ``worse``, ``the same``, or
        ``no difference shown``).

    Raises
    ------
    UserError
        A run without kept predictions, no task in common, or other records, labels or folds.
    """
    a, b = (read_predictions(run / FILE) for run in (first, second))
    shared = [key for key in a if key in b and key[1] == 0]
    if not shared:
        raise UserError(f"no task in common: {first} has {_names(a)}, {second} has {_names(b)}")
    tasks = {}
    for key in shared:
        ours, theirs = _by_record(a[key]), _by_record(b[key])
        _check_paired(ours, theirs, first, second)
        tasks[key[0]] = _compared(ours, theirs, _predictor(ours, theirs, predictor))
    return {"runs": [str(first), str(second)], "tasks": tasks}


def show_comparison(
    first: Path, second: Path, output: Path | None = None, predictor: str | None = None
) -> None:
    """Compare two runs, print a table, and write the figures as JSON where asked to.

    Parameters and errors are those of `compare_runs`; ``output`` replaces an earlier comparison, no
    other file.
    """
    if output is not None:
        output = output_file(output, (".json",), holds_comparison, "comparison", "--json")
    found = compare_runs(first, second, predictor)
    if output is not None:
        write_json(output, found)
    print(f"A: {printable(first)}\nB: {printable(second)}")
    screen(140).print(comparison_table(found))
    if output is not None:
        print(printable(f"comparison: {output}"))


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Return what `compare_runs` found as a table for the terminal."""
    table = Table("task", "metric", "A", "B", "A − B [95 % interval]", "A is")
    for task, one in found["tasks"].items():
        for metric, summary in one["metrics"].items():
            interval = summary.get("ci95")
            said = signed(summary["mean"])
            if interval is not None:
                said += f" [{signed(interval[0])}, {signed(interval[1])}]"
            elif "events" in summary:
                said += f" (events {summary['events']})"
            table.add_row(
                cell(task),
                METRIC_NAMES[metric],
                number(summary["first"]),
                number(summary["second"]),
                said,
                summary["verdict"],
            )
    return table


def _by_record(one: OutOfFold) -> OutOfFold:
    """Return the same with the records in the order of their ids."""
    order = np.argsort(one.record_N.astype(str), kind="stable")
    return replace(
        one,
        record_N=one.record_N[order],
        group_N=one.group_N[order],
        fold_N=one.fold_N[order],
        target_N=one.target_N[order],
        predictions={name: said[order] for name, said in one.predictions.items()},
        answers_N=None if one.answers_N is None else one.answers_N[order],
    )


def _names(run: Mapping[tuple[str, int], OutOfFold]) -> str:
    return ", ".join(dict.fromkeys(name for name, _ in run))


def _check_paired(a: OutOfFold, b: OutOfFold, first: Path, second: Path) -> None:
    """Refuse runs of which a difference would not be one of the runs alone."""
    where = f"task {a.task.name}: {first} and {second}"
    if a.task != b.task:
        raise UserError(f"{where} define the task differently: {a.task} and {b.task}")
    if set(a.record_N.tolist()) != set(b.record_N.tolist()):
        only = set(a.record_N.tolist()) ^ set(b.record_N.tolist())
        raise UserError(
            f"{where} have other records: {len(only):,} are in one of them only; convert once, "
            "and give both runs that record store"
        )
    moved = int((a.fold_N != b.fold_N).sum())
    if moved:
        raise UserError(
            f"{where} have other folds: {moved:,} of {len(a.fold_N):,} records are tested in "
            "another one; give both the same folds, fold_column and seed"
        )
    if not np.array_equal(a.target_N, b.target_N, equal_nan=True):
        raise UserError(f"{where} have other labels; give both the same record store")


def _predictor(a: OutOfFold, b: OutOfFold, wanted: str | None) -> str:
    both = [name for name in a.predictions if name in b.predictions]
    for name in PREFERRED if wanted is None else (wanted,):
        if name in both:
            return name
    raise UserError(
        f"task {a.task.name}: no predictor {wanted or PREFERRED[0]!r} in both runs; "
        f"in both: {', '.join(both) or 'none'}"
    )


def _compared(a: OutOfFold, b: OutOfFold, predictor: str) -> dict[str, Any]:
    names = ordered(a.fold_N)
    fold_N = np.array([names.index(fold) for fold in a.fold_N.astype(str)])
    metrics: dict[str, Any] = {}
    for metric in score(a.task, a.target_N, a.predictions[predictor]):
        if metric == "ece":  # its smallest value is a boundary: a difference has no interval
            continue
        ours, theirs = (_said(one, predictor, metric) for one in (a, b))
        summary = paired_difference(a.task, metric, a.target_N, ours, theirs, fold_N, a.group_N)
        if summary is None:
            continue
        means = [_mean(a, one, metric, fold_N, len(names)) for one in (ours, theirs)]
        verdict = verdict_of(metric, summary.get("ci95"))
        if np.array_equal(ours, theirs):
            verdict = "the same"
        metrics[metric] = {**summary, "first": means[0], "second": means[1], "verdict": verdict}
    return {
        "n": int((~np.isnan(a.target_N.reshape(len(a.target_N), -1)).any(1)).sum()),
        "predictor": predictor,
        "metrics": metrics,
    }


def _said(of: OutOfFold, predictor: str, metric: str) -> Any:
    """What a metric looks at: predictions, or for metrics of answers those by threshold."""
    of_answers = metric in OF_ANSWERS or metric == "accuracy"
    if predictor == "deployed" and of.answers_N is not None and of_answers:
        return as_probabilities(of.task, of.answers_N)
    return of.predictions[predictor]


def _mean(of: OutOfFold, prediction_NC: Any, metric: str, fold_N: Any, folds: int) -> float:
    each = [
        score(of.task, of.target_N[fold_N == fold], prediction_NC[fold_N == fold]).get(metric)
        for fold in range(folds)
    ]
    return float(np.mean([value for value in each if value is not None]))
