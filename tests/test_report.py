"""The report and the terminal table hold the numbers, say them plainly and need no network."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from scipy.special import expit

from enecg.evaluation.comparisons import compare, verdict_of
from enecg.evaluation.figures import metric_figure, prediction_figure, reliability_figure
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.report import write_report
from enecg.evaluation.search_figures import LOSS, parameter_importance, search_figures
from enecg.evaluation.table import results_table
from enecg.evaluation.wording import (
    best,
    comparison_sentences,
    decision_sentence,
    interval_note,
    number,
    summary,
    with_interval,
)
from enecg.signals import LEADS
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, RHYTHM

SKILL = {"rocket": 0.9, "dlinear": 0.3, "uniform": 0.7, "ensemble": 1.0, "dummy": 0.0}
PNG = b"\x89PNG\r\n\x1a\n"


def predicted(task: Task, skill: float, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    if task.kind == "regression":
        truth = rng.normal(50, 15, n)
        return truth, (50 + skill * (truth - 50))[:, None]
    if task.kind == "multilabel":
        holds = rng.integers(0, 2, (n, task.width))
        return holds.astype(float), expit(rng.normal(4 * skill * (holds - 0.5)))
    truth = rng.integers(task.width, size=n)
    odds = np.exp(rng.normal(size=(n, task.width)) + 4 * skill * np.eye(task.width)[truth])
    return truth.astype(float), odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What a small run's results.json holds."""
    n = 120
    where = (np.arange(n) % 3, np.arange(n).astype(str))
    return {
        "commit": None,
        "started": "2026-01-02T03:04:05+00:00",
        "hardware": {"cpus": 2, "processor": "Xeon <R>"},
        "seconds": {"train_experts": 12.34},
        "peak_memory_mb": {"train_experts": 900.0},
        "config": {"experts": {"rocket": {}, "dlinear": {}}},
        "tasks": {
            task.name: {
                "n": n,
                "predictors": {
                    name: fold_summary(task, *predicted(task, skill), *where, n_resamples=50)
                    for name, skill in SKILL.items()
                },
            }
            for task in (AGE, GENDER, RHYTHM)
        },
    }


def trials(n: int = 24) -> pd.DataFrame:
    """A search in which the temperature alone decides, after two plain gates."""
    random = np.random.default_rng(1)
    rows = []
    for trial in range(n):
        plain = trial < 2
        row = {
            "trial": trial, "finished": trial != 5, "scope": "every",
            "leads": "II" if plain else str(random.choice(["II", "I+V1"])),
            "experts": str(random.choice(["rocket", "dlinear", "rocket+dlinear"])),
            "encoder": str(random.choice(["mlp", "conv"])), "joined": "nothing",
            "depth": int(random.integers(3)), "width": 8, "top_k": 0, "weights_per": "record",
            "mix": "logits", "balance": 0.0, "epochs": 0 if plain else 4,
            "temperature": float(random.choice([0.5, 2.0])), "dropout": float(random.random()),
            "learning_rate": 1e-3, "weight_decay": 0.1,
        }  # fmt: skip
        row[LOSS] = 1.0 if plain else 0.8 + 0.1 * row["temperature"] + 0.001 * random.random()
        rows.append(row)
    table = pd.DataFrame(rows)
    table.loc[~table["finished"], LOSS] = np.nan
    return table


