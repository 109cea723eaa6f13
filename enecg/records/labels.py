"""Labels and metadata of a listing as columns of the index: checked, typed, counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from enecg.tasks import OTHER, TASKS, Task

Statistics = dict[str, Any]


def checked(labels: pd.Series, task: Task) -> tuple[pd.Series, int]:
    """Make impossible labels missing.

    Parameters
    ----------
    labels : Series, length N
        As the corpus has them; missing ones null.
    task : Task
        What is possible: a regression's valid range; a class that is declared, unless ``other``
        is, which takes every one.

    Returns
    -------
    labels : Series, length N
        float64 with NaN, or str with None; lists of names stay lists.
    impossible : int
        How many were present, and made missing.
    """
    present = labels.notna()
    if task.kind == "regression":
        values = pd.Series(pd.to_numeric(labels, errors="coerce").to_numpy(np.float64, copy=True))
        if task.valid is not None:
            values[~values.between(*task.valid)] = np.nan
    elif is_multi_label(labels):
        values = labels.copy()
    else:
        values = labels.astype(object).map(lambda value: str(value).strip(), na_action="ignore")
        values[~present] = None
        if OTHER not in task.classes:
            values[~values.isin(task.classes)] = None
    values.index = labels.index
    return values, int((present & values.isna()).sum())


def is_multi_label(values: pd.Series) -> bool:
    """Whether a column holds lists of names: those that hold, none of them, or null (unknown)."""
    present = values.dropna()
    return len(present) > 0 and isinstance(present.iloc[0], list | tuple | np.ndarray)


def statistics(labels: pd.Series, kind: str, unit: str = "", impossible: int = 0) -> Statistics:
    """Describe one label column after `checked`: how many are there, and what they look like.

    Parameters
    ----------
    labels : Series, length N
    kind : str
        ``regression``, ``classification``, or ``multilabel`` for lists of names.
    unit : str
        Of a regression's label.
    impossible : int
        How many were made missing.
    """
    present = labels.dropna()
    found: Statistics = {
        "kind": kind,
        "present": len(present),
        "missing": len(labels) - len(present),
        "made_missing_as_impossible": impossible,
    }
    if kind != "regression":
        counts = present.explode().dropna().astype(str).value_counts()
        found["classes"] = {name: int(counts[name]) for name in sorted(counts.index)}
        if kind == "multilabel":
            found["none_holds"] = int((present.map(len) == 0).sum())
    elif len(present):
        numbers = present.astype(float)
        found["unit"] = unit
        for name, number in (
            ("mean", numbers.mean()), ("std", numbers.std(ddof=0)), ("min", numbers.min()),
            ("median", numbers.median()), ("max", numbers.max()),
        ):  # fmt: skip
            found[name] = round(float(number), 6)
    return found


def checked_columns(
    table: pd.DataFrame, names: tuple[str, ...], metadata: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, dict[str, Statistics]]:
    """Apply `checked` and `statistics` to the label columns of a table.

    Columns of ``metadata`` that hold lists of names are labels too, if not of a task known here;
    they are described as well.
    """
    by_column = {task.column: task for task in TASKS.values()}
    described: dict[str, Statistics] = {}
    columns = {}
    for name in names:
        task = by_column[name]
        columns[name], impossible = checked(table[name], task)
        kind = "multilabel" if is_multi_label(columns[name]) else task.kind
        described[name] = statistics(columns[name], kind, task.unit, impossible)
    for name in metadata:
        if is_multi_label(table[name]):
            described[name] = statistics(table[name], "multilabel")
    return table.assign(**columns), described


def arrow_column(values: pd.Series) -> pa.Array:
    """Turn any column a CSV can give into an Arrow array; mixed kinds become text."""
    if is_multi_label(values):
        lists = [
            list(map(str, v)) if ok else None for v, ok in zip(values, values.notna(), strict=True)
        ]
        return pa.array(lists, pa.list_(pa.string()))
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = None
    if array is None or pa.types.is_struct(array.type):  # JSON's objects, with any keys at all
        array = pa.array([None if pd.isna(value) else str(value) for value in values], pa.string())
    if pa.types.is_list(array.type):  # classes that hold; an empty list where none does
        return array.cast(pa.list_(pa.string()))
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array


def list_of(value: pa.DataType) -> pa.ListType:
    """Return the type of lists as Parquet gives it back: with another name inside, the same table
    would not be the same bytes once it was read and written again."""
    return pa.list_(pa.field("element", value))
