"""The order in which training meets records: a function of seed and epoch, on every worker alike.

Records come from Ray Data in windows of a fixed order (they were shuffled when they were stored)
and are shuffled again inside each window. Every worker follows the same global batches and takes
its share of each, so the batches, and the results but for rounding, do not depend on how many
workers there are.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rows = npt.NDArray[np.int64]

WINDOW = 2048
"""Records that are shuffled together."""
HELD_BYTES = 2 * 10**9
"""Prepared inputs up to this size stay in a file after the first pass; larger ones stream."""
PIECE = 256
"""Records that Ray Data hands over at a time; several make a window."""


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Return the sizes of the global batches of one epoch over ``n`` records, window by window."""
    return [
        min(batch_size, window - start)
        for window in (min(WINDOW, n - first) for first in range(0, n, WINDOW))
        for start in range(0, window, batch_size)
    ]


@dataclass
class Feed:
    """Batches of inputs for one worker.

    Attributes
    ----------
    stream : callable
        Gives an iterator over (row numbers, raw inputs), the latter to be indexed by places, some
        records at a time (about `PIECE`), in the same order at every call, each of the ``n``
        records once.
    prepare : callable
        Raw inputs → the model's input tensor.
    n : int
        Number of records.
    bytes_each : int
        Size of what is kept of one record: its input tensor; with ``augment``, the raw input.
    seed : int
    rank, world : int
        This worker, of how many.
    held_bytes : int
        See `HELD_BYTES`.
    augment : callable, optional
        (raw inputs, row numbers, epoch) → changed raw inputs; in epochs, not in sweeps.
    """

    stream: Callable[[], Iterator[tuple[Rows, Any]]]
    prepare: Callable[[Any], Tensor]
    n: int
    bytes_each: int
    seed: int
    rank: int = 0
    world: int = 1
    held_bytes: int = HELD_BYTES
    augment: Callable[[Any, Rows, int], Any] | None = None
    _held: Any = field(default=None, init=False)

    def hold(self, at_any_size: bool = False) -> Any:
        """Keep all inputs in a file, in row order, if they are small enough: prepared ones.

        With ``augment``, raw ones, since their preparation differs from epoch to epoch. What this
        returns is the file, mapped into memory: the system holds as much of it there as it has
        room for, and no more.
        """
        if self._held is None and (at_any_size or self.bytes_each * self.n <= self.held_bytes):
            for rows, raw in self.stream():
                inputs = raw[np.arange(len(rows))]
                if self.augment is None:
                    inputs = self.prepare(inputs)
                if self._held is None:
                    self._held = _in_a_file(self.n, inputs)
                self._held[rows] = inputs
        return self._held

    def epoch(self, epoch: int, batch_size: int) -> Iterator[tuple[Rows, Rows, Tensor]]:
        """Yield (rows of the global batch, rows of this worker's share, the share's inputs)."""
        for number, (rows, raw) in enumerate(self._windows()):
            order = np.random.default_rng([self.seed, epoch, number]).permutation(len(rows))
            for start in range(0, len(rows), batch_size):
                batch = order[start : start + batch_size]
                mine = batch[self.rank :: self.world]
                inputs = raw[mine]
                if self.augment is not None:
                    inputs = self.augment(inputs, rows[mine], epoch)
                yield rows[batch], rows[mine], self._ready(inputs)

    def sweep(self, batch_size: int) -> Iterator[tuple[Rows, Tensor]]:
        """Yield every record of this worker's share once: (rows, inputs)."""
        for rows, raw in self._windows():
            for start in range(0, len(rows), batch_size):
                mine = np.arange(start, min(start + batch_size, len(rows)))[self.rank :: self.world]
                yield rows[mine], self._ready(raw[mine])

    def every(self) -> Iterator[tuple[Rows, Tensor]]:
        """Yield every record once, on every worker alike: (rows, inputs), at most `PIECE` each."""
        for rows, raw in self._windows():
            for start in range(0, len(rows), PIECE):
                places = np.arange(start, min(start + PIECE, len(rows)))
                yield rows[places], self._ready(raw[places])

    def _windows(self) -> Iterator[tuple[Rows, Any]]:
        held = self.hold()
        if held is None:
            yield from _joined(self.stream())
            return
        for start in range(0, self.n, WINDOW):
            rows = np.arange(start, min(start + WINDOW, self.n))
            yield rows, held[start : start + WINDOW]

    def _ready(self, inputs: Any) -> Tensor:
        return inputs if isinstance(inputs, Tensor) else self.prepare(inputs)


class _Window:
    """Raw inputs from several pieces, to be indexed by their places in the window."""

    def __init__(self, parts: list[tuple[Any, Rows]]) -> None:
        self.pieces = [raw for raw, _ in parts]
        self.piece_W = np.repeat(np.arange(len(parts)), [len(places) for _, places in parts])
        self.place_W = np.concatenate([places for _, places in parts])

    def __getitem__(self, places: Rows) -> Any:
        piece_B, place_B = self.piece_W[places], self.place_W[places]
        found: Any = None
        for piece in np.unique(piece_B) if len(places) else [0]:
            here = np.flatnonzero(piece_B == piece)
            part = self.pieces[piece][place_B[here]]
            if found is None:
                found = np.empty((len(places), *part.shape[1:]), part.dtype)
            found[here] = part
        return found


def _joined(stream: Iterator[tuple[Rows, Any]]) -> Iterator[tuple[Rows, Any]]:
    """Windows of `WINDOW` records, the last one of what is left, from pieces of any size."""
    rows_of: list[Rows] = []
    parts: list[tuple[Any, Rows]] = []
    room = WINDOW
    for rows, raw in stream:
        places = np.arange(len(rows))
        while len(places):
            rows_of.append(rows[places[:room]])
            parts.append((raw, places[:room]))
            places = places[room:]
            room -= len(rows_of[-1])
            if not room:
                yield np.concatenate(rows_of), _Window(parts)
                rows_of, parts, room = [], [], WINDOW
    if parts:
        yield np.concatenate(rows_of), _Window(parts)


def _in_a_file(n: int, like: Any) -> Any:
    """Room for ``n`` inputs in a nameless file in the temporary folder, as one array or tensor."""
    one = like[:1].numpy() if isinstance(like, Tensor) else like[:1]
    with tempfile.TemporaryFile(prefix="enecg-inputs-") as file:
        # Now, since a disk that gets full later would end the process without a word.
        os.posix_fallocate(file.fileno(), 0, max(1, n * one.nbytes))
        held = np.memmap(file, one.dtype, "r+", shape=(n, *one.shape[1:]))
    return torch.from_numpy(held) if isinstance(like, Tensor) else held