@pytest.fixture(scope="module")
def html(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    tasks = [AGE, GENDER, RHYTHM]
    write_report(
        path,
        results,
        tasks,
        out_of_sample={task.name: predicted(task, 1.0) for task in tasks},
        gate_weights={"age": {"rocket": 0.8, "dlinear": 0.2}},
        trials=trials(),
        drawings={"Record 7 <script>": PNG},
    )
    return path.read_text(encoding="utf-8")


def test_the_report_holds_every_number(html: str, results: dict[str, Any]) -> None:
    for outcome in results["tasks"].values():
        for scores in outcome["predictors"].values():
            for entry in scores.values():
                mean, _, interval = with_interval(entry).partition(" ")
                assert f">{mean}<small>{interval}</small>" in html
    for fact in ("2026-01-02T03:04:05", "not a git checkout", "train experts 12.3", "120 labelled"):
        assert fact in html


def test_the_report_needs_nothing_from_outside(html: str) -> None:
    outside = r"""(?:src|href)=["'](?!data:)|<script|<link|@import|url\(|https?://"""
    assert re.findall(outside, html) == []
    assert html.count("data:image/png;base64,") == 1
    # Metric and predictions of each task, reliability of those of classes, weights; the search.
    assert html.count("data:image/svg+xml;base64,") == 3 + 3 + 2 + 1 + 4


def test_what_the_loss_depended_on_is_found() -> None:
    table = trials()
    drawn = table[table["finished"] & (table["epochs"] > 0)]
    shares = parameter_importance(drawn)
    assert next(iter(shares)) == "temperature" and shares["temperature"] > 0.8
    assert set(shares) == {"leads", "experts", "encoder", "depth", "temperature", "dropout"}
    assert parameter_importance(drawn[:5]) == {}, "too few to tell"
    assert parameter_importance(drawn.assign(**{LOSS: 1.0})) == {}


def test_a_search_of_one_expert_and_plain_gates_alone_can_be_drawn() -> None:
    [*captions] = search_figures(trials()[:2], ["rocket"])
    assert len(captions) == 1 and "best so far" in captions[0]


def test_where_hardly_any_subset_of_leads_comes_twice_each_lead_is_drawn() -> None:
    table = trials()
    random = np.random.default_rng(0)
    table["leads"] = ["+".join(random.permutation(LEADS)[:3]) for _ in range(len(table))]
    assert "Loss with and without each lead; line: median." in search_figures(table, ["rocket"])
    assert not any("each lead" in caption for caption in search_figures(trials(), ["rocket"]))


@pytest.mark.parametrize("task", [GENDER, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_reliability_can_be_drawn_for_few_records_and_many(task: Task) -> None:
    for n in (1, 14, 300):
        truth, prediction = predicted(task, 0.5, n)
        assert reliability_figure(task, truth, prediction).startswith(b"<?xml")
        assert prediction_figure(task, truth, prediction).startswith(b"<?xml")


def comparison(low: float, high: float, metric: str = "mae") -> dict[str, Any]:
    summary_ = {"mean": (low + high) / 2, "std": 0.0, "folds": [], "ci95": [low, high]}
    return {
        "against": "rocket", "metric": metric, "difference": summary_,
        "verdict": verdict_of(metric, [low, high]),
    }  # fmt: skip


def test_verdicts_are_plain() -> None:
    found = {"best_expert": comparison(-0.5, -0.1), "uniform": comparison(-0.2, 0.4)}
    found["stacking"] = comparison(0.01, 0.03, "auroc")
    better, unclear, higher = comparison_sentences(AGE, found)
    assert better == (
        "Against the best expert (rocket): MAE differs by −0.300 [−0.500, −0.100] years – better."
    )
    assert unclear.endswith("+0.100 [−0.200, +0.400] years – no difference shown.")
    assert higher.startswith("Against stacking: AUROC") and higher.endswith("better.")
    assert verdict_of("auroc", [-0.03, -0.01]) == "worse"
    assert verdict_of("mae", [0.1, 0.2]) == "worse"
    same = comparison(0, 0) | {"verdict": "the same"}
    assert comparison_sentences(AGE, {"uniform": same}) == [
        "Against the uniform mean: the same predictions."
    ]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.5, -0.1, "The gate beats the best plain combination (stacking)"),
        (-0.2, 0.4, "The gate does not beat the best plain combination (stacking)"),
        (0.1, 0.5, "The gate is worse than the best plain combination (stacking)"),
    ],
)
def test_it_is_said_as_clearly_that_gates_do_not_beat_what_is_plain(
    low: float, high: float, said: str, results: dict[str, Any], tmp_path: Path
) -> None:
    found = {"gate": comparison(low, high) | {"against": "stacking"}}
    [sentence] = comparison_sentences(AGE, found)
    assert sentence.startswith(f"{said}: MAE differs by ")
    assert sentence.endswith(f"years – {found['gate']['verdict']}.")
    few = {"gate": found["gate"] | {"difference": {"mean": 0.1, "events": 4}}}
    few["gate"]["verdict"] = verdict_of("mae", None)
    assert comparison_sentences(AGE, few) == [
        "The gate is not shown to beat the best plain combination (stacking): MAE differs by "
        "+0.100 years – no difference shown (too few events for an interval: 4)."
    ]
    same = {"gate": found["gate"] | {"verdict": "the same"}}
    assert comparison_sentences(AGE, same) == [
        "The gate says the same as the best plain combination (stacking)."
    ]
    task = results["tasks"]["age"] | {"comparisons": found}
    write_report(tmp_path / "r.html", results | {"tasks": {"age": task}}, [AGE])
    assert said in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_the_report_says_where_a_plain_baseline_was_as_good() -> None:
    decision = {
        "way": "stacking", "losses": {}, "gain_of_gates": 0.001, "standard_error": 0.01,
        "calibration": "temperature",
    }  # fmt: skip
    gated = decision | {"way": "greedy", "gain_of_gates": 0.2}
    text = decision_sentence({"0": gated, "1": decision, "all": decision})
    assert text.startswith(
        "The gates are not clearly better than a plain baseline, so the rule takes that"
    )
    assert "the gates' loss is 0.0010 lower than the best plain way's" in text
    assert "`stacking`" in text and "greedy 1, stacking 1" in text and "temperature" in text
    assert "absolute" not in text
    absolute = decision_sentence({"0": decision | {"way": "absolute_stacking"}, "all": gated})
    assert "absolute_stacking 1 (absolute_stacking: one weight per expert, by the" in absolute
    worse = decision_sentence({"all": decision | {"gain_of_gates": -0.2}})
    assert "loss is 0.200 higher" in worse
    assert decision_sentence({"0": gated, "all": gated}).startswith("The bundle's ensemble is of")


