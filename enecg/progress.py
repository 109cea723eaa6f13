"""How long work shows itself: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

LOG_EVERY_SECONDS = 10.0

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one plain line of progress on standard error, unwrapped."""
    console.print(text, markup=False, soft_wrap=True)


def show(table: Table) -> None:
    """Print a table on standard error; wide enough for all of it where that is a log."""
    Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 140).print(table)


class Counter:
    """Progress of one piece of work: how many are done, how fast, how long to go.

    Made by `counting`; ``advance`` takes the number newly done and a word on the state.
    """

    def __init__(
        self, what: str, total: int, unit: str, bar: Progress | None, done_before: int = 0
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.done_before = done_before
        self.note = ""
        self._started = self._last_line = time.monotonic()
        self._said = -1
        self._bar = bar
        self._task = bar.add_task(what, total=total, note="") if bar else None
        self._show()

    def advance(self, count: int, note: str = "") -> None:
        """Count ``count`` more as done; ``note`` replaces the word on the state."""
        self.done += count
        self.note = note or self.note
        self._show()

    def state(self) -> str:
        """Return rate, time left and the word on the state; what was done before has no rate."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self.done_before) / elapsed
        parts = [f"{rate:,.0f}/s" if rate >= 10 else f"{rate:,.1f}/s"] if rate else []
        if rate and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self.note] if self.note else parts)

    def line(self) -> None:
        """Print the state as one plain line, unless that was the last thing said."""
        if self.done == self._said:
            return
        self._said = self.done
        state = self.state()
        say(
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
            f"{', ' + state if state else ''}"
        )

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=self.state())
            return
        now = time.monotonic()
        # A job that runs all night need not say so every ten seconds.
        if now - self._last_line >= min(60.0, max(LOG_EVERY_SECONDS, (now - self._started) / 20)):
            self._last_line = now
            self.line()


def duration(seconds: float) -> str:
    """Return a time as people say it, such as ``50 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def counting(
    what: str, total: int, unit: str = "records", done_before: int = 0
) -> Iterator[Counter]:
    """Show progress of ``total`` units of work while the block runs.

    Parameters
    ----------
    done_before : int
        Units that an earlier run did: they count as done, not as fast.
    """
    if not sys.stderr.isatty():
        counter = Counter(what, total, unit, None, done_before)
        yield counter
        counter.line()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        counter = Counter(what, total, unit, bar, done_before)
        yield counter
    counter.line()
