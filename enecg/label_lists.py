"""Reading a multi-label column: lists of names, or text with separators between names."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from enecg.label_text import normal, text_of

SEPARATORS = (";", "|", ",")
"""Between the names of a cell; a column's separator is the first of them that it uses."""
_ANY = "".join(SEPARATORS)
_OTHERS = re.compile(r"\s*[;|,/+&:\\>_.、；，·-]\s*|\s+(?:and|or|und|et)\s+|\s+")
"""What else people write between names; not a separator here, and refused."""
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_SPACED = re.compile(r"""(?:\s*(?:'([^'\\]*)'|"([^"\\]*)"))+\s*""")
_QUOTED = re.compile(r"""'([^'\\]*)'|"([^"\\]*)\"""")


@dataclass(frozen=True)
class Lists:
    """A multi-label column that has been read.

    Attributes
    ----------
    number : int64 array, shape (N,)
        Which of ``different`` each record has; −1 where missing or unreadable.
    different : list of tuple of str
        The lists of names that occur.
    unreadable : dict of str to int
        What is no list of names, with how often it occurs.
    """

    number: npt.NDArray[np.int64]
    different: list[tuple[str, ...]]
    unreadable: dict[str, int]


def lists_of(values: pd.Series, classes: Sequence[str]) -> Lists:
    """Read a multi-label column.

    A text is one name; or names between which ``;``, ``|`` or ``,`` stands, the same one in the
    whole column; or a list as Python, JSON, NumPy or PostgreSQL write it. An empty part is no
    name. A declared class may have separators in its own name.

    Parameters
    ----------
    values : Series, length N
        Lists, text, or both; missing ones null.
    classes : sequence of str
        The declared names.

    Raises
    ------
    ValueError
        A cell of declared names with another separator in between; the message shows it.
    """
    number, different = pd.factorize(_cells(values, frozenset(classes)))
    often = np.bincount(number[number >= 0], minlength=len(different))
    declared = _Declared(classes)
    # "[…]" is a list, unless it is the name of a class.
    written = {
        cell: _list_in(cell)
        for cell in different
        if isinstance(cell, str) and cell not in declared.names and _is_bracketed(cell)
    }
    plain = [cell for cell in different if isinstance(cell, str) and cell not in written]
    separator = declared.separator_in(plain)
    read: list[tuple[str, ...]] = []
    unreadable: dict[str, int] = {}
    for cell, count in zip(different, often, strict=True):
        if isinstance(cell, tuple):
            found = cell
        elif cell not in written:
            found = declared.split(cell, separator)
        elif (names := written[cell]) is None:
            unreadable[cell] = int(count)
            found = ()
        else:
            found = names
        names = tuple(name.strip() for name in found if name.strip())
        declared.refuse_joined(names, separator)
        read.append(names)
    bad = np.array([cell in unreadable for cell in different] + [True], dtype=bool)
    return Lists(np.where(bad[number], -1, number), read, unreadable)


def undeclared_in(lists: Lists, classes: Sequence[str]) -> dict[str, int]:
    """Return the names that are no class, with how many records have each."""
    often = np.bincount(lists.number[lists.number >= 0], minlength=len(lists.different))
    known = set(classes)
    found: dict[str, int] = {}
    for names, count in zip(lists.different, often, strict=True):
        for name in dict.fromkeys(names):
            if name not in known and count:
                found[name] = found.get(name, 0) + int(count)
    return found


def _cells(values: pd.Series, classes: frozenset[str]) -> npt.NDArray[np.object_]:
    """Return every cell as stripped text, a tuple of names, or None where missing."""

    def named(number: object) -> str:
        # A column of floats is written uniformly, with or without ".0" (see `label_text`).
        text = text_of(number)
        return f"{text}.0" if text not in classes and f"{text}.0" in classes else text

    cells = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        if isinstance(value, str):
            cells[place] = normal(value) or None
        elif isinstance(value, list | tuple | np.ndarray | set | frozenset):
            cells[place] = tuple(text_of(name) for name in value if name is not None)
        elif value is not None and not pd.isna(value):
            cells[place] = named(value)
    return cells


