"""The report's figures, each as the bytes of an SVG file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from io import BytesIO
from textwrap import wrap

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from enecg.evaluation.metrics import Numbers, labelled, main_metric
from enecg.evaluation.wording import METRIC_NAMES, NOT_EXPERTS, Predictors, number
from enecg.printable import printable
from enecg.tasks import Task

# A $ in a class's name is a $, not the beginning of a formula.
mpl.rcParams["text.parse_math"] = False

BLUE, GREY, RED = "#2b6cb0", "#8a8f98", "#b83280"
WIDTH = 6.4  # inches; the report's column
LABEL_WIDTH = 24  # characters


def metric_figure(task: Task, predictors: Predictors) -> bytes:
    """Draw the main metric of every predictor with its 95 % interval, where it has one.

    Experts are grey, what combines them is blue, the dummy is a dotted line.
    """
    metric = main_metric(task)
    entries = {name: scores[metric] for name, scores in predictors.items() if metric in scores}
    dummy = entries.pop("dummy", None)
    figure = Figure(figsize=(WIDTH, 0.75 + 0.3 * max(len(entries), 1)), layout="constrained")
    axes = figure.add_subplot()
    for row, (name, entry) in enumerate(entries.items()):
        color = BLUE if name in NOT_EXPERTS else GREY
        if "ci95" in entry:
            axes.plot(entry["ci95"], [row, row], color=color, lw=2, solid_capstyle="round")
        axes.plot(entry["mean"], row, "o", color=color, ms=6)
        axes.plot(entry["folds"], [row] * len(entry["folds"]), "|", color=color, ms=7, alpha=0.7)
        axes.annotate(
            number(entry["mean"]),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            fontsize=9,
            verticalalignment="center",
        )
    if dummy is not None:
        axes.axvline(dummy["mean"], color=RED, ls=":", lw=1.4)
        axes.annotate(
            f"dummy {number(dummy['mean'])}",
            (dummy["mean"], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            color=RED,
            horizontalalignment="center",
        )
    axes.set_yticks(range(len(entries)), map(label, entries))
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlabel(label(f"{METRIC_NAMES[metric]}{f' ({task.unit})' if task.unit else ''}"))
    axes.grid(axis="x", color="#e5e7eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return svg(figure)


def prediction_figure(task: Task, truth_B: Numbers, prediction_BC: Numbers) -> bytes:
    """Draw out-of-sample predictions: a scatter for a number, a confusion matrix for classes.

    Of several labels, each one's area under the ROC curve.

    Parameters
    ----------
    task : Task
        What is predicted.
    truth_B : float array, shape (B,), or (B, C) for several labels
        Labels as for `metrics.score`; records without one are left out.
    prediction_BC : float array, shape (B, C)
        Predictions as for `metrics.score`.
    """
    truth, prediction = labelled(task, truth_B, prediction_BC)
    if task.kind == "regression":
        return _scatter(task, truth, prediction[:, 0])
    if task.kind == "multilabel":
        return _areas(task, truth > 0.5, prediction)
    counts = np.zeros((task.width, task.width), dtype=np.int64)
    np.add.at(counts, (truth.astype(np.int64), prediction.argmax(axis=1)), 1)
    return _confusion(task, counts)


def weight_figure(mean_weights: Mapping[str, float]) -> bytes:
    """Draw the mean weight that the gate gives each expert."""
    figure = Figure(figsize=(WIDTH, 0.6 + 0.3 * len(mean_weights)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(mean_weights)), [*mean_weights.values()], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axes.set_yticks(range(len(mean_weights)), map(label, mean_weights))
    axes.invert_yaxis()
    axes.set_xlabel("Mean gate weight")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def reliability_figure(task: Task, truth_B: Numbers, prediction_BC: Numbers) -> bytes:
    """Draw how often what is predicted with some probability comes true.

    Of two classes, the second one; of more, the most probable one; of several labels, all of
    them together. Bins hold equally many predictions.

    Parameters
    ----------
    task : Task
        Of classes or labels.
    truth_B, prediction_BC
        As for `prediction_figure`.
    """
    truth, prediction = labelled(task, truth_B, prediction_BC)
    if task.kind == "multilabel":
        stated, true = prediction.ravel(), truth.ravel() > 0.5
    elif task.width == 2:
        stated, true = prediction[:, 1], truth == 1
    else:
        stated, true = prediction.max(axis=1), prediction.argmax(axis=1) == truth
    order = np.argsort(stated, kind="stable")
    bins = [part for part in np.array_split(order, min(10, max(1, order.size // 15))) if part.size]
    figure = Figure(figsize=(3.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for part in bins:
        share, n = true[part].mean(), part.size
        # Wilson's interval of a share (1927).
        middle = (share + 1.92 / n) / (1 + 3.84 / n)
        half = 1.96 * np.sqrt(share * (1 - share) / n + 0.96 / n**2) / (1 + 3.84 / n)
        place = stated[part].mean()
        axes.plot([place] * 2, [middle - half, middle + half], color=BLUE, lw=1.2)
        axes.plot(place, share, "o", color=BLUE, ms=5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel="Predicted probability", ylabel="Share that is true")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _scatter(task: Task, truth: Numbers, predicted: Numbers) -> bytes:
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    both = np.concatenate([truth, predicted]) if truth.size else np.array([0.0, 1.0])
    edge = 0.04 * (np.ptp(both) or 1.0)
    limits = (both.min() - edge, both.max() + edge)
    # Dots are pixels in the SVG: thousands of paths would make the report slow to open.
    alpha = float(np.clip(60 / max(truth.size, 1) ** 0.6, 0.05, 0.7))
    axes.plot(truth, predicted, ".", color=BLUE, ms=5, mew=0, alpha=alpha, rasterized=True)
    axes.plot(limits, limits, color=GREY, lw=1, ls="--")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(label(f"{task.name}: label ({task.unit})"))
    axes.set_ylabel(label(f"Predicted ({task.unit})"))
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _confusion(task: Task, counts: np.ndarray) -> bytes:
    names = [label(name) for name in task.classes]
    longest = max(len(line) for name in names for line in name.splitlines())
    turned = 90 if longest > 12 else 30 if task.width > 3 else 0
    side = 1.8 + 0.55 * task.width + 0.14 * max(0, longest - 12)
    figure = Figure(figsize=(side, side - 0.4), layout="constrained")
    axes = figure.add_subplot()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{share[row, column]:.0%}",
            fontsize=8,
            color="white" if share[row, column] > 0.55 else "#1f2937",
            horizontalalignment="center",
            verticalalignment="center",
        )
    axes.set_xticks(range(task.width), names, rotation=turned)
    axes.set_yticks(range(task.width), names)
    axes.set(xlabel="Predicted", ylabel="Label")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return svg(figure)


def _areas(task: Task, truth_BC: np.ndarray, prediction_BC: Numbers) -> bytes:
    figure = Figure(figsize=(4.8, 0.8 + 0.35 * task.width), layout="constrained")
    axes = figure.add_subplot()
    for row, (truth_B, predicted_B) in enumerate(zip(truth_BC.T, prediction_BC.T, strict=True)):
        if 0 < truth_B.sum() < truth_B.size:
            area = roc_auc_score(truth_B, predicted_B)
            axes.plot([0.5, area], [row, row], color=BLUE, lw=2)
            axes.plot(area, row, "o", color=BLUE, ms=6)
            axes.annotate(
                f"{area:.3f}",
                (1.01, row),
                xycoords=("axes fraction", "data"),
                fontsize=9,
                verticalalignment="center",
            )
    counts = truth_BC.sum(axis=0)
    names = [label(f"{name} ({n:,})") for name, n in zip(task.classes, counts, strict=True)]
    axes.set_yticks(range(task.width), names)
    axes.set_ylim(task.width - 0.5, -0.5)
    axes.set_xlabel("AUROC of each label (records that have it)")
    axes.grid(axis="x", color="#e5e7eb", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return svg(figure)


def label(text: str) -> str:
    """Return a name as a figure shows it: in lines that leave room for the figure itself."""
    return "\n".join(wrap(printable(text), LABEL_WIDTH, break_on_hyphens=False))


def svg(figure: Figure) -> bytes:
    """Return a figure as an SVG file; the same figure gives the same bytes."""
    file = BytesIO()
    # A fixed salt and no date: the same results give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "enecg", "font.size": 10}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in letters of no font here
        figure.savefig(file, format="svg", dpi=150, metadata={"Date": None})
    return file.getvalue()
