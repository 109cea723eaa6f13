"""How long work shows itself: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_EVERY_SECONDS = 10.0

console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one plain line of progress on standard error, unwrapped."""
    console.print(text, markup=False, soft_wrap=True)


class Counter:
    """Progress of one piece of work: how many are done, how fast, how long to go.

    Made by `counting`; ``advance`` takes the number newly done and a word on the state.
    """

    def __init__(self, what: str, total: int, unit: str, bar: Progress | None) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.note = ""
        self._started = self._last_line = time.monotonic()
        self._said = -1
        self._bar = bar
        self._task = bar.add_task(what, total=total, note="") if bar else None

    def advance(self, count: int, note: str = "") -> None:
        """Count ``count`` more as done; ``note`` replaces the word on the state."""
        self.done += count
        self.note = note or self.note
        if self._bar is not None and self._task is not None:
            rate = self.done / max(time.monotonic() - self._started, 1e-9)
            shown = f"{rate:,.0f} {self.unit}/s  {self.note}" if self.done else self.note
            self._bar.update(self._task, completed=self.done, note=shown)
        elif time.monotonic() - self._last_line >= LOG_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self.line()

    def line(self) -> None:
        """Print the state as one plain line, unless that was the last thing said."""
        if self.done == self._said:
            return
        self._said = self.done
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / elapsed
        left = (self.total - self.done) / rate if rate > 0 else float("nan")
        remaining = f", {left:,.0f} s left" if 0 < self.done < self.total else ""
        note = f", {self.note}" if self.note else ""
        say(
            f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, "
            f"{rate:,.1f}/s{remaining}{note}"
        )


@contextmanager
def counting(what: str, total: int, unit: str = "records") -> Iterator[Counter]:
    """Show progress of ``total`` units of work while the block runs."""
    if not sys.stderr.isatty():
        counter = Counter(what, total, unit, None)
        yield counter
        counter.line()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        counter = Counter(what, total, unit, bar)
        yield counter
    counter.line()
