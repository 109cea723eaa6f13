"""External validation: a bundle's predictions against the labels of another record store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from enecg.bundle import Bundle, load_bundles
from enecg.cluster import connect
from enecg.errors import UserError, did_you_mean
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.wording import METRIC_NAMES, metrics_of, with_interval
from enecg.files import write_json
from enecg.predict import predict_store
from enecg.progress import say
from enecg.provenance import commit
from enecg.records.store import RecordStore
from enecg.tasks import Task, known


def evaluate_file(bundle: Path, records: Path, output: Path) -> None:
    """Predict a store's records, compare with its labels, and write the metrics as JSON.

    Parameters
    ----------
    bundle : Path
        ``bundle/`` of a run (all tasks), or ``bundle/<task>``.
    records : Path
        A record store with the tasks' label columns.
    output : Path
        JSON: ``bundle``, ``records``, ``commit``, ``same_records`` (true: these are the very
        records that the bundle was trained on) and, per task, ``n`` and ``predictors``, as in
        results.json; the one predictor is ``ensemble``, its one fold is the store.

    Raises
    ------
    UserError
        No bundle or store there, or a store that lacks a task's labels.
    """
    bundle = bundle.absolute()
    bundles, store = load_bundles(bundle), RecordStore.open(records.absolute())
    targets = {one.task.name: labels_of(one.task, store) for one in bundles}
    same = any(one.provenance.get("records") == store.fingerprint for one in bundles)
    if same:
        say("these are the records that the bundle was trained on: the figures will flatter it")
    connect()
    table = predict_store(bundle, store)
    tasks = {
        one.task.name: evaluate(one, table, targets[one.task.name], store.index) for one in bundles
    }
    write_json(
        output,
        {
            "bundle": str(bundle),
            "records": {"path": str(records), "fingerprint": store.fingerprint},
            "commit": commit(),
            "same_records": same,
            "tasks": tasks,
        },
    )
    for one in bundles:
        found = tasks[one.task.name]
        scores = found["predictors"]["ensemble"]
        for metric in metrics_of(one.task, found["predictors"]):
            unit = f" {one.task.unit}" if metric == "mae" and one.task.unit else ""
            print(
                f"{one.task.name} (n = {found['n']:,}): {METRIC_NAMES[metric]} "
                f"{with_interval(scores[metric])}{unit}"
            )
    print(f"results: {output}")


def labels_of(task: Task, store: RecordStore) -> np.ndarray:
    """Return a store's targets for a task.

    Raises
    ------
    UserError
        The store has no such label column, or nothing in it that the task knows.
    """
    if task.column not in store.index:
        raise UserError(
            f"task {task.name}: {store.uri} has no label column {task.column!r}"
            f"{did_you_mean(task.column, store.index.columns)}; convert.py --relabel adds one"
        )
    target_N = task.targets(store.index[task.column])
    if not known(target_N).any():
        wanted = ", ".join(task.classes) or f"numbers in {task.valid or 'any range'}"
        raise UserError(
            f"task {task.name}: no record of {store.uri} has a valid label in column "
            f"{task.column!r}; the bundle knows {wanted}"
        )
    return target_N


def evaluate(
    bundle: Bundle, table: pd.DataFrame, target_N: np.ndarray, index: pd.DataFrame
) -> dict[str, Any]:
    """Judge one task's predictions, rows in the order of the store's index."""
    task = bundle.task
    columns = [f"{task.name}__p__{name}" for name in task.classes] or [task.name]
    predicted_NC = table[columns].to_numpy(dtype=np.float64)
    there = ~np.isnan(predicted_NC).any(1)
    if lacking := int((known(target_N) & ~there).sum()):
        say(f"{task.name}: {lacking:,} labelled records got no prediction and are left out")
    one_fold = np.zeros(int(there.sum()), dtype=np.int64)
    scores = fold_summary(
        task, target_N[there], predicted_NC[there], one_fold, index["group_id"].to_numpy()[there]
    )
    return {
        "n": int((known(target_N) & there).sum()),
        "without_prediction": lacking,
        "predictors": {"ensemble": scores},
    }
