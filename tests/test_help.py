"""What a job says of itself before anything is asked of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enecg.records import sources
from enecg.records.options import layouts
from runs import REPOSITORY

JOBS = sorted(path.name for path in (REPOSITORY / "ray_jobs").glob("*.py"))
HEAVY = {"torch", "ray", "pandas", "numpy", "scipy", "pyarrow", "matplotlib", "wfdb", "sklearn",
         "transformers", "deepspeed", "optuna", "fsspec", "pydantic", "yaml"}  # fmt: skip
SHOW_HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print("MODULES", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
    sys.exit(ended.code)
"""


@pytest.mark.parametrize("name", JOBS)
def test_help_loads_no_heavy_library(name: str) -> None:
    path = str(REPOSITORY / "ray_jobs" / name)
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout and "--help" in done.stdout
    [loaded] = [line for line in done.stderr.splitlines() if line.startswith("MODULES")]
    assert HEAVY & set(loaded.split()) == set()


def test_every_layout_is_in_the_help_as_it_describes_itself() -> None:
    assert layouts() == {name: source.summary for name, source in sources.SOURCES.items()}
    assert list(layouts()) == list(sources.names())


def test_a_usage_mistake_is_one_line_without_control_characters(tmp_path: Path) -> None:
    job = [sys.executable, str(REPOSITORY / "ray_jobs/draw.py")]
    done = subprocess.run(
        [*job, "--no\x1b]0;owned\x07such", "x\u202e"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith("(see --help)")
    assert line.isprintable()
