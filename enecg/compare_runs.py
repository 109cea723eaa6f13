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
        ``runs`` (their folders) and ``tasks``: by task ``n``, ``predictor``, ``repeats`` (how many
        were ``compared``, those of both; and how many the ``first`` and the ``second`` run have),
        and ``metrics``: by metric a Summary of the first run minus the second, with ``first``,
        ``second`` (the means over folds) and ``verdict`` (the first run is ``better``, ``worse``,
        ``the same``, or ``no difference shown``).

    Raises
    ------
    UserError
        A run without kept predictions, no task in common, or other records, labels or folds.
    """
    a, b = (read_predictions(run / FILE) for run in (first, second))
    shared = [key for key in a if key in b]
    if not shared:
        raise UserError(f"no task in common: {first} has {_names(a)}, {second} has {_names(b)}")
    tasks = {}
    for name in dict.fromkeys(name for name, _ in shared):
        repeats = [repeat for task, repeat in shared if task == name]
        ours, theirs = ([_by_record(run[name, r]) for r in repeats] for run in (a, b))
        for repeat, pair in zip(repeats, zip(ours, theirs, strict=True), strict=True):
            _check_paired(*pair, first, second, f", repeat {repeat + 1}" if repeat else "")
        found = _compared(ours, theirs, _predictor(ours[0], theirs[0], predictor))
        counts = [len([of for of, _ in run if of == name]) for run in (a, b)]
        of_each = dict(zip(("compared", "first", "second"), (len(repeats), *counts), strict=True))
        tasks[name] = found | {"repeats": of_each}
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
    has = next(iter(found["tasks"].values()))["repeats"]
    if has["first"] != has["second"]:
        counts = f"A has {has['first']}, B {has['second']}"
        table.caption = f"repeats: {counts}; compared: the {has['compared']} of both"
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


def _check_paired(a: OutOfFold, b: OutOfFold, first: Path, second: Path, repeat: str) -> None:
    """Refuse runs of which a difference would not be one of the runs alone."""
    where = f"task {a.task.name}{repeat}: {first} and {second}"
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


def _compared(a: list[OutOfFold], b: list[OutOfFold], predictor: str) -> dict[str, Any]:
    """Compare what two runs say of a task, repeat by repeat; records in the same order."""
    one = a[0]
    if any(not np.array_equal(other.record_N, one.record_N) for other in a):
        raise UserError(f"task {one.task.name}: the repeats of one run hold different records")
    fold_RN = np.stack([_numbered(of.fold_N) for of in a])
    metrics: dict[str, Any] = {}
    for metric in score(one.task, one.target_N, one.predictions[predictor]):
        if metric == "ece":  # its smallest value is a boundary: a difference has no interval
            continue
        ours, theirs = (np.stack([_said(of, predictor, metric) for of in run]) for run in (a, b))
        given = (one.task, metric, one.target_N)
        summary = paired_difference(*given, ours, theirs, fold_RN, one.group_N)
        if summary is None:
            continue
        means = [_mean(one, said, metric, fold_RN) for said in (ours, theirs)]
        verdict = verdict_of(metric, summary.get("ci95"))
        if np.array_equal(ours, theirs):
            verdict = "the same"
        metrics[metric] = {**summary, "first": means[0], "second": means[1], "verdict": verdict}
    return {
        "n": int((~np.isnan(one.target_N.reshape(len(one.target_N), -1)).any(1)).sum()),
        "predictor": predictor,
        "metrics": metrics,
    }


def _numbered(fold_N: Any) -> list[int]:
    """Folds by number, in the order people count in."""
    names = ordered(fold_N)
    return [names.index(fold) for fold in fold_N.astype(str)]


def _said(of: OutOfFold, predictor: str, metric: str) -> Any:
    """What a metric looks at: predictions, or for metrics of answers those by threshold."""
    of_answers = metric in OF_ANSWERS or metric == "accuracy"
    if predictor == "deployed" and of.answers_N is not None and of_answers:
        return as_probabilities(of.task, of.answers_N)
    return of.predictions[predictor]


def _mean(of: OutOfFold, prediction_RNC: Any, metric: str, fold_RN: Any) -> float:
    """A metric's mean over the folds of all repeats."""
    each = [
        score(of.task, of.target_N[rows], prediction_NC[rows]).get(metric)
        for prediction_NC, fold_N in zip(prediction_RNC, fold_RN, strict=True)
        for rows in (fold_N == fold for fold in range(fold_N.max() + 1))
    ]
    return float(np.mean([value for value in each if value is not None]))
