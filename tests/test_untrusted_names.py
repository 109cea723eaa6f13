"""Names that are not ours in what a run leaves: the report, its figures, the model card."""

from __future__ import annotations

import base64
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from enecg.evaluation.figures import metric_figure, prediction_figure, weight_figure
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.model_card import model_card
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.report import write_report
from enecg.tasks import Task
from models import adapted_expert, bundle

SCRIPT = "<script>alert(1)</script>"
ATTRIBUTE = '"\' onerror=alert(1) x="><img src=x>'
VISIBLE = [
    SCRIPT, ATTRIBUTE, "&lt;b&gt;&amp;", "$\\frac{1}{", "$x$ $y", "\\$", "a$", "{name}", "%s %(x)s",
    "心房細動", "]]>", "-->", "<!--", "W" * 64, "a b " * 16, "`code`", "[x](javascript:alert(1))",
]  # fmt: skip
INVISIBLE = ["a\x1b[2Jb", "a\u202eb", "a\x00b", "a\nb", "a\udc80b"]
N = 60


def summaries(task: Task, names: list[str]) -> dict[str, Any]:
    truth = np.arange(N) % 2.0
    guessed = np.stack([1 - truth, truth], axis=1) * 0.6 + 0.2
    where = (np.arange(N) % 3, np.arange(N).astype(str))
    one = fold_summary(task, truth, guessed, *where, n_resamples=20)
    return dict.fromkeys([*names, "ensemble"], one)


class Tags(HTMLParser):
    """Counts the tags of a page, and keeps their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.figures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.figures += [value or "" for name, value in attrs if name == "src"]


def page(folder: Path, task: Task, predictors: list[str], caption: str) -> str:
    results = {
        "commit": caption, "started": caption, "hardware": {caption: caption},
        "seconds": {}, "peak_memory_mb": {}, "config": {"experts": {}},
        "experts": {name: {"seen_in_pretraining": [name]} for name in predictors},
        "tasks": {task.name: {"n": N, "predictors": summaries(task, predictors)}},
    }  # fmt: skip
    truth = np.arange(N) % 2.0
    write_report(
        folder / "report.html", results, [task],
        out_of_sample={task.name: (truth, np.stack([1 - truth, truth], axis=1))},
        gate_weights={task.name: dict.fromkeys(predictors, 0.5)},
        drawings={caption: b"<svg/>"},
    )  # fmt: skip
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VISIBLE)
def test_a_report_shows_any_name_and_obeys_none(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Task("finding", "classification", classes=("plain", name[:64]))
        written = page(tmp_path, task, [name], name)
    tags = Tags()
    tags.feed(written)
    assert "script" not in tags.names and "onerror" not in tags.attributes
    assert all(src.startswith("data:image/svg+xml;base64,") for src in tags.figures)
    for src in tags.figures:
        figure = base64.b64decode(src.partition(",")[2])
        elements = {element.tag for element in ElementTree.fromstring(figure).iter()}
        assert not any("script" in tag for tag in elements)


@pytest.mark.parametrize("name", INVISIBLE, ids=ascii)
def test_nothing_invisible_reaches_the_report(name: str, tmp_path: Path) -> None:
    task = Task("finding", "classification", classes=("plain", "other one"))
    written = page(tmp_path, task, [name], name)
    assert all(line.isprintable() for line in written.split("\n"))
    assert "a\nb" not in written
    for figure in (weight_figure({name: 1.0}), metric_figure(task, summaries(task, [name]))):
        ElementTree.fromstring(figure)  # an escape character would make it no XML


def test_a_dollar_is_a_dollar_in_every_kind_of_figure() -> None:
    dollars = "$\\undefined{$ and $"
    truth = np.arange(N) % 2.0
    value = Task("v", "regression", unit=dollars)
    prediction_figure(value, truth, truth[:, None])
    several = Task("m", "multilabel", classes=(dollars, "b"))
    both = np.stack([truth, 1 - truth], axis=1)
    prediction_figure(several, both, both)
    axes = Figure().add_subplot()
    draw_ecg(np.zeros((12, 5000), dtype=np.float32), axes, title=dollars)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    assert dollars in [text.get_text() for text in axes.texts]


def card_of(classes: tuple[str, ...]) -> str:
    task = Task("finding", "classification", classes=classes)
    made = bundle(task, rocket=adapted_expert("rocket", task))
    made.expert_names = ["rocket"]
    made.provenance |= {
        "trained_on": "all groups", "source": "a `b`` c", "records": "0" * 64, "commit": None,
        "experts": {"rocket": {"licence": "<b>", "pretraining_corpora": ["<i>"]}},
    }  # fmt: skip
    decision = {
        "way": "greedy", "gain_of_gates": 1.0, "standard_error": 0.1, "calibration": "none",
    }  # fmt: skip
    score = {"mean": 0.8, "ci95": [0.7, 0.9]}
    results = {
        "n": 7, "predictors": {"deployed": {"auroc": score}}, "comparisons": {},
        "decisions": {"all": decision},
    }  # fmt: skip
    return model_card(made, results)


@pytest.mark.parametrize("name", VISIBLE)
def test_a_model_card_shows_names_as_they_are(name: str) -> None:
    """Every mark of Markdown in a name stands behind a backslash: it is shown, not obeyed."""
    card = card_of(("plain", name[:64]))
    [line] = [line for line in card.splitlines() if line.startswith("Answers with one of plain, ")]
    shown = line.removeprefix("Answers with one of plain, ").partition(", with probab")[0]
    assert re.sub(r"\\([^\w\s])", r"\1", shown) == name[:64].strip()
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>`\[\]$]", shown)
    assert "licence: \\<b\\>; pretrained on: \\<i\\>" in card
    assert "source ``` a `b`` c ```" in card


def test_a_model_card_leaves_ordinary_names_alone() -> None:
    card = card_of(("sinus_rhythm", "AV-block (1st)"))
    assert "one of sinus_rhythm, AV-block (1st), with" in card