def test_names_are_escaped(html: str) -> None:
    assert "Xeon &lt;R&gt;" in html and "Record 7 &lt;script&gt;" in html


def test_the_report_stands_without_extras(results: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", results, [AGE])
    assert "<h2>age (years)</h2>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def entry(mean: float) -> dict[str, Any]:
    return {"mean": mean, "std": 0.1, "folds": [mean], "ci95": [mean - 0.5, mean + 0.5]}


def test_the_sentence_states_the_numbers_either_way() -> None:
    predictors = {"rocket": {"mae": entry(8.7)}, "dlinear": {"mae": entry(11.0)}}
    worse = summary(AGE, {**predictors, "ensemble": {"mae": entry(8.9)}})
    assert worse.startswith(
        "The ensemble's MAE is 8.90 [8.40, 9.40] years; the best expert alone, rocket, has "
        "8.70 [8.20, 9.20] years. The ensemble's mean is worse by 0.200 years; whether that is "
        "more than chance is said below."
    )
    better = summary(AGE, {**predictors, "ensemble": {"mae": entry(8.5)}})
    assert "The ensemble's mean is better by 0.200 years;" in better
    higher = summary(GENDER, {"rocket": {"auroc": entry(0.8)}, "ensemble": {"auroc": entry(0.9)}})
    assert "AUROC" in higher and "better by 0.100" in higher
    assert "is the same;" in summary(AGE, {**predictors, "ensemble": {"mae": entry(8.7)}})
    assert "by less than 0.001 years" in summary(
        AGE, {**predictors, "ensemble": {"mae": entry(8.7001)}}
    )
    assert "not available" in summary(AGE, {"rocket": {}, "ensemble": {}})


def test_the_best_is_lowest_or_highest_by_metric() -> None:
    predictors = {"a": {"mae": entry(1.0), "r2": entry(0.1)}, "b": {"mae": entry(2.0)}}
    predictors["c"] = {"r2": entry(0.7)}
    assert best("mae", predictors) == "a" and best("r2", predictors) == "c"
    assert best("f1", predictors) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91234, "0.912"), (1.0, "1.000"), (8.7, "8.70"), (57.04, "57.0"), (19401.4, "19401")],
)
def test_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_what_has_no_interval_says_why() -> None:
    assert with_interval(None) == "–"
    few = {"mean": 0.8123, "folds": [0.8], "n": 1200, "events": 4}
    assert with_interval(few) == "0.812 (n 1,200, events 4)"
    assert with_interval(few | {"defined_in": 2}) == "0.812 (n 1,200, in 2 folds)"
    error = {"mean": 0.031, "folds": [0.031], "null_band": [0.01, 0.0451]}
    assert with_interval(error) == "0.031 (if calibrated: 0.010–0.045)"
    assert with_interval({"mean": 0.0, "folds": [0.0, 0.0]}) == "0.000"


