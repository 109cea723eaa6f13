"""SIGINT and SIGTERM at every stage of real jobs: one line, nothing left running, all goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from enecg.files import read_json
from enecg.interrupts import descendants
from enecg.records import RecordStore
from enecg.records.synthetic import write_synthetic_cohort
from runs import REPOSITORY, settings, write_config

MARK = "ENECG_TEST_MARK"
INTERRUPTED = "interrupted ("


class Job:
    """A job's process, with a mark in its environment that all it starts inherits."""

    def __init__(self, name: str, *arguments: object, folder: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.said = folder / f"{self.mark}.err"
        around = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with open(self.said, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, REPOSITORY / "ray_jobs" / f"{name}.py", *map(str, arguments)],
                env=around | {MARK: self.mark}, stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip

    def strike(self, when: Callable[[], bool], number: int) -> None:
        """Send a signal as soon as something holds; check how the job ends."""
        end = time.monotonic() + 240
        while not when():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < end, self.said.read_text()
            time.sleep(0.01)
        self.process.send_signal(number)
        self.process.send_signal(number)  # whoever is impatient does so twice
        assert self.process.wait(30) == 128 + number, self.said.read_text()
        lines = self.said.read_text().splitlines()
        assert [line for line in lines if INTERRUPTED in line] == lines[-1:], lines
        assert "Traceback" not in self.said.read_text()
        assert not self.left_running()

    def left_running(self) -> list[str]:
        """What carries the mark and still runs."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.mark in (entry / "environ").read_text():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (OSError, UnicodeDecodeError):
                continue
        return found

    def finish(self) -> None:
        """Wait for a calm end."""
        assert self.process.wait(300) == 0, self.said.read_text()
        assert not self.left_running()


@pytest.fixture(scope="module")
def config(synthetic_store: RecordStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    values: dict[str, Any] = settings(
        synthetic_store.path,
        folder / "unset",
        tasks=["rr_interval"],
        experts={"rocket": {"kernels": 40}, "dlinear": {"adaptation": "full"}},
        stage1={"heads": ["ridge"], "epochs": 2, "checkpoint_seconds": 0},
        gate={"trials": 2},
    )
    return write_config(folder, values)


def test_a_run_struck_in_every_stage_ends_like_a_calm_one(config: Path, tmp_path: Path) -> None:
    run, calm = tmp_path / "run", tmp_path / "calm"

    def pipeline(run_dir: Path) -> Job:
        places = [f"--set=run_dir={run_dir}", f"--set=features={run_dir}.features"]
        return Job("pipeline", "--config", config, *places, folder=tmp_path)

    def starts_ray(job: Job) -> bool:
        commands = [Path(f"/proc/{one}/cmdline") for one in descendants(job.process.pid)]
        return any(b"gcs_server" in command.read_bytes() for command in commands)

    job, start = pipeline(run), time.monotonic()
    job.strike(lambda: time.monotonic() > start + 0.4, signal.SIGTERM)  # modules are being loaded
    assert "nothing has been written yet" in job.said.read_text()
    job = pipeline(run)
    job.strike(lambda: starts_ray(job), signal.SIGINT)
    stages = {
        "experts/dlinear/started.json": signal.SIGTERM,
        "gate/started.json": signal.SIGINT,
        "ensemble/started.json": signal.SIGTERM,
    }
    for place, number in stages.items():
        job = pipeline(run)
        job.strike((run / place).exists, number)
        assert f"what is finished in {run} is kept" in job.said.read_text()
    job = pipeline(run)
    job.finish()
    assert "damaged" not in job.said.read_text()
    pipeline(calm).finish()
    found, wanted = (read_json(one / "results.json")["tasks"] for one in (run, calm))
    assert found == wanted

    predicted = tmp_path / "predicted.parquet"
    given = ["--bundle", run / "bundle", "--input", read_json(run / "config.json")["records"]]
    job = Job("predict", *given, "--output", predicted, folder=tmp_path)
    job.strike(lambda: starts_ray(job), signal.SIGTERM)
    assert f"{predicted} has not been written" in job.said.read_text()
    assert not predicted.exists()


def test_a_second_job_in_a_run_folder_is_refused(config: Path, tmp_path: Path) -> None:
    given = ["--config", config, f"--set=run_dir={tmp_path / 'run'}"]
    first = Job("train_experts", *given, folder=tmp_path)
    lock = tmp_path / "run" / ".lock"
    while not lock.exists():
        time.sleep(0.05)
    second = Job("search_gate", *given, folder=tmp_path)
    assert second.process.wait(60) == 2
    assert "another job works in this folder" in second.said.read_text()
    assert len(second.said.read_text().splitlines()) == 1
    first.strike(lambda: True, signal.SIGTERM)


def test_a_conversion_struck_goes_on(tmp_path: Path) -> None:
    labels = write_synthetic_cohort(tmp_path / "wfdb", n_records=40, seed=3)

    def convert(store: Path) -> Job:
        given = ["--source", "wfdb", "--input", tmp_path / "wfdb", "--labels", labels]
        return Job("convert", *given, "--output", store, folder=tmp_path)

    job = convert(tmp_path / "store")
    job.strike(lambda: (tmp_path / "store").exists(), signal.SIGTERM)
    assert f"finished shards in {tmp_path / 'store'} are kept" in job.said.read_text()
    both = [convert(tmp_path / "store") for _ in range(2)]  # at once: one is refused
    refused, done = sorted(both, key=lambda one: one.process.wait(120) == 0)
    assert (refused.process.returncode, done.process.returncode) == (2, 0)
    assert refused.said.read_text().splitlines()[-1:] == [
        f"error: --output {tmp_path / 'store'}: another conversion works in this folder; wait for "
        "it or give another"
    ]
    convert(tmp_path / "calm").finish()
    found, wanted = (pd.read_parquet(tmp_path / one / "index.parquet") for one in ("store", "calm"))
    pd.testing.assert_frame_equal(found, wanted)
