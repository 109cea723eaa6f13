"""Reading a label column as numbers or as class names, and counting what cannot be read.

Columns may hold text as a table has it, or values as JSON and Parquet have them. Nothing is
guessed: what cannot be read is missing, and counted by `Unread`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_MEANT = re.compile(
    r"[<>≤≥=~≈±+\-−–\s]*(\d[\d.,'’_\s]*\s*(%|[a-zµμ]{1,5}(/[a-z]{1,5})?)?|0x[0-9a-f]+"
    r"|\d[\d.]*e[+-]?\d+|inf(inity)?|nan)",
    re.IGNORECASE,
)
_MOST_NAMES = 20
UNDECLARED = -2
"""What `names_of` gives for a name that is no class."""


@dataclass
class Unread:
    """What of a label column was present and is not used as it stands.

    Attributes
    ----------
    unreadable : dict of str to int
        Values that are no number, or no list of names, with how often they occur.
    out_of_range : dict of str to int
        Numbers outside of the task's valid range.
    undeclared : dict of str to int
        Names that are no class of the task.
    """

    unreadable: dict[str, int] = field(default_factory=dict)
    out_of_range: dict[str, int] = field(default_factory=dict)
    undeclared: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many values there are of all kinds."""
        kinds = (self.unreadable, self.out_of_range, self.undeclared)
        return sum(sum(found.values()) for found in kinds)

    def sentences(self, rest: str = "") -> list[str]:
        """Say each kind in a phrase with its count and examples.

        Parameters
        ----------
        rest : str
            What undeclared names become, if they do not count as missing.
        """
        said = []
        if self.unreadable:
            said.append(
                f"{_values(self.unreadable)} cannot be read: {with_counts(self.unreadable)}"
            )
        if self.out_of_range:
            said.append(
                f"{_values(self.out_of_range)} outside of the valid range: "
                f"{with_counts(self.out_of_range)}"
            )
        if self.undeclared:
            said.append(
                f"{_values(self.undeclared)} of no declared class"
                f"{f', {rest}' if rest else ''}: {with_counts(self.undeclared)}"
            )
        return said

    def described(self) -> dict[str, dict[str, object]]:
        """Return counts and examples for ``dataset.json``; only kinds that occur."""
        kinds = {
            "unreadable": self.unreadable,
            "out_of_range": self.out_of_range,
            "undeclared": self.undeclared,
        }
        return {kind: counted(found) for kind, found in kinds.items() if found}


def _values(found: dict[str, int]) -> str:
    count = sum(found.values())
    return f"{count:,} value{'s' if count > 1 else ''}"


def counted(found: dict[str, int]) -> dict[str, object]:
    """Return ``count``, ``example`` (the most frequent) and ``values`` (the first 20)."""
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "count": sum(found.values()),
        "example": ordered[0][0],
        "values": dict(ordered[:_MOST_NAMES]),
    }


def with_counts(found: Mapping[str, int], total: int | None = None, most: int = 3) -> str:
    """Return the most frequent values with their counts, such as ``'1,250' (4), others (2)``.

    Parameters
    ----------
    found : mapping of str to int
    total : int, optional
        How many there are, if ``found`` holds not all.
    most : int
        How many to name.
    """
    ordered = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    said = [f"{value[:60]!r} ({count:,})" for value, count in ordered[:most]]
    rest = (sum(found.values()) if total is None else total) - sum(c for _, c in ordered[:most])
    if rest:
        said.append(f"others ({rest:,})")
    return ", ".join(said)


def often(texts: npt.NDArray[np.object_]) -> dict[str, int]:
    """Return how often each text occurs, in order of appearance; None is left out."""
    return dict(Counter(text for text in texts.tolist() if text is not None))


