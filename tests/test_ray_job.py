"""The README's way to submit a job, typed in a fresh shell with a fresh home."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from enecg.files import read_json
from enecg.records import RecordStore
from runs import REPOSITORY, settings, write_config

MARK = "ENECG_TEST_MARK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def mark() -> Iterator[str]:
    """A word in the environment of all that a test starts; what is left of it is ended."""
    word = uuid.uuid4().hex
    yield word
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if entry.name.isdigit() and word in (entry / "environ").read_text():
                os.kill(int(entry.name), signal.SIGKILL)


def block_of_readme() -> str:
    """The shell block that a comment in the README marks as run by a test."""
    [block] = re.findall(
        r"<!-- a test runs this block -->\n```sh\n(.*?)```",
        (REPOSITORY / "README.md").read_text(),
        re.DOTALL,
    )
    return str(block)


def test_the_readmes_block_runs_as_typed(
    mark: str, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    """Only ports, the config and the folders are this test's: others may be at work here."""
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
    dashboard, folder = free_port(), Path("/tmp") / f"ray-{os.getpid()}"
    own = (
        f"ray start --head --port={free_port()} --dashboard-port={dashboard} --num-cpus=4 "
        f"--dashboard-agent-listen-port={free_port()} --ray-client-server-port={free_port()} "
        f"--temp-dir={folder}"
    )
    block = block_of_readme()
    for typed, here in {
        "ray start --head": own,
        "127.0.0.1:8265": f"127.0.0.1:{dashboard}",
        "ray_jobs/config/demo.yaml": str(config),
        "$PWD/data/demo": str(synthetic_store.path),
        "$PWD/runs/demo": str(tmp_path / "run"),
    }.items():
        assert block.count(typed) == 1, typed
        block = block.replace(typed, here)
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-c", block],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900,
        env={
            "HOME": str(home), "LANG": "C.UTF-8", MARK: mark,
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        },
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "joined the Ray cluster" in done.stdout
    assert f"results: {tmp_path / 'run' / 'results.json'}" in done.stdout
    assert (home / ".ray" / "auth_token").exists()
    results = read_json(tmp_path / "run" / "results.json")
    assert "ensemble" in results["tasks"]["rr_interval"]["predictors"]
