"""A disk that is full, or may not be written: one line that says so, and the work goes on after.

On a real small file system where this process may mount one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import WorkerGroupError

from enecg.bundle import Bundle
from enecg.errors import exit_code_of, file_trouble
from enecg.predict import predict_file
from enecg.records import RecordStore
from models import bundle
from problems import AGE
from runs import REPOSITORY, job, settings, write_config

SIZE = 3 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Fill a disk up to so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(disk).free - left))
    return ballast


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """What a job says of an exception; it must be one line, and exit code 1."""

    def failing() -> None:
        raise error

    assert exit_code_of(failing) == 1
    line = capsys.readouterr().err
    assert line.startswith("failed: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free space"), (errno.EDQUOT, "free space"), (errno.EROFS, "writable"),
        (errno.EACCES, "allow it"), (errno.EIO, "look at the disk"), (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "shorter"),
    ],
)  # fmt: skip
def test_every_trouble_of_a_disk_is_one_line(
    number: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = OSError(number, os.strerror(number), "/runs/x\ny/results.json")
    line = told(error, capsys)
    assert f"/runs/x\\ny/results.json: {os.strerror(number)}; " in line
    assert advice in line
    wrapped = RuntimeError("a stage failed")
    wrapped.__cause__ = error
    assert told(wrapped, capsys) == line
    assert told(WorkerGroupError("2 workers failed", {1: wrapped}), capsys) == line


@pytest.mark.parametrize(
    "text",
    ["I/O error: No space left on device (os error 28)", "database or disk is full",
     "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed: file write failed"],
)  # fmt: skip
def test_libraries_that_say_it_in_their_own_words(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "free space and run the same command again" in told(RuntimeError(text), capsys)


def test_other_mistakes_keep_their_traceback() -> None:
    for error in (
        ValueError("x"),
        FileNotFoundError(errno.ENOENT, "no such file", "x"),
        KeyError(1),
    ):
        assert file_trouble(error) is None
        with pytest.raises(type(error)):
            exit_code_of(_raising(error))
    looped = ValueError("x")
    looped.__context__ = OSError(errno.ECONNRESET, "reset")
    looped.__context__.__context__ = looped
    assert file_trouble(looped) is None


def _raising(error: Exception) -> Any:
    def failing() -> None:
        raise error

    return failing


def test_a_worker_of_ray_that_finds_the_disk_full(
    small_disk: Path, ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    @ray.remote(max_retries=0)
    def write(place: str) -> None:
        with open(place, "wb") as file:
            file.write(b"\0" * (SIZE + 1))

    with pytest.raises(OSError, match="No space left") as caught:
        ray.get(write.remote(str(small_disk / "x")))
    assert "No space left on device; free space" in told(caught.value, capsys)


def test_a_bundle(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = bundle(AGE)
    ballast = fill(small_disk, 8192)
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever the library raises)
        made.save(small_disk / "b")
    assert "free space and run the same command again" in told(caught.value, capsys)
    ballast.unlink()
    shutil.rmtree(small_disk / "b", ignore_errors=True)
    made.save(small_disk / "b")
    assert Bundle.load(small_disk / "b").task == AGE


def test_predictions(
    small_disk: Path, tmp_path: Path, synthetic_store: RecordStore,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bundle(AGE).save(tmp_path / "b")
    ballast, output = fill(small_disk, 0), small_disk / "p.parquet"

    def predicting() -> None:
        predict_file(tmp_path / "b", str(synthetic_store.path), output)

    assert exit_code_of(predicting) == 1
    assert "No space left on device; free space" in capsys.readouterr().err.splitlines()[-1]
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]
    ballast.unlink()
    assert exit_code_of(predicting) == 0
    assert output.exists()


def test_simulated_records(small_disk: Path) -> None:
    command = [sys.executable, "ray_jobs/make_synthetic.py", str(small_disk / "cohort")]
    command += ["--records", "80", "--overwrite"]
    full = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert full.stderr.splitlines()[-1].startswith("failed: ")
    assert "is the disk full?" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    assert (small_disk / "cohort" / "labels.csv").exists()


def test_a_whole_run_goes_on_when_there_is_space(
    small_disk: Path, tmp_path: Path, synthetic_store: RecordStore
) -> None:
    ballast = fill(small_disk, 64 << 10)
    run_dir = small_disk / "run"
    config = write_config(
        tmp_path, settings(synthetic_store.path, run_dir, features=str(tmp_path / "features"))
    )
    first = job("ray_jobs/pipeline.py", "--config", str(config))
    _, said = first.communicate(timeout=400)
    assert first.returncode == 1, said
    assert "Traceback" not in said
    assert "No space left on device" in said.splitlines()[-1]
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    second = job("ray_jobs/pipeline.py", "--config", str(config))
    _, said = second.communicate(timeout=400)
    assert second.returncode == 0, said
    assert set(json.loads((run_dir / "results.json").read_text())["tasks"]) >= {"gender"}
