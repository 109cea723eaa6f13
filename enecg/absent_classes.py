"""Declared classes that no record has: most often they are mistyped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from enecg.errors import did_you_mean
from enecg.tasks import OTHER, SEPARATOR, Task, known

SHOWN = 8
"""Values of the column that are named."""


def absent_classes(task: Task, labels: pd.Series) -> Iterator[str]:
    """Say of each declared class that no record has which of the column's values it may mean.

    A class may be absent for good reasons, as from a small store; so this is no mistake by itself.

    Parameters
    ----------
    task : Task
    labels : Series
        The store's column, as `Task.targets` takes it.
    """
    if task.kind == "regression":
        return
    target = task.targets(labels)
    has_N = known(target)
    if task.kind == "classification":
        there = [bool((target[has_N] == number).any()) for number in range(task.width)]
    else:
        there = [bool(column.any()) for column in target[has_N].T]
    lacking = [n for n, is_there in zip(task.classes, there, strict=True) if not is_there]
    lacking = [name for name in lacking if name != OTHER]
    if not lacking:
        return
    counts = _values(labels).value_counts()
    strange = [str(name) for name in counts.index if str(name) not in task.classes]
    has = ", ".join(f"{name!r} ({n:,})" for name, n in counts.head(SHOWN).items()) or "no value"
    more = f" and {len(counts) - SHOWN:,} more" if len(counts) > SHOWN else ""
    for name in lacking:
        yield (
            f"no record has the class {name!r}{did_you_mean(name, strange)}; "
            f"column {task.column!r} has {has}{more}"
        )


def _values(labels: pd.Series) -> pd.Series:
    """Every name that stands in a column, lists and joined text taken apart."""
    present = labels.dropna()
    if present.map(lambda entry: isinstance(entry, list | tuple | np.ndarray)).any():
        return present.explode().dropna().astype(str)
    text = present.convert_dtypes().astype(str)
    return text.str.split(SEPARATOR).explode().str.strip()
