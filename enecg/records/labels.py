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
        float64 with NaN, or str with None.
    impossible : int
        How many were present, and made missing.
    """
    present = labels.notna()
    if task.kind == "regression":
        values = pd.Series(pd.to_numeric(labels, errors="coerce").to_numpy(np.float64, copy=True))
        if task.valid is not None:
            values[~values.between(*task.valid)] = np.nan
    else:
        values = pd.Series(
            [str(value).strip() if ok else None for value, ok in zip(labels, present, strict=True)],
            dtype=object,
        )
        if OTHER not in task.classes:
            values[~values.isin(task.classes)] = None
    values.index = labels.index
    return values, int((present & values.isna()).sum())


def statistics(labels: pd.Series, task: Task, impossible: int) -> Statistics:
    """Describe one label column after `checked`: how many are there, and what they look like."""
    present = labels.dropna()
    found: Statistics = {
        "kind": task.kind,
        "present": len(present),
        "missing": len(labels) - len(present),
        "made_missing_as_impossible": impossible,
    }
    if task.kind == "classification":
        counts = present.value_counts()
        found["classes"] = {name: int(counts[name]) for name in sorted(counts.index)}
    elif len(present):
        numbers = present.astype(float)
        found["unit"] = task.unit
        for name, number in (
            ("mean", numbers.mean()), ("std", numbers.std(ddof=0)), ("min", numbers.min()),
            ("median", numbers.median()), ("max", numbers.max()),
        ):  # fmt: skip
            found[name] = round(float(number), 6)
    return found


def checked_columns(
    table: pd.DataFrame, names: tuple[str, ...]
) -> tuple[pd.DataFrame, dict[str, Statistics]]:
    """Apply `checked` and `statistics` to every label column of a table."""
    by_column = {task.column: task for task in TASKS.values()}
    described: dict[str, Statistics] = {}
    columns = {}
    for name in names:
        columns[name], impossible = checked(table[name], by_column[name])
        described[name] = statistics(columns[name], by_column[name], impossible)
    return table.assign(**columns), described


def arrow_column(values: pd.Series) -> pa.Array:
    """Turn any column a CSV can give into an Arrow array; mixed kinds become text."""
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = pa.array([None if pd.isna(value) else str(value) for value in values], pa.string())
    if pa.types.is_list(array.type):  # classes that hold; an empty list where none does
        return array.cast(pa.list_(pa.string()))
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array
