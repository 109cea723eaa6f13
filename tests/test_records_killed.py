"""Conversion killed at random moments, and started again: the same bytes as if never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from enecg.errors import UserError
from enecg.records import RecordStore
from enecg.records import convert as convert_module
from enecg.records.convert import convert
from enecg.records.verify import verify
from enecg.storage import Folder
from records_helpers import REPOSITORY, corpus
from s3_server import s3_server

SHARDS, PER_SHARD = 15, 4
LONGEST = 240
"""Seconds that anything is waited for."""
OUTCOMES = ".unfinished/outcomes"
# It stands still after so many shards as the third argument says: else, on a slow machine, it may
# end between being looked at and being struck. It goes on where a failed test has left it alone.
JOB = f"""
import sys, time
import enecg.records.convert as module
module.RECORDS_PER_SHARD = {PER_SHARD}
wait, left = module.ray.wait, [int(sys.argv[3])]
def wait_and_count(*arguments, **options):
    if left[0] == 0:
        time.sleep({LONGEST})
    left[0] -= 1
    return wait(*arguments, **options)
module.ray.wait = wait_and_count
module.convert("wfdb", sys.argv[1], sys.argv[2], workers=2)
"""


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[Path, dict[str, str]]:
    """A corpus, and the hashes of the store that a conversion in one go makes of it."""
    folder = corpus(tmp_path_factory.mktemp("corpus"), SHARDS * PER_SHARD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "RECORDS_PER_SHARD", PER_SHARD)
        store = convert("wfdb", folder, tmp_path_factory.mktemp("stores") / "store", workers=3)
    return folder, hashes(store.folder)


def hashes(folder: Folder) -> dict[str, str]:
    return {name: folder.sha256(name) for name in folder.names()}


def started(folder: Path, place: str, at_most: int = SHARDS) -> subprocess.Popen[bytes]:
    """A conversion of so many shards in a process of its own, on the cluster of the tests."""
    address = ray.get_runtime_context().gcs_address
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_ADDRESS": address}
    command = [sys.executable, "-c", JOB, str(folder), place, str(at_most)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def wait_until_done(job: subprocess.Popen[bytes], store: Folder, shards: int) -> None:
    """Wait until so many shards are done, or the job ends by itself."""
    outcomes = store.below(OUTCOMES)
    deadline = time.monotonic() + LONGEST
    while job.poll() is None and len(outcomes.names()) < shards:
        assert time.monotonic() < deadline, f"{shards} shards were never done"
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    undisturbed: tuple[Path, dict[str, str]], tmp_path: Path, where: str
) -> None:
    folder, expected = undisturbed
    if where == "s3":
        with s3_server() as bucket:
            killed_and_ended(folder, Folder.at(f"{bucket}/store"), expected, kills=2)
    else:
        killed_and_ended(folder, Folder.at(tmp_path / "store"), expected, kills=4)


def killed_and_ended(folder: Path, store: Folder, expected: dict[str, str], kills: int) -> None:
    rng = np.random.default_rng(20)
    kept: dict[str, str] = {}
    for moment in np.sort(rng.integers(1, SHARDS - 4, kills)):
        done = len(store.below(OUTCOMES).names())
        # Tasks of the job before may still end: two shards more than are counted here.
        job = started(folder, store.uri, at_most=max(0, int(moment) + 1 - done))
        wait_until_done(job, store, int(moment))
        time.sleep(float(rng.uniform(0, 0.1)))
        assert job.poll() is None, job.stderr and job.stderr.read().decode()
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        assert "dataset.json" not in store.names()
        with pytest.raises(UserError, match="unfinished"):
            RecordStore.open(store)
        now = hashes_of_shards(store)
        assert kept.items() <= now.items(), "what was done was done again, differently"
        kept = now
    with pytest.raises(UserError, match=r"limit None, now 59"):
        convert("wfdb", folder, store.uri, limit=59)
    job = started(folder, store.uri)
    assert job.wait(LONGEST) == 0, job.stderr and job.stderr.read().decode()
    assert hashes(store) == expected and verify(store.uri).sound


def hashes_of_shards(store: Folder) -> dict[str, str]:
    return {name: store.sha256(name) for name in store.names() if name.startswith("shard-")}


def test_killed_workers_are_replaced(
    undisturbed: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, expected = undisturbed
    store = Folder.at(tmp_path / "store")
    job = started(folder, store.uri)
    for shards in (1, 5):
        wait_until_done(job, store, shards)
        assert kill_a_worker(job), "no worker was at work"
    assert job.wait(LONGEST) == 0, job.stderr and job.stderr.read().decode()
    assert hashes(store) == expected


def kill_a_worker(job: subprocess.Popen[bytes]) -> bool:
    """Kill a process that converts; there may be none for a moment, between two tasks."""
    while job.poll() is None:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name().startswith("ray::convert"):
                    process.kill()
                    return True
            except psutil.NoSuchProcess:
                continue
    return False
