"""Figures of a gate search: how it went, and what mattered in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from enecg.evaluation.figures import BLUE, GREY, RED, WIDTH, label, svg
from enecg.signals import LEADS

LOSS = "relative_to_uniform"
ORDERED = ("dropout", "learning_rate", "weight_decay")
"""What is drawn from a range; everything else is a choice among names."""
NAMED = (
    "leads", "experts", "encoder", "joined", "depth", "width", "temperature", "top_k",
    "weights_per", "mix", "balance", "epochs",
)  # fmt: skip
SHOWN = 12


def search_figures(trials: pd.DataFrame, experts: Sequence[str]) -> dict[str, bytes]:
    """Draw a search; trials that were stopped early, having no loss, are left out.

    Parameters
    ----------
    trials : DataFrame
        What `search.trials_table` gives: the plain gates first.
    experts : sequence of str

    Returns
    -------
    dict of str to bytes
        Caption → SVG; only what can be drawn: importance needs some trials that differ.
    """
    finished = trials[trials["finished"]]
    drawn = finished[finished["epochs"] > 0]  # what is plain has none
    figures = {
        "Loss of every finished trial over that of the experts' plain mean, mean over tasks and "
        "scopes (out-of-fold, on training groups), and the best so far.": _progress(finished)
    }
    if importance := parameter_importance(drawn):
        figures["What the loss depended on: shares of its variance (fANOVA)."] = _bars(importance)
    if drawn["leads"].nunique() > 1:
        by_leads = {str(name): of[LOSS].to_numpy() for name, of in drawn.groupby("leads")}
        ranked = sorted(by_leads, key=lambda name: float(np.median(by_leads[name])))[:SHOWN]
        figures["Loss by the leads that a gate looks at; line: median."] = _strips(
            {name: by_leads[name] for name in ranked}
        )
    if drawn["leads"].nunique() > SHOWN:  # a dot or two for each says little
        by_lead = _with_and_without(drawn, "leads", LEADS)
        figures["Loss with and without each lead; line: median."] = _strips(by_lead)
    if len(experts) > 1:
        by_expert = _with_and_without(drawn, "experts", experts)
        figures["Loss with and without each expert; line: median."] = _strips(by_expert)
    return figures


def _with_and_without(
    drawn: pd.DataFrame, column: str, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Losses of the trials whose choice has a name in it, and of those whose has not."""
    member = {name: drawn[column].map(lambda text, n=name: n in text.split("+")) for name in names}
    return {
        f"{'with' if there else 'without'} {name}": drawn.loc[mask == there, LOSS].to_numpy()
        for name, mask in member.items()
        for there in (True, False)
        if (mask == there).any()
    }


def parameter_importance(trials: pd.DataFrame) -> dict[str, float]:
    """Return how much of the loss's variance each parameter explains, largest first.

    fANOVA (Hutter et al., ICML 2014), by Optuna. Empty with fewer than 8 trials, or where all
    have the same loss.
    """
    varied = [name for name in (*NAMED, *ORDERED) if trials[name].nunique() > 1]
    if len(trials) < 8 or not varied or np.ptp(trials[LOSS]) == 0:
        return {}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(trials[name].min(), trials[name].max())
        if name in ORDERED
        else optuna.distributions.CategoricalDistribution(sorted(trials[name].unique().tolist()))
        for name in varied
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row in trials.to_dict("records"):
        study.add_trial(
            optuna.trial.create_trial(
                params={name: row[name] for name in varied},
                distributions=distributions,
                value=float(row[LOSS]),
            )
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found: dict[str, float] = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return found


def _progress(finished: pd.DataFrame) -> bytes:
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    axes = figure.add_subplot()
    plain = (finished["epochs"] == 0).to_numpy()
    number, loss = finished["trial"].to_numpy(), finished[LOSS].to_numpy()
    axes.plot(number[plain], loss[plain], "o", color=GREY, ms=5, label="plain: nothing looked at")
    axes.plot(number[~plain], loss[~plain], "o", color=BLUE, ms=4, alpha=0.6, label="gate")
    best = np.minimum.accumulate(loss)
    axes.step(number, best, color=RED, lw=1.4, where="post", label="best so far")
    # A few trials that went wrong must not squeeze the rest into a line.
    top = float(np.quantile(loss, 0.9))
    axes.set_ylim(best[-1] - 0.1 * (top - best[-1] + 1e-3), top + 0.15 * (top - best[-1] + 1e-3))
    axes.set(xlabel="Trial", ylabel="Loss ÷ plain mean's")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    _clean(axes)
    return svg(figure)


def _bars(shares: Mapping[str, float]) -> bytes:
    figure = Figure(figsize=(WIDTH, 0.6 + 0.24 * len(shares)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(shares)), [*shares.values()], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(shares)), [name.replace("_", " ") for name in shares])
    axes.invert_yaxis()
    axes.set_xlabel("Importance")
    _clean(axes)
    return svg(figure)


def _strips(groups: Mapping[str, np.ndarray]) -> bytes:
    figure = Figure(figsize=(WIDTH, 0.7 + 0.26 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    for row, values in enumerate(groups.values()):
        axes.plot(values, np.full(len(values), row), "o", color=BLUE, ms=4, alpha=0.5)
        axes.plot([np.median(values)] * 2, [row - 0.35, row + 0.35], color=RED, lw=1.6)
    names = [label(f"{_short(name)} ({len(values)})") for name, values in groups.items()]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    everything = np.concatenate([*groups.values()])
    low, high = float(everything.min()), float(np.quantile(everything, 0.95))
    axes.set_xlim(low - 0.05 * (high - low + 1e-3), high + 0.1 * (high - low + 1e-3))
    axes.set_xlabel("Loss ÷ plain mean's")
    axes.grid(axis="x", color="#e5e7eb", lw=0.8)
    _clean(axes)
    return svg(figure)


def _short(name: str) -> str:
    parts = name.split("+")
    return "all twelve" if len(parts) == 12 else name


def _clean(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