def is_missing(values: pd.Series) -> npt.NDArray[np.bool_]:
    """Return where a column is empty, bool (N,): null, or text of blanks only."""
    missing: npt.NDArray[np.bool_] = values.isna().to_numpy(dtype=bool)
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype | pd.CategoricalDtype):
        blank = [isinstance(value, str) and not value.strip() for value in values]
        missing = missing | np.array(blank, dtype=bool)
    return missing


def numbers_of(values: pd.Series) -> tuple[npt.NDArray[np.float64], dict[str, int]]:
    """Read a column as numbers.

    A number has ASCII digits, perhaps a sign, a decimal point, an exponent; nothing else. A comma
    is not guessed at: ``1,250`` may be 1250 or 1.25.

    Parameters
    ----------
    values : Series, length N

    Returns
    -------
    numbers : float64 array, shape (N,)
        NaN where missing or unreadable.
    unreadable : dict of str to int
        What is present but no finite number, with how often it occurs.
    """
    if _is_numeric(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        bad = np.isinf(numbers)
        unreadable = dict(Counter(map(str, numbers[bad])))
        numbers[bad] = np.nan
        return numbers, unreadable
    texts = texts_of(values)
    number, different = pd.factorize(texts)
    read_D = np.array([*map(_number, different), np.nan], dtype=np.float64)
    numbers = read_D[number]  # −1, missing: the last one
    return numbers, often(texts[np.isnan(numbers)])


def _is_numeric(values: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(values) and not types.is_bool_dtype(values)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        return np.nan
    number = float(text)
    return number if np.isfinite(number) else np.nan


def looks_like_a_number(text: str) -> bool:
    """Whether a text that is no number was most likely meant as one: ``61,5``, ``<5``, ``inf``."""
    return _MEANT.fullmatch(text.strip()) is not None


def texts_of(values: pd.Series) -> npt.NDArray[np.object_]:
    """Return a column's values as text without blanks around, None where missing.

    Whole numbers of a numeric column are written without ``.0``: a missing value among them makes
    Parquet's integers floats in pandas.
    """
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) == "string":
        number, different = pd.factorize(values)  # far fewer than values, most often
        return np.array([*(normal(text) or None for text in different), None], dtype=object)[number]
    missing = is_missing(values)
    plain = values.to_numpy(dtype=object)
    texts = np.empty(len(values), dtype=object)
    texts[:] = [
        None if gone else text_of(value) for value, gone in zip(plain, missing, strict=True)
    ]
    return texts


def normal(text: str) -> str:
    """Return text without blanks around, in Unicode's composed form: ``é`` is one character."""
    text = text.strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def visible(text: str) -> str:
    """Return `normal` text without characters that cannot be seen (zero-width, direction marks)."""
    return normal("".join(one for one in text if unicodedata.category(one) != "Cf"))


def text_of(value: object) -> str:
    """Return one value as text without blanks around; a whole number without ``.0``."""
    if isinstance(value, str):
        return normal(value)
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def names_of(
    values: pd.Series, classes: Sequence[str]
) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Read a column as names of classes.

    Parameters
    ----------
    values : Series, length N
    classes : sequence of str
        The declared names.

    Returns
    -------
    number : int64 array, shape (N,)
        Place in ``classes``; −1 where missing, `UNDECLARED` where the name is not declared.
    undeclared : dict of str to int
        Names that are not declared, with how often they occur.
    """
    place = {name: at for at, name in enumerate(classes)}
    number, different = pd.factorize(texts_of(values))
    # A column of floats is written uniformly, with or without ".0" (see `enecg.records.columns`).
    found = [place.get(name, UNDECLARED) for name in different]
    if _is_numeric(values):
        found = [
            place.get(f"{name}.0", UNDECLARED) if at == UNDECLARED else at
            for name, at in zip(different, found, strict=True)
        ]
    at = np.array([*found, -1], dtype=np.int64)
    times = np.bincount(number[number >= 0], minlength=len(different))
    undeclared = {
        str(different[n]): int(times[n]) for n, at_n in enumerate(found) if at_n == UNDECLARED
    }
    return at[number], undeclared
