"""The pipeline through ``ray job submit`` on a real head of its own, as users run it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._private.utils import get_ray_address_file

from enecg.files import read_json
from enecg.records import RecordStore
from runs import REPOSITORY, settings, write_config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The dashboard address of a head started as ``ray start --head`` does it."""
    ray = Path(sys.executable).parent / "ray"
    dashboard, folder = free_port(), Path("/tmp") / f"ray-{os.getpid()}"
    activated = os.environ | {"PATH": f"{ray.parent}:{os.environ['PATH']}"}  # `python` is ours
    running = subprocess.Popen(
        [
            ray, "start", "--head", f"--port={free_port()}", f"--dashboard-port={dashboard}",
            "--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}",
            f"--ray-client-server-port={free_port()}",
            "--num-cpus=4", f"--temp-dir={folder}", "--block",
        ],
        env=activated, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    said = ""
    for line in running.stdout:
        said += line
        if "Ray runtime started" in line:
            break
    else:
        pytest.fail(said)
    yield f"http://127.0.0.1:{dashboard}"
    running.terminate()  # a blocking `ray start` takes its head down with it
    running.wait(60)
    # Else Ray's State API, in every later cluster on this machine, waits for this head to answer.
    Path(get_ray_address_file(None)).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def test_pipeline_as_a_submitted_job(
    head: str, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path,
        settings(
            synthetic_store.path,
            tmp_path / "run",
            tasks=["rr_interval"],
            experts={"rocket": {"kernels": 40}},
            stage1={"heads": ["ridge"]},
            gate={"trials": 1},
        ),
    )
    submitted = subprocess.run(
        [
            Path(sys.executable).parent / "ray", "job", "submit", "--address", head,
            "--working-dir", ".", "--", "python", "ray_jobs/pipeline.py", "--config", config,
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout[-3000:]
    assert "joined the Ray cluster" in submitted.stdout
    assert f"results: {tmp_path / 'run' / 'results.json'}" in submitted.stdout
    results = read_json(tmp_path / "run" / "results.json")
    assert "ensemble" in results["tasks"]["rr_interval"]["predictors"]
