"""Predictions of a bundle as a table: one row per record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import ray
import torch

from enecg.bundle import Bundle, load_bundles
from enecg.cluster import connect
from enecg.errors import UserError, one_line
from enecg.evaluation.thresholds import answer_names
from enecg.files import replacing
from enecg.interrupts import keeps, temporary_folder
from enecg.output_file import holds_predictions, output_file
from enecg.paths import on_disk
from enecg.predictor import AT_A_TIME, Answer, Predictor
from enecg.printable import printable
from enecg.progress import counting, say
from enecg.records.convert import convert
from enecg.records.store import DESCRIPTION, RecordStore, decode
from enecg.seen import look_up
from enecg.storage import Folder, Place
from enecg.tasks import Task

FORMATS = (".parquet", ".csv")


def predict_file(bundle: Path, source: Place, output: Path) -> None:
    """Predict every record of a store, or of a folder of WFDB files, into one file.

    Predictions are written as they come; neither signals nor predictions gather in memory.

    Parameters
    ----------
    bundle : Path
        ``bundle/`` of a run (all tasks), or ``bundle/<task>``.
    source : path or URI
        A record store or a folder of WFDB files.
    output : Path
        ``.parquet`` or ``.csv``: ``record_id``, ``subject_id`` and, per task, the columns of
        `rows_of`. Rows are in the order of a store's index; of a folder, in that of its headers'
        sorted paths. An earlier file of predictions is replaced, no other.

    Raises
    ------
    UserError
        No bundle, or no records, there; an ``output`` of another ending, or somebody's file.
    """
    output = output_file(output, FORMATS, holds_predictions, "predictions")
    keeps(f"{output} has not been written")
    bundle = on_disk("--bundle", bundle).absolute()  # Ray's workers stand in other folders
    folder = Folder.at(source)
    bundles = load_bundles(bundle)
    if not _is_there(folder):
        raise UserError(f"--input: no folder {source}; give a record store or WFDB files")
    Predictor(bundles, torch.device("cpu"))  # weights that are not there are told before a cluster
    connect()
    if folder.exists(DESCRIPTION):
        store = RecordStore.open(folder)
        count = _write(bundle, store, output)
        keeps(f"{output} is written")
        _say_seen(bundles, store)
    else:
        with temporary_folder("enecg-predict-") as temporary:
            place = temporary / "store"
            store = convert("wfdb", source, place, max_rejected=1.0, seed=None)
            for left_out in store.rejected.itertuples():
                say(f"left out: {left_out.path}: {left_out.reason}: {left_out.detail}")
            if store.index.empty:
                raise UserError(f"--input {source}: no readable 12-lead record")
            count = _write(bundle, store, output)
            _say_seen(bundles, store)
    print(printable(f"{count:,} records predicted: {output}"))


def _say_seen(bundles: list[Bundle], store: RecordStore) -> None:
    """Say how many of the predicted records the bundles learned from."""
    known_to = [(b.seen, str(b.provenance.get("source"))) for b in bundles if b.seen is not None]
    source = str(store.description["source"])
    by_signal_N, by_subject_N = look_up(known_to, store.index, source)
    if count := int((by_signal_N | by_subject_N).sum()):
        say(
            f"the bundle learned from {count:,} of these {len(store.index):,} records or from "
            "their subjects: their predictions look better than others will be"
        )


def _is_there(folder: Folder) -> bool:
    try:
        return folder.is_there()
    except OSError as error:
        raise UserError(f"--input: {one_line(error)}") from None


def _write(bundle: Path, store: RecordStore, output: Path) -> int:
    """Write predictions as they come; return how many there are."""
    if store.index.empty:
        raise UserError(f"{store.uri}: this record store has no records")
    words = {"record_id", "subject_id"}
    words |= {b.task.name for b in load_bundles(bundle) if b.task.kind != "regression"}
    writer: pq.ParquetWriter | pa.csv.CSVWriter | None = None
    make = pa.csv.CSVWriter if output.suffix.lower() == ".csv" else pq.ParquetWriter
    count = 0
    with replacing(output) as temporary:
        try:
            for part in predictions(bundle, store):
                # Told, not inferred: in some part a task may have no answer at all.
                kinds = {n: pa.string() if n in words else pa.float32() for n in part.columns}
                table = pa.Table.from_pandas(part, pa.schema(kinds), preserve_index=False)
                writer = writer or make(temporary, table.schema)
                writer.write_table(table)
                count += len(part)
        finally:
            if writer is not None:
                writer.close()
    return count


def predict_store(bundle: Path, store: RecordStore, every_expert: bool = False) -> pd.DataFrame:
    """Predict every record of a store into one table; as `predictions`."""
    return pd.concat([*predictions(bundle, store, every_expert)], ignore_index=True)


def predictions(
    bundle: Path, store: RecordStore, every_expert: bool = False
) -> Iterator[pd.DataFrame]:
    """Predict every record of a store with Ray Data; yield tables, rows in the store's order.

    Parameters
    ----------
    bundle : Path
        ``bundle/`` of a run (all tasks), or ``bundle/<task>``.
    store : RecordStore
    every_expert : bool
        Give also what each expert that the bundle holds answers by itself: `expert_columns`.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    actors = max(1, gpus or int(ray.cluster_resources()["CPU"]) - 2)
    dataset = store.dataset().map_batches(
        _PredictActor,
        fn_constructor_args=(bundle, every_expert),
        batch_size=AT_A_TIME,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_gpus=1 if gpus else 0,
    )
    dataset.context.execution_options.preserve_order = True
    place_of = {record: place for place, record in enumerate(store.index["record_id"])}
    subjects = store.index["subject_id"].to_numpy()
    # Batches come in order, or nearly so: one that is early waits for those before it.
    waiting = pd.DataFrame()
    done = 0
    with counting("predict", len(place_of)) as progress:
        for batch in dataset.iter_batches(batch_format="pandas", batch_size=None):
            part = cast(pd.DataFrame, batch)
            part.index = pd.Index(part["record_id"].map(place_of))
            part.insert(1, "subject_id", subjects[part.index])
            waiting = pd.concat([waiting, part]).sort_index()
            ready = waiting.index == done + np.arange(len(waiting))
            progress.advance(len(part))
            if ready.any():
                yield waiting[ready].reset_index(drop=True)
                done += int(ready.sum())
                waiting = waiting[~ready]
    if done != len(place_of):
        raise RuntimeError(f"{done} of {len(place_of)} records were predicted")


