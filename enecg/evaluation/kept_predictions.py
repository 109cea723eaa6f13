"""Every out-of-fold prediction of a run in one table, from which its results can be recomputed.

``predictions.parquet``, one row per task, repeat, predictor and record:

============  =====================================================================================
task          the task's name
repeat, fold  which cross-validation, from 0, and in which of its outer folds the record was a
              test record
record_id, group_id
predictor     as in results.json
target        the value, or the class's number; null where missing, and of several labels
targets       of several labels: 1 for each that holds, in the order of the classes; else null
prediction    the value in a list of one, or the probability of each class
answer        of ``deployed``: the class's number in a list of one, or 1 for each label that is
              answered; null for values and other predictors, whose answer is the most probable
weights       of ``ensemble``: each expert's weight, in the order of the config; else null
============  =====================================================================================

Tasks' kinds, units and classes are in the file's metadata, key ``enecg``, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from enecg.errors import UserError, one_line
from enecg.evaluation.folds import ordered
from enecg.files import replacing
from enecg.tasks import Task

FILE = "predictions.parquet"
_KEY = b"enecg"
_WORDS = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        ("task", _WORDS),
        ("repeat", pa.int16()),
        ("fold", _WORDS),
        ("record_id", pa.string()),
        ("group_id", pa.string()),
        ("predictor", _WORDS),
        ("target", pa.float64()),
        ("targets", pa.list_(pa.float32())),
        ("prediction", pa.list_(pa.float32())),
        ("answer", pa.list_(pa.int16())),
        ("weights", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class OutOfFold:
    """One task's out-of-fold predictions in one cross-validation; N records.

    Attributes
    ----------
    task : Task
    repeat : int
        From 0.
    record_N, group_N, fold_N : arrays of str, shape (N,)
    target_N : float array, shape (N,), or (N, C) for several labels
        NaN where missing.
    predictions : dict of str to float32 array, shape (N, C)
        By predictor.
    weights_NE : float32 array, shape (N, E), or None
        The ensemble's weights.
    answers_N : array or None
        What ``deployed`` answers, as `thresholds.answers` gives it; None for values.
    """

    task: Task
    repeat: int
    record_N: npt.NDArray[Any]
    group_N: npt.NDArray[Any]
    fold_N: npt.NDArray[Any]
    target_N: npt.NDArray[np.floating]
    predictions: Mapping[str, npt.NDArray[np.floating]]
    weights_NE: npt.NDArray[np.floating] | None = None
    answers_N: npt.NDArray[Any] | None = None


def write_predictions(path: Path, kept: list[OutOfFold], experts: list[str]) -> None:
    """Write the table; it appears whole or not at all.

    Parameters
    ----------
    path : Path
    kept : list of OutOfFold
    experts : list of str
        What the weights belong to.
    """
    tasks = {one.task.name: asdict(one.task) for one in kept}
    said = json.dumps({"tasks": tasks, "experts": experts})
    schema = _SCHEMA.with_metadata({_KEY: said.encode()})
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for one in kept:
            for table in _tables(one, schema):
                writer.write_table(table)


def read_predictions(path: Path) -> dict[tuple[str, int], OutOfFold]:
    """Read the table of a run, by task and repeat.

    Raises
    ------
    UserError
        No such file, or one of another kind.
    """
    try:
        table = pq.read_table(path)
        said = json.loads(table.schema.metadata[_KEY])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a finished run of this version has one") from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a table of predictions: {one_line(error)}") from None
    found: dict[tuple[str, int], OutOfFold] = {}
    for name, fields in said["tasks"].items():
        task = _task_of(fields)
        of_task = table.filter(pc.equal(pc.cast(table["task"], pa.string()), name))
        for repeat in sorted(pc.unique(of_task["repeat"]).to_pylist()):
            part = of_task.filter(pc.equal(of_task["repeat"], repeat))
            found[name, repeat] = _out_of_fold(task, repeat, part)
    return found


def _tables(one: OutOfFold, schema: pa.Schema) -> Iterator[pa.Table]:
    n = len(one.record_N)
    several = one.task.kind == "multilabel"
    missing = pa.nulls(n, pa.list_(pa.float32()))
    for predictor, prediction_NC in one.predictions.items():
        weights = one.weights_NE if predictor == "ensemble" else None
        answers = one.answers_N if predictor == "deployed" else None
        columns: dict[str, Any] = {
            "task": _repeated(one.task.name, n),
            "repeat": pa.array(np.full(n, one.repeat, dtype=np.int16)),
            "fold": _words(one.fold_N, ordered(one.fold_N)),
            "record_id": pa.array(one.record_N.astype(str)),
            "group_id": pa.array(one.group_N.astype(str)),
            "predictor": _repeated(predictor, n),
            "target": pa.nulls(n, pa.float64())
            if several
            else pa.array(one.target_N.astype(np.float64), from_pandas=True),
            "targets": _lists(one.target_N) if several else missing,
            "prediction": _lists(prediction_NC),
            "answer": missing if answers is None else _lists(answers.reshape(n, -1)),
            "weights": missing if weights is None else _lists(weights),
        }
        yield pa.table(columns).cast(schema)


def _repeated(word: str, n: int) -> pa.Array:
    places = pa.array(np.zeros(n, dtype=np.int32))
    return pa.DictionaryArray.from_arrays(places, pa.array([word]))


def _words(word_N: npt.NDArray[Any], words: list[str]) -> pa.Array:
    """Encode words by a dictionary in a given order, in which pandas lists them."""
    place_of = {word: place for place, word in enumerate(words)}
    places = np.fromiter((place_of[str(word)] for word in word_N), np.int32, len(word_N))
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(words, pa.string()))


def _lists(values_NC: npt.NDArray[np.floating]) -> pa.Array:
    n, width = values_NC.shape
    starts = pa.array(np.arange(n + 1, dtype=np.int32) * width)
    flat = pa.array(np.ascontiguousarray(values_NC, dtype=np.float32).ravel())
    return pa.ListArray.from_arrays(starts, flat)


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = pc.list_flatten(column).to_numpy().astype(np.float32)
    return flat.reshape(len(column), -1)


def _out_of_fold(task: Task, repeat: int, table: pa.Table) -> OutOfFold:
    predictors = pc.cast(table["predictor"], pa.string())
    parts = {
        str(name): table.filter(pc.equal(predictors, name))
        for name in pc.unique(predictors).to_pylist()
    }
    first = next(iter(parts.values()))
    if task.kind == "multilabel":
        target_N: npt.NDArray[Any] = _matrix(first["targets"])
    else:
        target_N = first["target"].to_numpy()
    weights = parts["ensemble"]["weights"] if "ensemble" in parts else None
    answers: npt.NDArray[Any] | None = None
    if "deployed" in parts and not parts["deployed"]["answer"].null_count:
        answers = _matrix(parts["deployed"]["answer"]).astype(np.int64)
        answers = answers.astype(bool) if task.kind == "multilabel" else answers[:, 0]
    return OutOfFold(
        task,
        repeat,
        first["record_id"].to_numpy(),
        first["group_id"].to_numpy(),
        pc.cast(first["fold"], pa.string()).to_numpy(),
        target_N.astype(np.float64),
        {name: _matrix(part["prediction"]) for name, part in parts.items()},
        None if weights is None or weights.null_count else _matrix(weights),
        answers,
    )


def _task_of(fields: dict[str, Any]) -> Task:
    valid = fields["valid"]
    return Task(
        **fields
        | {"classes": tuple(fields["classes"]), "valid": None if valid is None else tuple(valid)}
    )
