"""Progress of long work: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from enecg.printable import printable

LOG_EVERY_SECONDS = 10.0

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one plain line of progress on standard error, unwrapped."""
    console.print(cell(text), soft_wrap=True)


def cell(text: object, style: str = "") -> Text:
    """Return text for a table as it is: no markup is obeyed, nothing invisible, nothing cut."""
    return Text(printable(text), style=style, overflow="fold")


def screen(in_log: int, stderr: bool = False) -> Console:
    """Return what tables are printed on: as wide as the terminal; in a log, ``in_log`` columns."""
    stream = sys.stderr if stderr else sys.stdout
    width: int | None = in_log
    if stream.isatty():
        width = os.get_terminal_size(stream.fileno()).columns or None
    # Without a height, too, Rich takes 80 columns for the width of a terminal that is called dumb.
    return Console(stderr=stderr, highlight=False, width=width, height=25 if width else None)


def show(table: Table) -> None:
    """Print a table on standard error."""
    screen(140, stderr=True).print(table)


def is_live() -> bool:
    """Whether standard error is a terminal on which what was written can be written over."""
    return sys.stderr.isatty() and not console.is_dumb_terminal


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
        self._task = bar.add_task(printable(what), total=total, note="") if bar else None
        self._silent = False
        self._show()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of, in another process or on a disk: it counts and shows nothing.

        A live bar holds locks and threads, which cannot be copied; and there is one terminal.
        """
        return vars(self) | {"_bar": None, "_task": None, "_silent": True}

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
        if self._silent or self.done == self._said:
            return
        self._said = self.done
        state = self.state()
        say(
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"
            f"{', ' + state if state else ''}"
        )

    def _show(self) -> None:
        if self._silent:
            return
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, note=printable(self.state()))
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
    if not is_live():
        counter = Counter(what, total, unit, None, done_before)
        yield counter
        counter.line()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        counter = Counter(what, total, unit, bar, done_before)
        yield counter
    counter.line()