def rows_of(bundle: Bundle, answer: Answer) -> dict[str, np.ndarray]:
    """Name the columns of one task's predictions.

    ``<task>`` (the value, or the class or classes that are answered by threshold),
    ``<task>__lo`` and ``<task>__hi`` (90 % prediction interval of a value),
    ``<task>__p__<class>`` for every class, ``<task>__w__<expert>`` for every expert's weight.
    """
    task, (prediction_BC, weights_BE, _) = bundle.task, answer
    ensemble = bundle.ensemble
    columns: dict[str, np.ndarray] = {}
    if task.kind == "regression":
        columns[task.name] = prediction_BC[:, 0]
        if ensemble.half_width is not None:
            columns[f"{task.name}__lo"] = prediction_BC[:, 0] - np.float32(ensemble.half_width)
            columns[f"{task.name}__hi"] = prediction_BC[:, 0] + np.float32(ensemble.half_width)
    else:
        columns[task.name] = answer_names(task, prediction_BC, ensemble.thresholds)
        for number, name in enumerate(task.classes):
            columns[f"{task.name}__p__{name}"] = prediction_BC[:, number]
    for number, name in enumerate(bundle.expert_names):
        columns[f"{task.name}__w__{name}"] = weights_BE[:, number]
    return columns


def expert_columns(task: Task, expert: str) -> list[str]:
    """Name the columns of one expert's own answers: one, or one for every class."""
    return [f"{task.name}__e__{expert}{name}" for name in [f"__{c}" for c in task.classes] or [""]]


class _PredictActor:
    """Bundles in a Ray Data actor."""

    def __init__(self, bundle: Path, every_expert: bool) -> None:
        torch.set_num_threads(1)  # with more, sums over threads would change the last bits
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.predictor = Predictor(load_bundles(bundle, every_expert), device)
        self.every_expert = every_expert

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        answers = self.predictor(decode(batch))
        columns: dict[str, Any] = {"record_id": batch["record_id"]}
        for bundle in self.predictor.bundles:
            answer = answers[bundle.task.name]
            columns |= rows_of(bundle, answer)
            for name in bundle.experts if self.every_expert else ():
                output_BC = answer.outputs_BEC[:, bundle.expert_names.index(name)]
                names = expert_columns(bundle.task, name)
                columns |= dict(zip(names, output_BC.T, strict=True))
        return columns
