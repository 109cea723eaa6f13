"""The order of training: a function of seed and epoch, whatever the number of workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from enecg.stage1 import feeding
from enecg.stage1.feeding import Feed, batch_sizes


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "WINDOW", 16)


def feed(
    rank: int = 0, world: int = 1, held_bytes: int = 10**9, n: int = 50, piece: int = 16
) -> Feed:
    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, n, piece):
            rows = np.arange(start, min(start + piece, n))
            yield rows, rows[:, None].astype(np.float32)

    return Feed(stream, torch.from_numpy, n, 4, 3, rank, world, held_bytes)


def test_every_record_once_per_epoch_with_its_own_input() -> None:
    met = []
    for batch, mine, inputs in feed().epoch(1, 8):
        assert (batch == mine).all()
        assert (inputs[:, 0].numpy() == mine).all()
        met += mine.tolist()
    assert sorted(met) == list(range(50))


def test_epochs_differ_and_repeat() -> None:
    orders = [[b.tolist() for b, _, _ in feed().epoch(e, 8)] for e in (1, 2, 1)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("world", [2, 3])
def test_global_batches_do_not_depend_on_the_number_of_workers(world: int) -> None:
    alone = [batch.tolist() for batch, _, _ in feed().epoch(5, 8)]
    workers = [list(feed(rank, world).epoch(5, 8)) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert all(worker[step][0].tolist() == batch for worker in workers)
        shares = [row for worker in workers for row in worker[step][1].tolist()]
        assert sorted(shares) == sorted(batch)


@pytest.mark.parametrize("piece", [1, 5, 16, 50])
def test_streamed_and_held_inputs_come_in_the_same_order(piece: int) -> None:
    held = [(b.tolist(), x.tolist()) for b, _, x in feed().epoch(2, 8)]
    streaming = feed(held_bytes=0, piece=piece)
    assert [(b.tolist(), x.tolist()) for b, _, x in streaming.epoch(2, 8)] == held
    alone = next(x for _, mine, x in feed(60, 61, 0, piece=piece).epoch(2, 8) if not len(mine))
    assert alone.shape == (0, 1)


@pytest.mark.parametrize("held_bytes", [0, 10**9])
def test_a_sweep_gives_every_record_to_exactly_one_worker(held_bytes: int) -> None:
    met = [
        row for rank in range(3) for rows, _ in feed(rank, 3, held_bytes).sweep(7) for row in rows
    ]
    assert sorted(met) == list(range(50))


@pytest.mark.parametrize("augmented", [False, True])
def test_what_is_held_is_in_a_file_and_memory_does_not_grow(augmented: bool) -> None:
    n, width = 20_000, 1_000

    def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, n, 16):
            rows = np.arange(start, min(start + 16, n))
            yield rows, np.repeat(rows[:, None], width, 1).astype(np.float32)

    large = Feed(stream, torch.from_numpy, n, 4 * width, 3)
    if augmented:
        large.augment = lambda inputs, rows, epoch: inputs
    before = _anonymous_mb()
    held = large.hold()
    assert held.shape == (n, width) and held[-1, 0] == n - 1
    assert _anonymous_mb() - before < 4 * n * width / 1e6 / 4


def _anonymous_mb() -> float:
    """Memory of this process that no file stands behind."""
    [kb] = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kb) * 1024 / 1e6


def test_batch_sizes_are_those_of_an_epoch() -> None:
    assert batch_sizes(50, 8) == [len(batch) for batch, _, _ in feed().epoch(1, 8)]
