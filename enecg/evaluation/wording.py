"""How results are put into words: order of metrics, digits, marks and the summary sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enecg.evaluation.metrics import (
    CLASSIFICATION_METRICS,
    LOWER_IS_BETTER,
    REGRESSION_METRICS,
    main_metric,
)
from enecg.evaluation.operating_points import RATES
from enecg.tasks import Task

NOT_EXPERTS = (
    "dummy", "uniform", "stacking", "absolute_stacking", "gate", "ensemble", "deployed"
)  # fmt: skip
METRIC_NAMES = {
    "mae": "MAE",
    "mse": "MSE",
    "r2": "R²",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "accuracy": "Accuracy",
    "ece": "ECE",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
}

Predictors = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""The ``predictors`` of one task in results.json: name → metric → `intervals.Summary`."""


def metrics_of(task: Task, predictors: Predictors) -> list[str]:
    """Return the metrics that any predictor of a task has, the main one first."""
    known = REGRESSION_METRICS if task.kind == "regression" else (*CLASSIFICATION_METRICS, *RATES)
    main = main_metric(task)
    ordered = [main, *(metric for metric in known if metric != main)]
    return [m for m in ordered if any(m in scores for scores in predictors.values())]


def number(value: float) -> str:
    """Write a metric with three significant digits, or three decimals where it is at most 1."""
    size = abs(value)
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size > 1 else 3}f}"


def with_interval(entry: Mapping[str, Any] | None) -> str:
    """Write a metric as ``mean [low, high]``, the procedure's interval.

    Without an interval, with what explains that: the labelled records and the events (see
    `events`), or in how many folds the metric is defined; for ``ece`` its null band. A dash where
    the metric does not apply.
    """
    if entry is None:
        return "–"
    mean = number(entry["mean"])
    if "ci95" in entry:
        low, high = entry["ci95"]
        folds = f" in {entry['defined_in']} folds" if "defined_in" in entry else ""
        return f"{mean} [{number(low)}, {number(high)}]{folds}"
    reasons = []
    if "null_band" in entry:
        low, high = entry["null_band"]
        reasons.append(f"if calibrated: {number(low)}–{number(high)}")
    elif "n" in entry:
        reasons.append(f"n {entry['n']:,}")
    if "defined_in" in entry:
        reasons.append(f"in {entry['defined_in']} fold{'s' * (entry['defined_in'] > 1)}")
    elif "events" in entry:
        reasons.append(f"events {entry['events']}")
    return f"{mean} ({', '.join(reasons)})" if reasons else mean


def best(metric: str, predictors: Predictors) -> str | None:
    """Return the predictor with the best mean of a metric (the first of equals), if any has it."""
    having = {name: m[metric]["mean"] for name, m in predictors.items() if metric in m}
    if not having:
        return None
    return (min if metric in LOWER_IS_BETTER else max)(having, key=having.__getitem__)


def seen_in_pretraining(results: Mapping[str, Any]) -> dict[str, str]:
    """Return, of the experts whose pretraining may have included these records, on which corpora.

    Parameters
    ----------
    results : mapping
        What results.json holds.
    """
    experts = results.get("experts", {})
    seen = {name: facts["seen_in_pretraining"] for name, facts in experts.items()}
    return {name: ", ".join(corpora) for name, corpora in seen.items() if corpora}


def pretraining_note(results: Mapping[str, Any]) -> str:
    """Say what the mark † means, or nothing where no expert bears it."""
    named = [f"{name} ({corpora})" for name, corpora in seen_in_pretraining(results).items()]
    if not named:
        return ""
    return (
        f"† pretrained on a corpus that shares records with this one: {'; '.join(named)}. "
        "Its scores, and those of what mixes it in, may flatter it."
    )


def no_output_note(results: Mapping[str, Any]) -> str:
    """Say which experts have no output for which tasks, or nothing where all answer all."""
    lacking = {
        name: facts["no_output_for"]
        for name, facts in results.get("experts", {}).items()
        if facts.get("no_output_for")
    }
    said = [f"{name} has none for {', '.join(tasks)}" for name, tasks in lacking.items()]
    if not said:
        return ""
    return (
        f"Experts without an output: {'; '.join(said)}. They detect R-peaks, from which the labels "
        "of these tasks come."
    )


def summary(task: Task, predictors: Predictors) -> str:
    """Say in plain words how the ensemble stands beside the best single expert.

    Parameters
    ----------
    task : Task
        The task.
    predictors : mapping
        Its predictors in results.json.
    """
    metric = main_metric(task)
    name, unit = METRIC_NAMES[metric], f" {task.unit}" if task.unit else ""
    experts = {k: v for k, v in predictors.items() if k not in NOT_EXPERTS}
    expert = best(metric, experts)
    if expert is None or metric not in predictors.get("ensemble", {}):
        return f"{name} is not available for both the ensemble and an expert."
    ours, theirs = predictors["ensemble"][metric], experts[expert][metric]
    gain = ours["mean"] - theirs["mean"]
    better = gain < 0 if metric in LOWER_IS_BETTER else gain > 0
    verdict = "is better" if better else "is worse" if gain else "is the same"
    size = number(abs(gain)) if abs(gain) >= 0.0005 else "less than 0.001"
    sentence = (
        f"The ensemble's {name} is {with_interval(ours)}{unit}; the best expert alone, {expert}, "
        f"has {with_interval(theirs)}{unit}. The ensemble's mean {verdict}"
        f"{f' by {size}{unit}' if gain else ''}; whether that is more than chance is said below."
    )
    if metric in predictors.get("dummy", {}):
        floor = with_interval(predictors["dummy"][metric])
        sentence += f" Without looking at any ECG (dummy): {floor}{unit}."
    return sentence