def test_a_comparison_without_interval_has_no_verdict_of_better_or_worse(tmp_path: Path) -> None:
    truth, ours = predicted(GENDER, 1.0)
    truth[:] = 0.0
    truth[:15] = 1.0
    where = (np.arange(120) % 3, np.arange(120).astype(str))
    predictions = {"rocket": 1.0 - ours, "ensemble": ours, "uniform": ours[::-1]}
    scores = {name: fold_summary(GENDER, truth, one, *where) for name, one in predictions.items()}
    found = compare(GENDER, truth, predictions, scores, ["rocket"], *where, seed=0)
    assert {one["verdict"] for one in found.values()} == {"no difference shown"}
    for sentence in comparison_sentences(GENDER, found):
        assert "[" not in sentence
        assert sentence.endswith("– no difference shown (too few events for an interval: 5).")
    results = {
        "commit": None, "started": "", "hardware": {}, "seconds": {}, "peak_memory_mb": {},
        "tasks": {"gender": {"n": 120, "predictors": scores, "comparisons": found}},
    }  # fmt: skip
    write_report(tmp_path / "report.html", results, [GENDER])
    assert "(n 120, events 5)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_verdict_is_by_the_interval_of_the_procedure() -> None:
    """A difference that the records alone would show, and models trained anew would not."""
    truth, ours = predicted(AGE, 0.9, 90)
    rng = np.random.default_rng(3)
    theirs = ours + rng.normal(0, 1, ours.shape)
    where = (np.arange(90) % 3, np.arange(90))
    for push in np.linspace(0.0, 1.0, 41):
        both = {"ensemble": ours, "uniform": theirs + push * np.sign(theirs - truth[:, None])}
        scores = {name: fold_summary(AGE, truth, one, *where) for name, one in both.items()}
        [found] = compare(AGE, truth, both, scores, [], *where, seed=0).values()
        inner, outer = (found["difference"][key] for key in ("ci95_given_models", "ci95"))
        if inner[1] < 0.0 <= outer[1]:
            assert found["verdict"] == "no difference shown"
            break
    else:
        raise AssertionError("no such difference met")


def test_notes_say_whose_the_intervals_are(results: dict[str, Any], html: str) -> None:
    assert "all models trained anew" in html
    for of, text in ((results, "the procedure"), (results | {"bundle": "b"}, "this bundle")):
        assert f"95 %, for {text}" in interval_note(of)


def test_the_table_is_readable_at_100_columns(results: dict[str, Any]) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(results_table(results, [AGE, GENDER, RHYTHM]))
    text = console.export_text()
    assert "…" not in text and max(map(len, text.splitlines())) <= 100
    for name, task, metric in (("rocket", "age", "mae"), ("ensemble", "report_label", "f1")):
        assert with_interval(results["tasks"][task]["predictors"][name][metric]) in text
    ensemble = with_interval(results["tasks"]["age"]["predictors"]["ensemble"]["mae"])
    assert f"{ensemble}*" in text


def test_experts_pretrained_on_the_same_records_are_marked(
    results: dict[str, Any], tmp_path: Path
) -> None:
    seen = {"rocket": [], "dlinear": ["mimic-iv-ecg", "challenge"]}
    facts = {name: {"seen_in_pretraining": corpora} for name, corpora in seen.items()}
    for experts, marks in ({}, 0), ({"rocket": facts["rocket"]}, 0), (facts, 2):
        marked = results | {"experts": experts}
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(results_table(marked, [AGE]))
        text = console.export_text()
        write_report(tmp_path / "report.html", marked, [AGE])
        html = (tmp_path / "report.html").read_text()
        for shown in (text, html):
            assert shown.count("†") == marks
            assert ("dlinear †" in shown) == (marks > 0)
            flat = " ".join(shown.split())
            assert ("one: dlinear (mimic-iv-ecg, challenge). Its scores" in flat) == (marks > 0)


def test_figures_have_the_same_bytes_every_time(results: dict[str, Any]) -> None:
    predictors = results["tasks"]["age"]["predictors"]
    assert metric_figure(AGE, predictors) == metric_figure(AGE, predictors)


def test_an_ecg_is_drawn_to_scale_and_a_missing_lead_is_named(tmp_path: Path) -> None:
    x_LT = np.zeros((12, 5000), dtype=np.float32)
    x_LT[1, 2500] = 1.0  # 1 mV in lead II at 5 s
    x_LT[8] = np.nan
    x_LT[5, 1300], x_LT[9, 4000] = 5.1, -7.0
    axes = Figure().add_subplot()
    draw_ecg(x_LT, axes, "Record 7", derived=["aVF", "III"])
    texts = [text.get_text() for text in axes.texts]
    assert {"V3 (missing)", "III (derived)", "aVF (derived, cut)", "V4 (cut)"} <= set(texts)
    assert "Record 7" in texts and texts.count("II") == 2
    strips = [line for line in axes.lines if len(line.get_xdata()) > 10]
    assert len(strips) == 12  # eleven leads and the rhythm strip
    rhythm = strips[-1].get_xydata()
    assert np.ptp(rhythm[:, 1]) == pytest.approx(10.0)  # mm
    assert rhythm[2500, 0] - rhythm[0, 0] == pytest.approx(125.0)  # mm
    draw_ecg(x_LT, tmp_path / "ecg.png")
    assert (tmp_path / "ecg.png").read_bytes().startswith(PNG)


def test_only_a_whole_ecg_is_drawn() -> None:
    with pytest.raises(ValueError, match="not"):
        draw_ecg(np.zeros((12, 100)), Path("never-written.png"))
