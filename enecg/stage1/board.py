"""Where running jobs post how they stand, for the driver to show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from rich.live import Live
from rich.table import Table

from enecg.progress import LOG_EVERY_SECONDS, cell, console, is_live, say


@dataclass(frozen=True)
class Standing:
    """How one job stands; what is not known is None."""

    state: str
    epoch: int | None = None
    epochs: int | None = None
    rate: float | None = None
    """Records per second, over all workers."""
    loss: float | None = None
    memory_mb: float | None = None
    """Peak of the device, or of the process where the device is the CPU."""

    def cells(self) -> list[str]:
        """Return what a table shows."""
        return [
            self.state,
            "" if self.epoch is None else f"{self.epoch} of ≤ {self.epochs}",
            "" if self.rate is None else f"{self.rate:,.0f}",
            "" if self.loss is None else f"{self.loss:.4f}",
            "" if self.memory_mb is None else f"{self.memory_mb / 1000:.1f} GB",
        ]

    def line(self) -> str:
        """Return the same as one line."""
        _, epoch, rate, loss, memory = self.cells()
        parts = [self.state, epoch and f"epoch {epoch}", rate and f"{rate} records/s"]
        parts += [loss and f"validation loss {loss}", memory and f"memory {memory}"]
        return ", ".join(part for part in parts if part)


class Board:
    """Holds how every job stands; runs as an actor."""

    def __init__(self) -> None:
        self._jobs: dict[str, Standing] = {}
        self._told: list[str] = []

    def tell(self, text: str) -> None:
        """Leave a line that must not get lost among the standings."""
        self._told.append(text)

    def post(self, job: str, **changes: Any) -> None:
        """Change some facts of a job's standing."""
        self._jobs[job] = replace(self._jobs.get(job, Standing("")), **changes)

    def read(self) -> tuple[dict[str, Standing], list[str]]:
        """Return the standings by job, in the order of their first posts; and what was told."""
        return dict(self._jobs), list(self._told)


def watch(board: Any, finished: Callable[[], bool]) -> None:
    """Show the board until ``finished()``: as a table on a terminal, as plain lines in a log.

    Parameters
    ----------
    board : handle of a `Board`
    finished : callable
        Called a few times per second; says when to stop.
    """
    shown: dict[str, str] = {}

    told = 0

    def read() -> dict[str, Standing]:
        nonlocal told
        standings: dict[str, Standing]
        standings, lines = ray.get(board.read.remote())
        for line in lines[told:]:
            say(line)
        told = len(lines)
        return standings

    def print_new() -> None:
        for job, standing in read().items():
            if shown.get(job) != standing.line():
                shown[job] = standing.line()
                say(f"{job}: {standing.line()}")

    if is_live():
        with Live(board_table(read()), console=console, refresh_per_second=4) as live:
            while not finished():
                live.update(board_table(read()))
                time.sleep(0.25)
            live.update(board_table(read()))
        return
    last = 0.0
    while not finished():
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            print_new()
            last = time.monotonic()
        time.sleep(0.25)
    print_new()


def board_table(standings: dict[str, Standing]) -> Table:
    """Return the board as a table."""
    table = Table("expert", "state", "epoch", "records/s", "validation loss", "memory")
    for job, standing in standings.items():
        table.add_row(*map(cell, [job, *standing.cells()]))
    return table
