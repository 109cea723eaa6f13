"""The report of a run: one HTML file that holds everything it shows and opens offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from enecg.evaluation.figures import (
    metric_figure,
    prediction_figure,
    reliability_figure,
    weight_figure,
)
from enecg.evaluation.metrics import LOWER_IS_BETTER, Numbers, main_metric
from enecg.evaluation.operating_points import RATES
from enecg.evaluation.search_figures import search_figures
from enecg.evaluation.wording import (
    METRIC_NAMES,
    Predictors,
    answers_note,
    best,
    comparison_sentences,
    decision_sentence,
    folds_named,
    interval_note,
    metrics_of,
    no_output_note,
    pretraining_note,
    seen_in_pretraining,
    summary,
    with_interval,
)
from enecg.files import write_text
from enecg.printable import printable
from enecg.tasks import Task

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; background: #fff;
       max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: 1rem; border-top: 1px solid #d1d5db; }
.note { color: #6b7280; font-size: .87rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .8rem 0;
        font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e5e7eb; text-align: right;
         white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { border-bottom: 2px solid #9ca3af; vertical-align: bottom; }
tr.ours td:first-child { color: #2b6cb0; font-weight: 600; }
td small { display: block; color: #6b7280; }
td.best { background: #e6f0fa; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .8rem 0; }
dt { color: #6b7280; } dd { margin: 0; }
figure { display: inline-block; margin: .6rem 1.5rem .6rem 0; vertical-align: top; }
figure img { max-width: 100%; display: block; }
figcaption { color: #6b7280; font-size: .87rem; }
"""


def write_report(
    path: Path,
    results: Mapping[str, Any],
    tasks: Iterable[Task],
    *,
    out_of_sample: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    gate_weights: Mapping[str, Mapping[str, float]] | None = None,
    trials: pd.DataFrame | None = None,
    drawings: Mapping[str, bytes] | None = None,
) -> None:
    """Write ``report.html``.

    Parameters
    ----------
    path : Path
        The file to write, atomically.
    results : mapping
        What results.json holds.
    tasks : iterable of Task
        The tasks in it, in the order to show them.
    out_of_sample : mapping of str to (float array (B,), float array (B, C)), optional
        By task: labels (NaN where missing) and the ensemble's predictions for test records, of the
        first repeat.
    gate_weights : mapping of str to mapping, optional
        By task: the mean gate weight of each expert on test records.
    trials : DataFrame, optional
        The gate search's trials, as `search.trials_table` gives them, of the first repeat.
    drawings : mapping of str to bytes, optional
        SVG or PNG files by the caption to show them under, such as ECGs by `paper.draw_ecg`.
    """
    folds = folds_named(results.get("config", {}))
    which = "" if folds == "folds" else ", of the first repeat"
    parts = [f"<h1>EnECG results</h1>\n{_header(results)}"]
    for task in tasks:
        predictors = results["tasks"][task.name]["predictors"]
        title = f"{task.name} ({task.unit})" if task.unit else task.name
        parts += [
            f"<h2>{escape(title)}</h2>",
            f'<p class="note">{results["tasks"][task.name]["n"]:,} labelled records</p>',
            f"<p>{escape(summary(task, predictors))}</p>",
            *_verdicts(task, results["tasks"][task.name]),
            _table(task, predictors, seen_in_pretraining(results)),
        ]
        if any(main_metric(task) in scores for scores in predictors.values()):
            parts.append(
                _figure(
                    metric_figure(task, predictors),
                    f"Dot: mean over {folds}; line: its 95 % interval, models trained anew; "
                    "ticks: the folds.",
                )
            )
        if out_of_sample and task.name in out_of_sample:
            drawn = prediction_figure(task, *out_of_sample[task.name])
            parts.append(_figure(drawn, f"The ensemble's predictions for test records{which}."))
            if task.kind != "regression":
                drawn = reliability_figure(task, *out_of_sample[task.name])
                caption = f"Reliability on test records{which}; bars: 95 % intervals."
                parts.append(_figure(drawn, caption))
        if gate_weights and task.name in gate_weights:
            drawn = weight_figure(gate_weights[task.name])
            parts.append(_figure(drawn, "Mean gate weight of each expert on test records."))
    if trials is not None:
        parts += [
            "<h2>Gate search</h2>",
            f'<p class="note">{len(trials):,} trials{which}, '
            f"{int(trials['finished'].sum()):,} of them finished. All losses are out-of-fold on "
            "training groups; they describe the search and say nothing of test records.</p>",
        ]
        names = [*results["config"]["experts"]]
        parts += [_figure(content, of) for of, content in search_figures(trials, names).items()]
    if drawings:
        parts.append("<h2>Records</h2>")
        parts += [_figure(content, caption) for caption, content in drawings.items()]
    write_text(
        path,
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>EnECG results</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n",
    )


