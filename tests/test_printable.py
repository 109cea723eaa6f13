"""Text from outside on a terminal, in a log and in tables: shown as it is, obeyed never."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from enecg import describe_experts, progress
from enecg.describe_experts import Description
from enecg.errors import JobFailed, UserError, exit_code_of, last_line, one_line
from enecg.evaluation.table import results_table
from enecg.printable import printable
from enecg.progress import counting, say
from enecg.records.verify import Verdict, verdict_text
from enecg.stage1.board import Standing, board_table
from enecg.stage1.plan import Job, plan_table
from enecg.tasks import Task
from runs import REPOSITORY

NASTY = {
    "clears the screen": "a\x1b[2Jb",
    "sets the title": "a\x1b]0;owned\x07b",
    "one-byte escape": "a\x9b2Jb",
    "goes back": "a\rb\x08c",
    "another line": "a\nresults: /forged\x0b\x0c\x85\u2028\u2029b",
    "turns the writing": "a\u202eb\u2066c\u200fd",
    "cannot be seen": "a\u200bb\ufeffc\x00d\x7f",
    "half a character": "a\udc80b",
    "made of tags": "a\U000e0041b",
}
MARKUP = [
    "[mantis]",
    "[/]",
    "[bold red]x[/bold red]",
    "[link=http://x]x[/link]",
    ":heart:",
    "\\[x]",
]


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_what_cannot_be_seen_is_escaped(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable() and "\\" in shown
    assert printable(shown) == shown
    shown.encode("utf-8")


def test_what_can_be_seen_stays_as_it_is() -> None:
    for text in ("é ü ß 心电图 µV ≤ – “x”", r"C:\new", "😀", *MARKUP):
        assert printable(text) == text


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_no_way_of_printing_passes_it_on(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    with counting(text, 1) as counter:
        counter.advance(1, text)
    for kind in (UserError, JobFailed):

        def job(kind: type[Exception] = kind) -> None:
            raise kind(f"no {text} there")

        assert exit_code_of(job) in (1, 2)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 4
    assert all(line.isprintable() for line in printed)
    assert one_line(ValueError(text)).isprintable()
    assert last_line(ValueError(text)).isprintable()
    assert all(line.isprintable() for line in verdict_text("s", _verdict(text)).splitlines())


def _verdict(name: str) -> Verdict:
    return Verdict(1, (name,), (name,), (name,))


def tables(name: str) -> list[Table]:
    """Every table that the jobs print, about something called so."""
    summary = {"mean": 0.5, "std": 0.1, "folds": [0.5], "ci95": [0.4, 0.6]}
    predictors = {who: {"auroc": summary, "f1": summary} for who in (name, "ensemble")}
    results: dict[str, Any] = {
        "tasks": {"gender": {"n": 3, "predictors": predictors}},
        "experts": {name: {"seen_in_pretraining": [name]}},
    }
    tasks = [Task("gender", "classification", classes=("male", "female"))]
    job = Job(name, "head", 1, 0.0, False, 3, 100.0, None)
    return [
        results_table(results, tasks),
        board_table({name: Standing(f"failed: {name}")}),
        describe_experts.table([Description(name, None, name)], searched=True),
        plan_table([], [job.name], 1),
    ]


def printed(table: Table, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(table)
    written = console.file
    assert isinstance(written, io.StringIO)
    return written.getvalue()


@pytest.mark.parametrize("name", MARKUP)
def test_markup_in_names_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for table in tables(name):
        assert name in printed(table)
    say(f"expert {name}")
    assert capsys.readouterr().err == f"expert {name}\n"


@pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)
def test_tables_hold_nothing_that_cannot_be_seen(name: str) -> None:
    for table in tables(name):
        shown = printed(table)
        assert printable(name)[:6] in shown
        assert all(line.isprintable() for line in shown.split("\n")), shown


def test_results_are_never_cut_short_on_a_narrow_terminal() -> None:
    summary = {"mean": 40537.0, "std": 1.0, "folds": [1.0], "ci95": [32585.0, 49160.0]}
    metrics = ("mae", "mse", "r2")
    predictors = {who: dict.fromkeys(metrics, summary) for who in ("a" * 64, "ensemble")}
    results = {"tasks": {"rr_interval": {"n": 3, "predictors": predictors}}}
    shown_metrics = set()
    for width in (40, 60, 80, 100, 160):
        table = results_table(results, [Task("rr_interval", "regression", unit="ms")], width)
        text = printed(table, width)
        assert "…" not in text and max(map(len, text.splitlines())) <= width
        assert "40537 [32585, 49160]" in text
        shown_metrics.add(text.count("40537 [32585, 49160]"))
    assert len(shown_metrics) > 1, "more metrics where there is more room"


def test_a_bar_on_a_terminal_prints_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(progress, "console", screen)
    monkeypatch.setattr(progress, "is_live", lambda: True)
    with counting("[mantis] [/] :heart:\x1b]0;owned\x07", 2) as counter:
        counter.advance(1, "[red]note[/red] \x1b[2J")
    written = screen.file
    assert isinstance(written, io.StringIO)
    shown = written.getvalue()
    assert r"[mantis] [/] :heart:\x1b]0;owned\x07" in shown
    assert r"[red]note[/red] \x1b[2J" in shown
    assert "\x1b]0" not in shown and "\x1b[2J" not in shown


def test_an_unforeseen_exception_keeps_its_traceback_but_not_its_control_characters(
    tmp_path: Path,
) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import typer\nfrom enecg.command_line import run\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n"
        "@app.command()\ndef main():\n    raise RuntimeError('\\x1b]0;owned\\x07\\nsecond line')\n"
        "run(app)\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].startswith("Traceback") and "fails.py" in done.stderr
    assert lines[-2:] == [r"RuntimeError: \x1b]0;owned\x07", "second line"]


def test_a_terminal_of_another_encoding_is_no_reason_to_fail(tmp_path: Path) -> None:
    """The job's words have dashes and arrows; where they cannot be written they are escaped."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "ray_jobs/make_synthetic.py"), str(tmp_path / "päth–x"),
         "--records", "1"],
        capture_output=True, timeout=120, env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin",
                                               "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"p\xe4th\u2013x" in done.stdout
