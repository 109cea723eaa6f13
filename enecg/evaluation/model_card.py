"""A bundle's model card: what it is, how good it was found to be, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from enecg.evaluation.wording import (
    METRIC_NAMES,
    comparison_sentences,
    decision_sentence,
    interval_note,
    metrics_of,
    with_interval,
)
from enecg.experts.corpora import overlap

if TYPE_CHECKING:
    from enecg.bundle import Bundle


def model_card(bundle: Bundle, results: Mapping[str, Any]) -> str:
    """Return a model card in Markdown.

    Parameters
    ----------
    bundle : Bundle
        The one that is trained on all groups.
    results : mapping
        The task's part of results.json.
    """
    task, facts = bundle.task, bundle.provenance
    scores = results["predictors"]["ensemble"]
    answer = {
        "regression": f"a value{f' in {task.unit}' if task.unit else ''}",
        "classification": f"one of {', '.join(task.classes)}, with probabilities",
        "multilabel": f"any of {', '.join(task.classes)}, with a probability each",
    }[task.kind]
    used = []
    for name, (settings, adapted) in bundle.experts.items():
        if name not in bundle.weighed:
            continue
        made_by = facts["experts"][name]
        corpora = ", ".join(made_by["pretraining_corpora"]) or "nothing"
        if overlap(made_by["pretraining_corpora"], facts["source"]):
            corpora += ", which shares records with these: results may flatter"
        line = (
            f"- `{name}` ({settings.adaptation}; {adapted.head_kind} head; {adapted.made_as}; "
            f"licence: {made_by['licence']}; pretrained on: {corpora})"
        )
        if settings.builds_on_weights and settings.weights is not None:
            line += f". Its weights are not in the bundle but read from `{settings.weights}`"
        used.append(line)
    table = [
        f"| {METRIC_NAMES[metric]} | {with_interval(scores.get(metric))} |"
        for metric in metrics_of(task, {"ensemble": scores})
    ]
    return "\n".join(
        [
            f"# {task.name}",
            "",
            f"Answers with {answer}, from a 12-lead ECG of 10 s.",
            "",
            f"Trained on {facts['trained_on']}: {facts['n_training']:,} records, source "
            f"`{facts['source']}`, record store {facts['records'][:12]}, commit "
            f"{facts['commit'] or 'unknown (not a git checkout)'}. The settings are in "
            "`bundle.json`.",
            "",
            "## Experts",
            "",
            *used,
            "",
            "## Results",
            "",
            f"{results['n']:,} labelled records, cross-validated by group: mean over folds [95 % "
            "interval]. These are results of the procedure; this bundle is the procedure on all "
            f"groups. {interval_note(results)}",
            "",
            "| metric | ensemble |",
            "|---|---|",
            *table,
            "",
            decision_sentence(results["decisions"]),
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
        ]
    )