def escape(text: object) -> str:
    """Return text for a page or an attribute: no tag in it is obeyed, nothing is invisible."""
    return html.escape(printable(text))


def _verdicts(task: Task, outcome: Mapping[str, Any]) -> list[str]:
    """What the ensemble is, and how it compares with what is plainer, as paragraphs."""
    parts = []
    if "decisions" in outcome:
        parts.append(f"<p>{escape(decision_sentence(outcome['decisions']))}</p>")
    if note := answers_note(task, outcome):
        parts.append(f"<p>{escape(note)}</p>")
    if by_class := outcome["predictors"].get("deployed", {}).get("classes"):
        parts.append(_rates(by_class))
    if sentences := comparison_sentences(task, outcome.get("comparisons", {})):
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
        note = (
            "Paired differences, the ensemble (in the last line, the gate) minus the other [95 % "
            "interval, models trained anew]:"
        )
        parts.append(f'<p class="note">{note}</p><ul>{items}</ul>')
    return parts


def _rates(by_class: Mapping[str, Any]) -> str:
    """How often the answers of `deployed` are right, class by class, as a table."""
    heads = "".join(f"<th>{METRIC_NAMES[rate]}</th>" for rate in RATES)
    rows = []
    for name, rates in by_class.items():
        cells = []
        for rate in RATES:
            mean, _, interval = with_interval(rates.get(rate)).partition(" ")
            cells.append(f"<td>{mean}<small>{interval}</small></td>")
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th>Class, answered by threshold</th>{heads}</tr>'
        f"</thead>\n<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _header(results: Mapping[str, Any]) -> str:
    facts = {
        "Commit": results["commit"] or "not a git checkout",
        "Started": results["started"],
        "Hardware": _listed(results["hardware"]),
        "Seconds": _listed(results["seconds"]),
        "Peak memory (MB)": _listed(results["peak_memory_mb"]),
    }
    rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return (
        f"<dl>{rows}</dl>\n"
        '<p class="note">Cross-validation by group (the records of a patient, and identical '
        "signals): no group is in both training and test. "
        f"Numbers are means over {folds_named(results.get('config', {}))}. "
        f"{escape(interval_note(results))} What other test patients "
        "alone would change, the models being given, is in results.json. The calibration error "
        "is debiased; “if calibrated” is what a perfectly calibrated model would show with so many "
        "records. The best expert is "
        "picked by the same test numbers that are shown, which flatters it slightly. Shaded: "
        "best of its column.</p>"
        + "".join(
            f'<p class="note">{escape(note)}</p>'
            for note in (pretraining_note(results), no_output_note(results))
            if note
        )
        + (
            f'<p class="note">Note: {escape(said)}.</p>'
            if (said := _subjects_note(results))
            else ""
        )
    )


def _subjects_note(results: Mapping[str, Any]) -> str:
    """What folds by record may do to results; empty where every record has a subject."""
    return str(results.get("subjects", {}).get("note", ""))


def _listed(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "; ".join(
        f"{key.replace('_', ' ')} {f'{item:,.1f}' if isinstance(item, float) else item}"
        for key, item in value.items()
    )


def _table(task: Task, predictors: Predictors, seen: Mapping[str, str]) -> str:
    metrics = metrics_of(task, predictors)
    # Rates are traded for each other: the highest of one is not the best.
    winner = {metric: best(metric, predictors) for metric in metrics if metric not in RATES}
    heads = "".join(
        f"<th>{METRIC_NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}</th>"
        for metric in metrics
    )
    rows = []
    for name, scores in predictors.items():
        cells = []
        for metric in metrics:
            mean, _, interval = with_interval(scores.get(metric)).partition(" ")
            mark = ' class="best"' if winner.get(metric) == name else ""
            cells.append(f"<td{mark}>{mean}<small>{interval}</small></td>")
        dagger = " †" if name in seen else ""
        ours = ' class="ours"' if name == "ensemble" else ""
        rows.append(f"<tr{ours}><td>{escape(name)}{dagger}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th>Predictor</th>{heads}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _figure(content: bytes, caption: str) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "svg+xml"
    data = base64.b64encode(content).decode()
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
