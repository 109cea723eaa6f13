"""Jobs on a real terminal, as a person starts them: bars, tables, colours and what Ray says."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import cloudpickle
import pytest
from rich.console import Console

from enecg import progress
from enecg.ownership import MARK
from enecg.progress import counting
from enecg.records.synthetic import write_synthetic_cohort
from pty_run import Shown, on_terminal
from runs import REPOSITORY, settings, without_times, write_config

RAYS_OWN = re.compile(
    r"^\[\d{4}-\d\d-\d\d |^\d{4}-\d\d-\d\d \d\d:|core_worker|logging\.cc|metrics (agent|exporter)"
    r"|Warning|WARNING|Traceback|Matplotlib|Tune Status|Trial name"
)
"""Lines that come from a library, and say nothing to who runs a job."""
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|38|4[0-7]|48|9[0-7])[;m]")


def job(name: str, *options: str, columns: int = 80, **environment: str) -> Shown:
    """Run a job on a terminal of its own; a bare environment, as in a new shell."""
    around = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "COLUMNS")}
    return on_terminal(
        [sys.executable, f"ray_jobs/{name}", *options], columns,
        around | {"TERM": "xterm-256color"} | environment, REPOSITORY,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 records, converted at a terminal."""
    folder = tmp_path_factory.mktemp("cohort [x]")
    labels = write_synthetic_cohort(folder / "wfdb [/] [bold]", n_records=40, seed=5)
    shown = job(
        "convert.py", "--source", "wfdb", "--input", str(labels.parent), "--labels", str(labels),
        "--output", str(folder / "store [/b]"), "--max-rejected", "1",
    )  # fmt: skip
    assert shown.code == 0, shown.raw
    assert "━" in shown.raw, "a bar"
    assert shown.lines[-1] == f"record store: {folder / 'store [/b]'}"
    assert not [line for line in shown.lines if RAYS_OWN.search(line)]
    return folder / "store [/b]"


def config(store: Path, run: Path) -> Path:
    """The config of a small run."""
    values = settings(
        store, run, tasks=["age"], experts={"rocket": {"kernels": 20}},
        stage1={"heads": ["ridge"]}, gate={"trials": 1, "space": "tune_spaces/gate.yaml"},
    )  # fmt: skip
    return write_config(run.parent, values)


@pytest.fixture(scope="module")
def at_80_columns(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shown, Path]:
    """A whole run on an ordinary terminal, and its folder."""
    run = tmp_path_factory.mktemp("runs") / "[mantis]"
    return job("pipeline.py", "--config", str(config(store, run))), run


def check(shown: Shown, run: Path, columns: int) -> list[str]:
    """Check what every run must show; return the lines of the results."""
    assert shown.code == 0, shown.raw[-3000:]
    assert shown.lines[-1] == f"results: {run / 'results.json'}"
    assert [line for line in shown.lines if RAYS_OWN.search(line)] == []
    head = next(n for n, line in enumerate(shown.lines) if line.startswith(" age "))
    end = next(n for n, line in enumerate(shown.lines) if line.startswith("mean over folds"))
    table = shown.lines[head:end]
    assert {line.split()[0] for line in table[1:]} >= {"rocket", "ensemble", "dummy"}
    assert all(len(line) <= columns and "…" not in line for line in table)
    return table


def test_a_run_at_80_columns(at_80_columns: tuple[Shown, Path]) -> None:
    shown, run = at_80_columns
    check(shown, run, 80)
    assert "gate search ━" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.raw), "a live bar"
    assert any(line.startswith("┃ expert") for line in shown.lines), "the board"
    assert f"tensorboard --logdir {run / 'gate' / 'tune'}" in shown.raw.replace("\r\n", "")


def test_a_wide_terminal_without_colours_goes_on_with_it(
    at_80_columns: tuple[Shown, Path], store: Path, tmp_path: Path
) -> None:
    _, before = at_80_columns
    run = tmp_path / "again"
    shutil.copytree(before / "experts", run / "experts")
    shutil.copy(before / MARK, run / MARK)
    shown = job(
        "pipeline.py", "--config", str(config(store, run)), columns=200, NO_COLOR="1"
    )  # fmt: skip
    check(shown, run, 200)
    assert "rocket: done before, kept" in shown.lines
    assert COLOUR.search(shown.raw) is None and "\x1b[" in shown.raw, "bars, but no colours"
    assert same_results(before, run)


def test_a_dumb_terminal_and_no_home_to_write_to(
    at_80_columns: tuple[Shown, Path], store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "dumb"
    shown = job(
        "pipeline.py", "--config", str(config(store, run)), columns=90,
        TERM="dumb", HOME="/dev/null/nowhere",
    )  # fmt: skip
    check(shown, run, 90)
    assert "\x1b" not in shown.raw
    assert "gate search: 2 of 2 trials" in shown.raw, "progress in plain lines"
    assert any(line.startswith("rocket: done in ") for line in shown.lines)
    assert same_results(at_80_columns[1], run)


def same_results(one: Path, other: Path) -> bool:
    """Whether two runs found the same, whatever they were shown on."""
    found = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    return without_times(found[0]) == without_times(found[1])


def test_a_plan_and_a_mistake_at_a_narrow_terminal(store: Path, tmp_path: Path) -> None:
    path = str(config(store, tmp_path / "run"))
    shown = job("pipeline.py", "--config", path, "--plan", columns=60)
    assert shown.code == 0, shown.raw
    assert "rocket" in shown.raw and max(map(len, shown.lines)) <= 60
    assert not [line for line in shown.lines if RAYS_OWN.search(line)]
    shown = job("pipeline.py", "--config", path, "--set", "gate.trails\x1b[2J=[red]")
    assert shown.code == 2
    assert "\x1b" not in shown.raw and len(shown.lines) == 1
    assert "the key holds the character U+001B" in shown.raw
    shown = job("pipeline.py", "--config", path, "--set", "gate.trails=[red]")
    assert shown.code == 2 and "did you mean 'trials'" in shown.raw


def test_a_live_bar_can_go_anywhere_and_leaves_itself_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is pickled (callbacks, closures of tasks and actors) may hold the counter."""
    monkeypatch.setattr(progress, "is_live", lambda: True)
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=True))
    with counting("gate search", 2, "trials") as counter:
        counter.advance(1)
        copy = cloudpickle.loads(cloudpickle.dumps(lambda: counter))()
        capsys.readouterr()
        copy.advance(1)
        copy.line()
        assert (copy.done, counter.done) == (2, 1)
    assert "gate search: 2 of 2" not in capsys.readouterr().err, "one terminal, one voice"
