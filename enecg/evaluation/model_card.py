"""A bundle's model card: what it is, how good it was found to be, what it is not for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enecg.evaluation.wording import (
    METRIC_NAMES,
    answers_note,
    comparison_sentences,
    decision_sentence,
    folds_named,
    interval_note,
    metrics_of,
    with_interval,
)
from enecg.experts import RANDOM
from enecg.experts.corpora import overlap
from enecg.printable import printable

if TYPE_CHECKING:
    from enecg.bundle import Bundle


_MARKS = re.compile(r"[\\`*\[\]{}<>#|~&$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What Markdown, or HTML in it, would take for more than a character."""


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


def _code(text: str) -> str:
    """Text in Markdown's type for code; the fence is longer than any in it."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if len(fence) > 1 else f"`{shown}`"


def _privacy(bundle: Bundle) -> list[str]:
    """Say what somebody who holds the bundle could find out about who it learned from."""
    if bundle.seen is None:
        return []
    subjects = (
        "It holds no hashes of subjects."
        if bundle.seen.subjects is None
        else "Subjects' ids are hashed by scrypt, about 2 ms of CPU each: whoever tries all "
        "patient numbers of 8 digits needs some 60 hours of one core, and then knows which are "
        "among them."
    )
    return [
        "## What it says of its training records",
        "",
        "`seen.safetensors` holds salted hashes of the signals and subjects it learned from, so "
        "that they can be left out of an evaluation. Whoever holds the bundle and a recording can "
        f"check whether it is among them. {subjects}",
        "",
    ]


def model_card(bundle: Bundle, results: Mapping[str, Any]) -> str:
    """Return a model card in Markdown.

    Parameters
    ----------
    bundle : Bundle
        The one that is trained on all groups.
    results : mapping
        The task's part of results.json.
    """
    task, facts = replace(bundle.task, unit=_plain(bundle.task.unit)), bundle.provenance
    classes = ", ".join(map(_plain, task.classes))
    scores = results["predictors"]["deployed"]
    answer = {
        "regression": f"a value{f' in {task.unit}' if task.unit else ''}",
        "classification": f"one of {classes}, with probabilities",
        "multilabel": f"any of {classes}, with a probability each",
    }[task.kind]
    used = []
    for name, (settings, adapted) in bundle.experts.items():
        if name not in bundle.weighed:
            continue
        made_by = facts["experts"][name]
        corpora = ", ".join(map(_plain, made_by["pretraining_corpora"])) or "nothing"
        if overlap(made_by["pretraining_corpora"], facts["source"]):
            corpora += ", which shares records with these: results may flatter"
        line = (
            f"- {_code(name)} ({settings.adaptation}; {adapted.head_kind} head; {adapted.made_as}; "
            f"licence: {_plain(made_by['licence'])}; pretrained on: {corpora})"
        )
        if settings.builds_on_weights and settings.weights not in (None, RANDOM):
            line += f". Its weights are not in the bundle but read from {_code(settings.weights)}"
        elif settings.builds_on_weights and made_by.get("weight_files"):
            line += ". Its weights are not in the bundle but in an installed package"
        used.append(line)
    for name, made_by in facts["experts"].items():
        if bundle.task.name in made_by.get("no_output_for", ()):
            used.append(
                f"- {_code(name)} has no output: it detects R-peaks, from which the labels come"
            )
    table = [
        f"| {METRIC_NAMES[metric]} | {with_interval(scores.get(metric))} |"
        for metric in metrics_of(task, {"ensemble": scores})
    ]
    return "\n".join(
        [
            f"# {_plain(task.name)}",
            "",
            f"Answers with {answer}, from a 12-lead ECG of 10 s.",
            "",
            f"Trained on {facts['trained_on']}: {facts['n_training']:,} records, source "
            f"{_code(facts['source'])}, record store {facts['records'][:12]}, commit "
            f"{facts['commit'] or 'unknown (not a git checkout)'}. The settings are in "
            "`bundle.json`.",
            "",
            "## Experts",
            "",
            *used,
            "",
            "## Results",
            "",
            f"{results['n']:,} labelled records, cross-validated by group: mean over "
            f"{folds_named(facts.get('config', {}))} [95 % interval]. These are results of the "
            f"procedure; this bundle is the procedure on all groups. {interval_note(results)}",
            "",
            "| metric | deployed |",
            "|---|---|",
            *table,
            "",
            decision_sentence(results["decisions"]),
            answers_note(task, results),
            *comparison_sentences(task, results["comparisons"]),
            "",
            "## Intended use",
            "",
            "Research on records like those it was trained on: the same kind of patients, devices "
            "and labels. Validate it on your own records first: `ray_jobs/evaluate.py`.",
            "",
            "## Limits",
            "",
            "Not a medical device, and not for decisions about a patient. Intervals say what "
            "other patients of the same kind would change, not what another hospital would. "
            "Where a finding is more or less common than among the training groups, stated "
            "probabilities are off. Labels are those of the corpus, with its mistakes.",
            "",
            *_privacy(bundle),
        ]
    )
