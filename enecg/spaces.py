"""The forms in which search spaces are written, and drawing one value from one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

FORMS = "{choose: […]}, {uniform: [low, high]}, {log_uniform: [low, high]}"


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
    return [_Nth(number) for number in range(max(2, longest))]


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
        return form["choose"][place(name, source, len(form["choose"]))]
    if set(form) in ({"uniform"}, {"log_uniform"}):
        [(kind, ends)] = form.items()
        low, high = map(float, ends)
        if not low <= high or (kind == "log_uniform" and low <= 0):
            raise ValueError(f"{form!r}: the ends must rise, and logarithms need them above 0")
        return source.number(name, low, high, kind == "log_uniform")
    raise ValueError(f"{form!r} is none of {FORMS}")


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
