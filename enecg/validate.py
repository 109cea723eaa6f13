"""External validation: a bundle's predictions against the labels of another record store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from enecg.absent_classes import absent_classes
from enecg.bundle import Bundle, load_bundles
from enecg.cluster import connect
from enecg.errors import UserError, did_you_mean
from enecg.evaluation.comparisons import compare
from enecg.evaluation.predictors import DEPLOYED, judge_predictors
from enecg.evaluation.table import results_table
from enecg.evaluation.thresholds import answers
from enecg.evaluation.wording import comparison_sentences
from enecg.experts.corpora import overlap
from enecg.files import write_json
from enecg.gate.combine import mix
from enecg.interrupts import keeps
from enecg.output_file import holds_evaluation, output_file
from enecg.paths import on_disk
from enecg.predict import expert_columns, predict_store
from enecg.predictor import Predictor
from enecg.printable import printable
from enecg.progress import cell, say, screen
from enecg.provenance import commit
from enecg.records.store import RecordStore
from enecg.seen import look_up
from enecg.storage import Place
from enecg.tasks import Task, known


def evaluate_file(bundle: Path, records: Place, output: Path, include_seen: bool = False) -> None:
    """Predict a store's records, compare with its labels, and write the metrics as JSON.

    Parameters
    ----------
    bundle : Path
        ``bundle/`` of a run (all tasks), or ``bundle/<task>``.
    records : path or URI
        A record store with the tasks' label columns.
    output : Path
        JSON: ``bundle``, ``records``, ``commit``, ``same_records`` (true: these are the very
        records that the bundle was trained on), ``seen`` (how many records and subjects the bundle
        learned from, and how many records are ``judged``), ``experts`` and, per task, ``n``,
        ``without_output`` (labelled records that a predictor has no output for), ``predictors``
        and ``comparisons``, as in results.json; the one fold is the store, and ``ci95`` is for the
        bundle as it is, since nothing is trained. An earlier file of this kind is replaced, no
        other.
    include_seen : bool
        Judge also records that the bundle learned from, or whose subject it learned from.

    Raises
    ------
    UserError
        No bundle or store there, a store that lacks a task's labels, or one that holds nothing but
        what the bundle learned from; an ``output`` that does not end in ``.json``, or is
        somebody's file.
    """
    output = output_file(output, (".json",), holds_evaluation, "evaluation")
    keeps(f"{output} has not been written")
    bundle = on_disk("--bundle", bundle).absolute()
    bundles, store = load_bundles(bundle, every_expert=True), RecordStore.open(records)
    targets = {one.task.name: labels_of(one.task, store) for one in bundles}
    Predictor(bundles, torch.device("cpu"))  # weights that are not there are told before a cluster
    same = any(one.provenance.get("records") == store.fingerprint for one in bundles)
    judged_N, seen = judged_records(bundles, store, include_seen)
    for one in bundles:
        if not known(targets[one.task.name][judged_N]).any():
            raise UserError(
                f"task {one.task.name}: no labelled record of {store.uri} is left: the bundle "
                "learned from all of them; --include-seen judges them nevertheless"
            )
    connect()
    table = predict_store(bundle, store, every_expert=True)[judged_N].reset_index(drop=True)
    tasks = {
        one.task.name: evaluate(one, table, targets[one.task.name][judged_N], store.index[judged_N])
        for one in bundles
    }
    facts = {n: f for one in bundles for n, f in one.provenance.get("experts", {}).items()}
    source = str(store.description["source"])
    results = {
        "bundle": str(bundle),
        "records": {"path": str(records), "fingerprint": store.fingerprint},
        "commit": commit(),
        "same_records": same,
        "seen": seen,
        "experts": {
            name: made_by
            | {"seen_in_pretraining": list(overlap(made_by["pretraining_corpora"], source))}
            for name, made_by in facts.items()
        },
        "tasks": tasks,
    }
    write_json(output, results)
    console = screen(120)
    console.print(results_table(results, [one.task for one in bundles], console.width))
    for one in bundles:
        said = " ".join(comparison_sentences(one.task, tasks[one.task.name]["comparisons"]))
        console.print(cell(f"{one.task.name}: {said}"))
    print(printable(f"results: {output}"))


def judged_records(
    bundles: list[Bundle], store: RecordStore, include_seen: bool
) -> tuple[np.ndarray, dict[str, int] | None]:
    """Decide which records may be judged: those that no bundle learned from.

    Returns
    -------
    bool array, shape (N,)
    dict or None
        ``records`` (whose signal a bundle learned from), ``subjects`` (learned from, of this
        store) and ``judged``; None where the bundles, of an earlier version, do not say.

    Raises
    ------
    UserError
        No record is left.
    """
    known_to = [(b.seen, str(b.provenance.get("source"))) for b in bundles if b.seen is not None]
    if len(known_to) < len(bundles):
        say(
            "a bundle of an earlier version does not say which records it learned from; those "
            "among these records make the figures optimistic"
        )
    if not known_to:
        return np.ones(len(store.index), dtype=bool), None
    by_signal_N, by_subject_N = look_up(known_to, store.index, str(store.description["source"]))
    learned_N = by_signal_N | by_subject_N
    judged_N = ~learned_N | include_seen
    seen = {
        "records": int(by_signal_N.sum()),
        "subjects": int(store.index["subject_id"][learned_N].nunique()),
        "judged": int(judged_N.sum()),
    }
    if not judged_N.any():
        raise UserError(
            f"{store.uri}: the bundle learned from all {len(judged_N):,} records or their "
            "subjects; --include-seen judges them nevertheless"
        )
    if learned_N.any():
        verdict = (
            "they are judged as well (--include-seen), which makes the figures optimistic"
            if include_seen
            else f"they are left out, {seen['judged']:,} records are judged (see --include-seen)"
        )
        say(
            f"the bundle learned from {int(learned_N.sum()):,} of these {len(judged_N):,} records "
            f"or from their subjects ({seen['subjects']:,}): {verdict}"
        )
    return judged_N, seen


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
    target_N, unread = task.read(store.index[task.column])
    notes = task.told(unread)
    if not known(target_N).any():
        wanted = ", ".join(task.classes) or f"numbers in {task.valid or 'any range'}"
        raise UserError(
            f"task {task.name}: no record of {store.uri} has a valid label in column "
            f"{task.column!r}; the bundle knows {wanted}"
            + "".join(f"; {note.partition(': ')[2]}" for note in notes)
            + "".join(f"; {hint}" for hint in absent_classes(task, store.index[task.column]))
        )
    for note in notes:
        say(note)
    return target_N


def evaluate(
    bundle: Bundle, table: pd.DataFrame, target_N: np.ndarray, index: pd.DataFrame
) -> dict[str, Any]:
    """Judge one task's predictors, rows in the order of the store's index.

    As in a run, a predictor that has no output for a record (none of its experts has one) counts
    as if it said what ``dummy`` says. A bundle of an earlier version holds no dummy: there each
    predictor is judged by the records that it has an output for. How many labelled records it has
    none for is said, and stands under ``without_output`` by predictor.

    Parameters
    ----------
    bundle : Bundle
    table : DataFrame
        What `predict_store` gives with ``every_expert``.
    target_N : array, shape (N,) or (N, C)
    index : DataFrame
        The store's.
    """
    task = bundle.task
    predictions = predictors_of(bundle, table)
    lacking = {name: np.isnan(said_NC).any(1) for name, said_NC in predictions.items()}
    counts = {name: int((known(target_N) & one).sum()) for name, one in lacking.items()}
    counts = {name: count for name, count in counts.items() if count}
    if bundle.dummy:
        predictions = {
            name: np.where(lacking[name][:, None], predictions["dummy"], said_NC)
            for name, said_NC in predictions.items()
        }
    for name, count in counts.items():
        then = "counted as the dummy's" if bundle.dummy else "left out of its figures"
        say(f"{task.name}: {name} has no output for {count:,} labelled records; {then}")
    group_N = index["group_id"].to_numpy()
    judged = _judged(bundle, target_N, predictions, group_N)
    return {
        "n": int(known(target_N).sum()),
        "without_output": counts,
        **judged,
        "comparisons": compare(
            task, target_N, predictions, judged["predictors"], list(bundle.experts),
            np.zeros(len(target_N), dtype=np.int64), group_N, seed=0,
        ),
    }  # fmt: skip


def _judged(
    bundle: Bundle, target_N: np.ndarray, predictions: dict[str, np.ndarray], group_N: np.ndarray
) -> dict[str, Any]:
    """Judge every predictor by the records that it has an output for, as `judge_predictors`.

    Those that have one wherever the bundle has are judged together; any other is judged as if it
    alone were deployed, answering without thresholds. One without any labelled record is left out.
    """
    task, half = bundle.task, bundle.ensemble.half_width

    def judged(rows: np.ndarray, of: dict[str, np.ndarray], answered: Any) -> dict[str, Any]:
        n = int(rows.sum())
        halves = np.full(n, np.nan if half is None else half)
        where = (np.zeros(n, dtype=np.int64), group_N[rows])
        return judge_predictors(task, target_N[rows], of, answered, halves, *where)

    rows_of = {name: ~np.isnan(said_NC).any(1) for name, said_NC in predictions.items()}
    rows = rows_of[DEPLOYED]
    if not known(target_N[rows]).any():
        raise UserError(f"task {task.name}: the bundle has no prediction for any labelled record")
    together = {n: said_NC[rows] for n, said_NC in predictions.items() if rows_of[n][rows].all()}
    answered = None
    if task.kind != "regression":
        answered = answers(task, together[DEPLOYED], bundle.ensemble.thresholds)
    found = judged(rows, together, answered)
    for name, said_NC in predictions.items():
        rows = rows_of[name]
        if name in together or not known(target_N[rows]).any():
            continue
        answered = None if task.kind == "regression" else answers(task, said_NC[rows], ())
        alone = judged(rows, {DEPLOYED: said_NC[rows]}, answered)
        found["predictors"][name] = alone["predictors"][DEPLOYED]
    listed = [name for name in predictions if name in found["predictors"]]
    return found | {"predictors": {name: found["predictors"][name] for name in listed}}


def predictors_of(bundle: Bundle, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the predictions of the ensemble and of what is plainer, shape (N, C) each.

    Each expert that the bundle holds; ``uniform``, ``stacking`` and ``absolute_stacking`` (values
    only) where it holds all; ``ensemble``; ``deployed``, which answers by threshold; ``dummy``.
    """
    task = bundle.task

    def columns(names: list[str]) -> np.ndarray:
        return table[names].to_numpy(dtype=np.float32)

    found = {name: columns(expert_columns(task, name)) for name in bundle.experts}
    if bundle.stacking and set(bundle.expert_names) == set(found):
        outputs_NEC = np.stack([found[name] for name in bundle.expert_names], axis=1)
        equal_E = np.full(len(found), 1 / len(found))
        stacked_E = np.array([bundle.stacking[name] for name in bundle.expert_names])
        found |= {"uniform": mix(outputs_NEC, equal_E), "stacking": mix(outputs_NEC, stacked_E)}
        if bundle.absolute_stacking:
            absolute_E = np.array([bundle.absolute_stacking[name] for name in bundle.expert_names])
            found["absolute_stacking"] = mix(outputs_NEC, absolute_E)
    found["ensemble"] = columns([f"{task.name}__p__{name}" for name in task.classes] or [task.name])
    found["deployed"] = found["ensemble"]
    if bundle.dummy:
        found["dummy"] = np.tile(np.array(bundle.dummy, np.float32), (len(table), 1))
    return found
