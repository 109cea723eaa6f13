"""Columns of text that may be stored as numbers without losing how they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = r"^(0|-?[1-9][0-9]{0,15})$"
_LARGEST_FLOAT = 2**53


def typed(values: pd.Series) -> pd.Series:
    """Turn a column of text into numbers where its text could be written again from them.

    So ``1``, ``2`` become whole numbers and ``61.5``, ``63.0`` decimal ones; but a column with
    ``01``, ``+1``, ``427.30``, ``1e7``, or with both ``61`` and ``61.0``, stays text: these may be
    the names of classes, and a task of that column has to see them as they are written.

    Parameters
    ----------
    values : Series, length N
        Columns that are not wholly text are returned as they are.

    Returns
    -------
    Series, length N
        int64; float64, NaN where missing; or as it was.
    """
    present = values.dropna()
    if values.dtype != object or not len(present):
        return values
    if pd.api.types.infer_dtype(present) != "string":
        return values
    different = pa.array(pd.unique(present), pa.string())
    if pc.all(pc.match_substring_regex(different, _WHOLE)).as_py():
        whole = present.astype(np.int64)
        if (whole.abs() > _LARGEST_FLOAT).any():
            return values
        return (
            whole if len(whole) == len(values) else whole.astype(np.float64).reindex(values.index)
        )
    # Two ways of writing a column of decimals: 61.0 and 61.5, or 61 and 61.5; not both.
    try:
        numbers = {text: float(text) for text in different.to_pylist()}
    except ValueError:
        return values
    for written in (repr, _shortest):
        if all(np.isfinite(n) and written(n) == text for text, n in numbers.items()):
            return values.map(numbers).astype(np.float64)
    return values


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")
