"""What TEMPO's decomposition and TimesNet's periods cost, per record of twelve leads.

    python benchmarks/stl_and_periods.py [--records N]

STL by statsmodels in one and in two processes, and as one matrix product; TimesNet's forecast with
series grouped by their periods, and with every record run by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from enecg import experts
from enecg.experts import stl
from enecg.experts.tempo import PERIOD

Clock = Callable[[], float]


def ms_per_record(
    work: Callable[[], object], records: int, clock: Clock = time.process_time
) -> float:
    """Return the milliseconds of a call, per record: CPU time of this process unless said."""
    start = clock()
    work()
    return 1000 * (clock() - start) / records


def decompose(x_NT: np.ndarray) -> np.ndarray:
    """Decompose with TEMPO's period, in a worker."""
    return stl.decompose(x_NT, PERIOD)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=32)
    n = parser.parse_args().records
    torch.set_num_threads(1)
    x_NT = np.random.default_rng(0).normal(size=(12 * n, 336)).cumsum(axis=1)

    decompose(x_NT[:1])  # imports
    cpu = ms_per_record(lambda: decompose(x_NT), n)
    wall = time.perf_counter
    one = ms_per_record(lambda: decompose(x_NT), n, wall)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(decompose, np.array_split(x_NT[:24], 2)))  # start both
        two = ms_per_record(lambda: list(pool.map(decompose, np.array_split(x_NT, 2))), n, wall)
    tensor_NT = torch.from_numpy(x_NT)
    setup = ms_per_record(lambda: stl.decompose_in_batch(tensor_NT, PERIOD), 1)
    matrix = ms_per_record(lambda: stl.decompose_in_batch(tensor_NT, PERIOD), n)
    print(f"STL, statsmodels:             {cpu:8.2f} ms a record")
    print(f"     wall clock, 1 process:   {one:8.2f} ms a record")
    print(f"     wall clock, 2 processes: {two:8.2f} ms a record ({one / two:.2f} times as fast)")
    print(f"STL, matrix:                  {matrix:8.3f} ms a record ({cpu / matrix:.0f} times)")
    print(f"     making the matrix:       {setup:8.0f} ms, once a process")

    expert = experts.load("timesnet")
    x_BTL = torch.randn(n, 500, 12, generator=torch.Generator().manual_seed(0)).cumsum(dim=1)
    with torch.no_grad():
        together = ms_per_record(lambda: expert.forecast(x_BTL), n)
        apart = ms_per_record(lambda: [expert.forecast(x_BTL[i : i + 1]) for i in range(n)], n)
        alone = ms_per_record(
            lambda: [expert.forecast(x_BTL[:1, :, i : i + 1]) for i in range(12)], 1
        )
    print(f"TimesNet, grouped by period:  {together:8.1f} ms a record")
    print(f"TimesNet, record by record:   {apart:8.1f} ms a record ({apart / together:.2f} times)")
    print(f"TimesNet, series by series:   {alone:8.1f} ms a record ({alone / together:.2f} times)")


if __name__ == "__main__":
    main()
