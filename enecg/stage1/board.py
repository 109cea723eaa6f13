"""Where running jobs post a line on how they stand, for the driver to show."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import ray

from enecg.progress import LOG_EVERY_SECONDS, console, say


class Board:
    """Holds the latest line of every job; runs as an actor."""

    def __init__(self) -> None:
        self._lines: dict[str, str] = {}

    def post(self, job: str, line: str) -> None:
        """Replace a job's line."""
        self._lines[job] = line

    def read(self) -> dict[str, str]:
        """Return the lines by job."""
        return dict(self._lines)


def watch(board: Any, finished: Callable[[], bool]) -> None:
    """Show the board until ``finished()``: in place on a terminal, as plain lines in a log.

    Parameters
    ----------
    board : handle of a `Board`
    finished : callable
        Says when to stop; the jobs' last lines then stay on the screen.
    """
    shown: dict[str, str] = {}

    def read() -> dict[str, str]:
        lines: dict[str, str] = ray.get(board.read.remote())
        return lines

    def print_new() -> None:
        for job, line in read().items():
            if shown.get(job) != line:
                shown[job] = line
                say(f"{job}: {line}")

    if sys.stderr.isatty():
        with console.status("stage 1") as status:
            while not finished():
                lines = [f"{job}: {line}" for job, line in read().items()]
                status.update("\n  ".join(["stage 1", *lines]))
                time.sleep(0.3)
    else:
        last = 0.0
        while not finished():
            if time.monotonic() - last >= LOG_EVERY_SECONDS:
                print_new()
                last = time.monotonic()
            time.sleep(0.3)
    print_new()
