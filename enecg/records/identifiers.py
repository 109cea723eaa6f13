"""Identifiers of records and subjects in one normal form, wherever they come from.

Tables are joined by identifiers, and folds are split by them. ``7``, ``7.0`` (a number that went
through a table with an empty cell) and `` 7 `` are one and the same; ``007`` is another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from enecg.errors import UserError

_WIDE = {0xFF00 + n: 0x20 + n for n in range(1, 95)}
"""Full-width forms of ASCII's characters."""
_WHOLE = re.compile(r"(-?[0-9]+)\.0*")
# Plain "1e7" may be a hexadecimal name; with a point or a sign it can only be a rounded number.
_ROUNDED = re.compile(r"-?[0-9]+(\.[0-9]+[eE][+-]?|[eE][+])[0-9]+")
_NORMAL = "^[A-Za-z0-9_-]+$"
"""What most identifiers look like; they are in their normal form already."""
_LARGEST_FLOAT = 2**53
WORDS_FOR_MISSING = frozenset(
    {"na", "n/a", "n.a.", "nan", "nat", "none", "null", "nil", "<na>", "#n/a", "#null!", "unknown",
     "missing", "unk", "-", "--", ".", "?"}
)  # fmt: skip
"""What programs write into a cell that should be empty, in lower case."""


def identifier(value: object) -> str | None:
    """Return one identifier in its normal form.

    Blanks around it do not count, nor do ``.0`` behind a whole number, marks that cannot be seen,
    and which of several dashes or widths a character has; leading zeros and case do. Text is never
    read as a number, so it may have any number of digits.

    Parameters
    ----------
    value : object
        A table's cell or a JSON value.

    Returns
    -------
    str or None
        None where the value is empty or null.

    Raises
    ------
    ValueError
        The value is no identifier: a truth value, a list, a number that has lost digits. The
        message says what it is.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"is {str(value).lower()}; an identifier is a text or a whole number")
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return _of_float(float(value))
    if not isinstance(value, str):
        raise ValueError(f"is {str(value)[:60]!r}; an identifier is a text or a whole number")
    text = (value if value.isascii() else _plain(value)).strip()
    if not text:
        return None
    if _ROUNDED.fullmatch(text):
        raise ValueError(f"is {text!r}, a rounded number; write all of its digits")
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _plain(text: str) -> str:
    """Return text in which what looks alike is alike: full-width digits, dashes, hidden marks.

    macOS decomposes umlauts in file names; copied text brings marks of direction along.
    """
    text = unicodedata.normalize("NFC", text.translate(_WIDE))
    kinds = ((one, unicodedata.category(one)) for one in text)
    return "".join("-" if kind == "Pd" else one for one, kind in kinds if kind != "Cf")


def _of_float(number: float) -> str | None:
    if np.isnan(number):
        return None
    if not np.isfinite(number) or abs(number) > _LARGEST_FLOAT:
        raise ValueError(f"is {number!r}, a rounded number; read this column as text")
    return str(int(number)) if number == int(number) else repr(number)


def identifiers(values: pd.Series, where: Callable[[int], str]) -> pd.Series:
    """Return a column of identifiers in normal form.

    Parameters
    ----------
    values : Series, length N
        Of any type.
    where : callable
        Says in a message where the value at a place (0 to N − 1) stands: file, line and column.

    Returns
    -------
    Series of str, length N
        None where empty.

    Raises
    ------
    UserError
        A value that is no identifier; the message says where it stands.
    """
    plain = pd.Series(values.to_numpy(dtype=object), index=values.index, dtype=object)
    if pd.api.types.infer_dtype(plain, skipna=True) in ("string", "empty"):
        texts = pa.array(plain, pa.string(), from_pandas=True)
        if pc.all(pc.match_substring_regex(texts, _NORMAL)).as_py() is not False:
            return plain.where(plain.notna(), None)
    normal = np.empty(len(plain), dtype=object)
    for place, value in enumerate(plain):
        try:
            normal[place] = identifier(value)
        except ValueError as error:
            raise UserError(f"{where(place)} {error}") from None
    return pd.Series(normal, index=values.index, dtype=object)


def note_on_words(subjects: pd.Series, origin: object) -> list[str]:
    """Return a note for each word such as ``NA`` that several records have for a subject."""
    counts = subjects.value_counts()
    return [
        f"{origin}: {count:,} records have the subject {word!r} and count as one patient; an empty "
        "cell says that the subject is not known"
        for word, count in counts[counts > 1].items()
        if str(word).lower() in WORDS_FOR_MISSING
    ]