def _is_bracketed(text: str) -> bool:
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _list_in(text: str) -> tuple[str, ...] | None:
    """Return the names of a list that is written as text; None where it is no list of names."""
    inside = text[1:-1].strip()
    if not inside:
        return ()
    if text[0] == "{":
        if not inside.startswith("'"):
            return _postgresql_array(inside)
        text = f"[{inside}]"  # a set of Python, in the order in which it is written
    if _SPACED.fullmatch(inside):  # NumPy's ['AF' 'LBBB'], which Python would join to one name
        return tuple(one or other for one, other in _QUOTED.findall(inside))
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        if any(mark in inside for mark in "'\"[](){}:"):
            return None
        return tuple(inside.split(","))  # [AF, LBBB], {AF,LBBB}
    if isinstance(value, str):  # ('AF'), a tuple of one that lacks its comma
        return (value,)
    if not isinstance(value, list | tuple | set):
        return None
    if not all(isinstance(name, str | int) and not isinstance(name, bool) for name in value):
        return None
    return tuple(map(str, value))


_ELEMENT = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|([^"{}\\,:]*?))\s*(?:,|$)""")


def _postgresql_array(inside: str) -> tuple[str, ...] | None:
    """Return the names of a one-dimensional PostgreSQL array; a bare NULL is no name.

    https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    """
    names, place = [], 0
    while place < len(inside):
        element = _ELEMENT.match(inside, place)
        if element is None:
            return None
        quoted, bare = element.groups()
        if quoted is not None:
            names.append(re.sub(r"\\(.)", r"\1", quoted))
        elif bare.upper() != "NULL":
            names.append(bare)
        place = element.end()
    return tuple(names)


class _Declared:
    """The declared names, and how a text that may have separators in them falls into names."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = frozenset(classes)
        compound = sorted((n for n in classes if any(s in n for s in SEPARATORS)), key=len)[::-1]
        # Stands for a name with separators in it while the text is split.
        self._mark_of = {name: chr(0xE000 + n) for n, name in enumerate(compound)}
        self._name_of = {mark: name for name, mark in self._mark_of.items()}
        either = "|".join(map(re.escape, compound))
        self._compound = (
            re.compile(rf"(^|[{_ANY}])(\s*)({either})(?=\s*(?:$|[{_ANY}]))") if compound else None
        )

    def _marked(self, text: str) -> str:
        if self._compound is None:
            return text
        return self._compound.sub(lambda m: f"{m[1]}{self._mark_of[m[3]]}", text)

    def separator_in(self, texts: Sequence[str]) -> str | None:
        """Return the first of `SEPARATORS` that a column's texts use."""
        marked = [self._marked(text) for text in texts if text not in self.names]
        return next((s for s in SEPARATORS if any(s in text for text in marked)), None)

    def split(self, text: str, separator: str | None) -> tuple[str, ...]:
        """Return the names in a text."""
        if text in self.names or separator is None:
            return (text,)
        parts = (part.strip() for part in self._marked(text).split(separator))
        return tuple(self._name_of.get(part, part) for part in parts)

    def refuse_joined(self, names: tuple[str, ...], separator: str | None) -> None:
        """Refuse a name that is made of several declared ones."""
        for name in names:
            if name in self.names:
                continue
            parts = [part for part in _OTHERS.split(name) if part]
            if len(parts) > 1 and self.names.issuperset(parts):
                between = _OTHERS.search(name[len(parts[0]) :])
                mark = (between[0].strip() or between[0]) if between else ""
                allowed = f"{separator!r}, as in the rest of the column"
                if separator is None:
                    allowed = f"one of {' '.join(SEPARATORS)} and the same in the whole column"
                raise ValueError(
                    f"{name[:80]!r} joins several classes by {mark!r}; the separator must be "
                    f"{allowed}"
                )
