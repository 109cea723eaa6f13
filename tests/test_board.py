"""What the driver shows of running jobs: lines in a log, once per change; a table on a terminal."""

from __future__ import annotations

import io

import pytest
import ray
from rich.console import Console

from enecg.stage1 import board
from enecg.stage1.board import Board, Standing, board_table, watch


def test_a_log_gets_a_line_per_change_and_what_was_told(
    ray_cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "LOG_EVERY_SECONDS", 0.0)
    shown = ray.remote(num_cpus=0)(Board).remote()
    steps = iter(
        [
            {"state": "starting"},
            {"state": "inner models", "epoch": 1, "epochs": 4, "rate": 100.0, "loss": 0.5},
            {},
            {"state": "done in 3 s"},
        ]
    )

    def finished() -> bool:
        step = next(steps, None)
        if step == {}:
            ray.get(shown.tell.remote("rocket: passes over a damaged checkpoint"))
        elif step is not None:
            ray.get(shown.post.remote("rocket", **step))
        return step is None

    watch(shown, finished)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "rocket: starting",
        "rocket: inner models, epoch 1 of ≤ 4, 100 records/s, validation loss 0.5000",
        "rocket: passes over a damaged checkpoint",
    ]
    assert lines[3].startswith("rocket: done in 3 s")
    assert len(lines) == 4


def test_the_table_shows_what_is_known() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(board_table({"moment": Standing("inner models", 3, 20, 1234.4, 0.25, 1500.0)}))
    text = console.export_text()
    for part in ("moment", "inner models", "3 of ≤ 20", "1,234", "0.2500", "1.5 GB"):
        assert part in text
