"""The forms in which search spaces are written, and drawing one value from one."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import enecg
from enecg.errors import UserError, brief, did_you_mean
from enecg.yaml_file import read_yaml

MOST_CHOICES = 1000
"""Values that one key can be chosen from."""
FORMS = "{choose: […]}, {uniform: [low, high]}, {log_uniform: [low, high]}"

SHIPPED = "tune_spaces"
"""The folder of the spaces that come with this program."""


def place_of_space(path: str) -> str:
    """Return where a space is: a file of this path, else the shipped one of this name.

    Shipped ones, ``tune_spaces/…``, lie in the checkout, or where an installed package puts what
    is not code (``share/enecg``), whatever the working directory is.
    """
    if Path(path).exists() or Path(path).parts[:1] != (SHIPPED,):
        return path
    shipped = [Path(enecg.__file__).parents[1], Path(sysconfig.get_path("data"), "share", "enecg")]
    return next((str(root / path) for root in shipped if (root / path).is_file()), path)


def read_space(
    path: Path, where: str, known: list[str], required: Collection[str] = ()
) -> dict[str, Any]:
    """Read a space from YAML: a mapping from some of the known keys to forms.

    Parameters
    ----------
    path : Path
    where : str
        The setting that names the file, for messages.
    known : list of str
        Every key there may be.
    required : collection of str
        Those there must be.

    Raises
    ------
    UserError
        No such file, one that cannot be read, an unknown key or a missing one.
    """
    space = read_yaml(path, where)
    if not isinstance(space, dict):
        some = "" if required else "some of "
        raise UserError(f"{where}: {brief(path)} must map {some}{', '.join(known)} to values")
    for key in space:
        if key not in known:
            raise UserError(
                f"{where}: {brief(path)}: unknown key {brief(key)}{did_you_mean(key, known)}; "
                f"allowed: {', '.join(known)}"
            )
    if missing := [key for key in required if key not in space]:
        raise UserError(f"{where}: {brief(path)} lacks {', '.join(missing)}")
    return space


class Source(Protocol):
    """Where values come from: chance, or a searcher that learns from how earlier ones did."""

    def place(self, name: str, count: int) -> int:
        """Return a number from 0 to ``count - 1``."""

    def number(self, name: str, low: float, high: float, log: bool) -> float:
        """Return a number between two, or one whose logarithm is between theirs."""


class Chance:
    """Draws every value at random.

    Parameters
    ----------
    seed : int
    number : int
        The n-th draw depends on the seed and n alone.
    """

    def __init__(self, seed: int, number: int) -> None:
        self._random = np.random.default_rng([seed, number])

    def place(self, name: str, count: int) -> int:
        """Return a number from 0 to ``count - 1``."""
        return int(self._random.integers(count))

    def number(self, name: str, low: float, high: float, log: bool) -> float:
        """Return a number between two, or one whose logarithm is between theirs."""
        if log:
            return float(np.exp(self._random.uniform(np.log(low), np.log(high))))
        return float(self._random.uniform(low, high))


class _Nth:
    """Takes the n-th of everything that can be chosen (or the last), and an end of every range."""

    def __init__(self, number: int) -> None:
        self._number = number

    def place(self, name: str, count: int) -> int:
        """Return the number, or the last place there is."""
        return min(self._number, count - 1)

    def number(self, name: str, low: float, high: float, log: bool) -> float:
        """Return the lower end for an even number, the upper one for an odd one."""
        return high if self._number % 2 else low


def corners(forms: Iterable[Any]) -> list[Source]:
    """Return sources that together take every choice and both ends of every range.

    Drawing from each of them once finds a mistake that might else wait until chance draws it.
    """
    given = [form["choose"] for form in forms if isinstance(form, dict) and "choose" in form]
    longest = max((len(choices) for choices in given if isinstance(choices, list)), default=0)
    return [_Nth(number) for number in range(min(max(2, longest), MOST_CHOICES + 1))]


def draw(name: str, form: Any, source: Source) -> Any:
    """Draw the value called ``name``; what is not a mapping stands for itself.

    Raises
    ------
    ValueError, TypeError, OverflowError
        It has none of the `FORMS`.
    """
    if not isinstance(form, dict):
        return form
    if set(form) == {"choose"}:
        choices = form["choose"]
        if not isinstance(choices, list) or len(choices) > MOST_CHOICES:
            raise ValueError(f"choose takes a list of up to {MOST_CHOICES} values")
        return choices[place(name, source, len(choices))]
    if set(form) in ({"uniform"}, {"log_uniform"}):
        [(kind, ends)] = form.items()
        if not isinstance(ends, list) or any(isinstance(end, bool) for end in ends):
            raise ValueError(f"{brief(form)}: {kind} takes two numbers, [low, high]")
        low, high = map(float, ends)
        if not low <= high or (kind == "log_uniform" and low <= 0):
            raise ValueError(f"{brief(form)}: the ends must rise, and logarithms need them above 0")
        if not math.isfinite(high - low):
            raise ValueError(f"{brief(form)}: the ends are too far apart")
        return source.number(name, low, high, kind == "log_uniform")
    raise ValueError(f"{brief(form)} is none of {FORMS}")


def values(form: Any) -> list[Any] | None:
    """Return all values that `draw` may give for a form; None of a range, which has no end."""
    if not isinstance(form, dict):
        return [form]
    [(kind, given)] = form.items()
    if kind == "choose":
        return list(given)
    low, high = map(float, given)
    return [low] if low == high else None


def place(name: str, source: Source, count: int) -> int:
    """Return a number below ``count``; where there is nothing to choose, nothing is drawn."""
    if count < 1:
        raise ValueError(f"{name}: nothing to choose from")
    return source.place(name, count) if count > 1 else 0
