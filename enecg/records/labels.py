"""Labels and metadata of a listing as columns of the index: checked, typed, counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from enecg.label_text import (
    Unread,
    counted,
    looks_like_a_number,
    numbers_of,
    often,
    text_of,
    texts_of,
)
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
    values, unread = checked_labels(labels, task)
    return values, unread.total


def checked_labels(labels: pd.Series, task: Task) -> tuple[pd.Series, Unread]:
    """Do what `checked` does, and tell what was made missing by kind, with how often it occurs."""
    if task.kind == "regression":
        numbers, unread = task.read(labels)
        return pd.Series(numbers, index=labels.index), unread
    if is_multi_label(labels):
        return as_lists(labels), Unread()
    texts = pd.Series(texts_of(labels), index=labels.index, dtype=object)
    if OTHER in task.classes:
        return texts, Unread()
    strange = texts.notna() & ~texts.isin(task.classes)
    unread = Unread(undeclared=often(texts[strange].to_numpy(dtype=object)))
    return texts.mask(strange, None), unread


def is_multi_label(values: pd.Series) -> bool:
    """Whether a column holds lists of names, in some of its cells at least."""
    if values.dtype != object:
        return False
    return any(isinstance(value, list | tuple | np.ndarray) for value in values)


def as_lists(values: pd.Series) -> pd.Series:
    """Return a column in which every value is a list of names, or None where missing.

    A lone name is a list of one; null in a list is no name.
    """
    lists: list[list[str] | None] = []
    for value in values:
        if isinstance(value, list | tuple | np.ndarray):
            lists.append([text_of(name) for name in value if name is not None])
        elif value is None or pd.isna(value) or not text_of(value):
            lists.append(None)
        else:
            lists.append([text_of(value)])
    return pd.Series(lists, index=values.index, dtype=object)


def statistics(
    labels: pd.Series, kind: str, unit: str = "", impossible: int = 0, unread: Unread | None = None
) -> Statistics:
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
    unread : Unread, optional
        Which ones, by kind.
    """
    present = labels.dropna()
    found: Statistics = {
        "kind": kind,
        "present": len(present),
        "missing": len(labels) - len(present),
        "made_missing_as_impossible": impossible,
        **(unread.described() if unread else {}),
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
        columns[name], unread = checked_labels(table[name], task)
        kind = "multilabel" if is_multi_label(columns[name]) else task.kind
        described[name] = statistics(columns[name], kind, task.unit, unread.total, unread)
    for name in metadata:
        if is_multi_label(table[name]):
            columns[name] = as_lists(table[name])
            described[name] = statistics(columns[name], "multilabel")
    return table.assign(**columns), described


def unreadable_numbers(table: pd.DataFrame, names: Iterable[str]) -> dict[str, dict[str, object]]:
    """Describe columns of numbers in which some values are none, such as ``1,250`` or ``<5``.

    They stay in the index as they are written, and are missing for a regression task.

    Parameters
    ----------
    table : DataFrame
    names : iterable of str
        Which columns to look at.

    Returns
    -------
    dict of str to dict
        Per column ``numbers`` (how many can be read), and ``count``, ``example`` and ``values`` of
        those that cannot. Columns without any are left out, and those that are plainly no numbers.
    """
    found = {}
    for name in names:
        if table[name].dtype != object or is_multi_label(table[name]):
            continue
        numbers, unreadable = numbers_of(table[name])
        readable = int(np.isfinite(numbers).sum())
        meant = sum(times for text, times in unreadable.items() if looks_like_a_number(text))
        if unreadable and (readable or 2 * meant >= sum(unreadable.values())):
            found[name] = {"numbers": readable, **counted(unreadable)}
    return found


def arrow_column(values: pd.Series) -> pa.Array:
    """Turn any column that a table or JSON can give into an Arrow array; mixed kinds become text.

    Where some values are lists of names, every value is.
    """
    if is_multi_label(values):
        return pa.array(as_lists(values), pa.list_(pa.string()))
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        array = None
    if array is None or pa.types.is_struct(array.type):  # JSON's objects, with any keys at all
        array = pa.array([None if pd.isna(value) else str(value) for value in values], pa.string())
    return array.cast(pa.string()) if pa.types.is_null(array.type) else array


def list_of(value: pa.DataType) -> pa.ListType:
    """Return the type of lists as Parquet gives it back: with another name inside, the same table
    would not be the same bytes once it was read and written again."""
    return pa.list_(pa.field("element", value))