_AGAINST = {
    "best_expert": "the best expert",
    "uniform": "the uniform mean",
    "stacking": "stacking",
    "absolute_stacking": "stacking by the least absolute error",
}
_GATE = {
    "better": "beats the best plain combination",
    "worse": "is worse than the best plain combination",
    "no difference shown": "does not beat the best plain combination",
    "the same": "says the same as the best plain combination",
}


def comparison_sentences(task: Task, comparisons: Mapping[str, Any]) -> list[str]:
    """Say how the ensemble, and the gate, compare with what is plainer, one sentence for each.

    Parameters
    ----------
    comparisons : mapping
        What `comparisons.compare` gives.
    """
    sentences = []
    for name, found in comparisons.items():
        if name == "gate":
            verb = _GATE[found["verdict"]]
            if found["verdict"] != "the same" and "ci95" not in found["difference"]:
                verb = "is not shown to beat the best plain combination"
            start = f"The gate {verb} ({found['against']})"
        else:
            which = f" ({found['against']})" if name == "best_expert" else ""
            start = f"Against {_AGAINST[name]}{which}"
        if found["verdict"] == "the same":
            sentences.append(f"{start}{'.' if name == 'gate' else ': the same predictions.'}")
            continue
        difference = found["difference"]
        interval, reason = "", ""
        if "ci95" in difference:
            low, high = difference["ci95"]
            interval = f" [{signed(low)}, {signed(high)}]"
        else:
            reason = f" (too few events for an interval: {difference['events']})"
        sentences.append(
            f"{start}: {METRIC_NAMES[found['metric']]} differs by "
            f"{signed(difference['mean'])}{interval}"
            f"{f' {task.unit}' if task.unit else ''} – {found['verdict']}{reason}."
        )
    return sentences


def folds_named(config: Mapping[str, Any]) -> str:
    """Say what means are over: ``folds``, or those of all repeats.

    Parameters
    ----------
    config : mapping
        The settings of a run, as in results.json; of none, where a finished bundle is judged.
    """
    repeats = config.get("repeats", 1)
    return "folds" if repeats == 1 else f"the folds of {repeats} repeats"


def interval_note(results: Mapping[str, Any]) -> str:
    """Say what the intervals in a table mean.

    Parameters
    ----------
    results : mapping
        What results.json holds, or what ``evaluate.py`` writes of a finished bundle.
    """
    of = (
        "this bundle on other records of the same kind"
        if "bundle" in results
        else "the procedure, that is, with other patients of the same kind and all models trained "
        "anew"
    )
    return (
        f"Intervals: 95 %, for {of}. A fold with fewer than 10 events (patients of the rarest "
        "class; for values, patients) gives no interval; n and the events stand in its place."
    )


def answers_note(task: Task, outcome: Mapping[str, Any]) -> str:
    """Say how `deployed` answers; for values, what its prediction intervals are worth.

    Parameters
    ----------
    outcome : mapping
        The task's part of results.json.
    """
    if task.kind != "regression":
        found = outcome.get("decisions", {}).get("all", {}).get("thresholds")
        if not found:
            return ""
        named = ", ".join(f"{name} {number(value)}" for name, value in found.items())
        return f"`deployed` answers by threshold; those of the bundle: {named}."
    covered = outcome.get("prediction_interval")
    if covered is None:
        return ""
    unit = f" {task.unit}" if task.unit else ""
    return (
        f"Prediction intervals for {covered['share']:.0%} of records held "
        f"{covered['coverage']:.1%} of the {covered['n']:,} test records; mean width "
        f"{number(covered['mean_width'])}{unit}."
    )


def signed(value: float) -> str:
    """Write a difference with its sign."""
    size = abs(value)
    digits = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.01 else 4
    return f"{value:+.{digits}f}".replace("-", "−")


def decision_sentence(decisions: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what the rule took for the bundle, and what for the outer folds.

    Parameters
    ----------
    decisions : mapping
        By scope, as in results.json.
    """
    bundled = decisions["all"]
    gated = bundled["way"] in ("greedy", "best trials")
    gain = bundled["gain_of_gates"]
    margin = (
        f"on training groups the gates' loss is {signed(abs(gain)).removeprefix('+')} "
        f"{'lower' if gain > 0 else 'higher'} than the best plain way's, standard error "
        f"{bundled['standard_error']:.3g}"
    )
    if gated:
        text = f"The bundle's ensemble is of gates ({bundled['way']}): {margin}."
    else:
        text = (
            f"The gates are not clearly better than a plain baseline, so the rule takes that: the "
            f"bundle's ensemble is `{bundled['way']}` ({margin})."
        )
    others = [found["way"] for scope, found in decisions.items() if scope != "all"]
    counts = ", ".join(f"{way} {others.count(way)}" for way in dict.fromkeys(others))
    if any(found["way"] == "absolute_stacking" for found in decisions.values()):
        counts += " (absolute_stacking: one weight per expert, by the least absolute error)"
    plain = [one.get("plain_gate", "") for scope, one in decisions.items() if scope != "all"]
    best = [name for name in plain if name]
    named = ", ".join(f"{name} {best.count(name)}" for name in dict.fromkeys(best))
    row = (
        f" In {len(best)} of {len(plain)} outer folds the best trial was a fixed mixture, not a "
        f"gate; the row `gate` shows that ({named})."
        if best
        else ""
    )
    return (
        f"{text} In the outer folds, each deciding for itself: {counts}.{row} "
        f"Calibration: {bundled['calibration']}."
    )
