"""Items of reporting guidelines that a run can answer by itself.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. CLAIM: Mongan, Moy and Kahn, Radiology: Artificial
Intelligence 2020;2(2):e200029. Only items about data, models and figures are here; those about the
clinical question, the setting, ethics and funding are the authors' to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One item: its numbers in the guidelines (empty: not in that one), its topic, the answer."""

    tripod_ai: str
    claim: str
    topic: str
    answer: str


def reporting_items(
    results: Mapping[str, Any], store: Mapping[str, Any], n_groups: int, folds: int
) -> list[dict[str, str]]:
    """Return the answered items as JSON values.

    Parameters
    ----------
    results : mapping
        What results.json holds: ``config``, ``tasks``, ``experts``, ``hardware``, ``commit``.
    store : mapping
        The record store's ``dataset.json``.
    n_groups : int
        Groups that folds keep together.
    folds : int
        Outer folds.
    """
    config, counts = results["config"], store["counts"]
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in counts["rejected_by_reason"].items())
    changed = ", ".join(f"{n:,} {what}" for what, n in counts["changed"].items())
    labels = {
        name: f"{task['n']:,} of {counts['accepted']:,} records labelled"
        for name, task in results["tasks"].items()
    }
    ensemble = config["ensemble"]
    items = [
        Item("5a", "7", "Source of data", f"source {store['source']}"),
        Item(
            "20a", "33", "Flow of records",
            f"{counts['listed']:,} listed, {counts['accepted']:,} accepted, "
            f"{counts['rejected']:,} rejected{f' ({rejected})' if rejected else ''}",
        ),
        Item(
            "7", "9", "Preparation of data",
            "12 leads by name, 10 s, 500 Hz, stored as recorded; "
            f"changed: {changed or 'nothing'}; each expert's own filters and scaling follow",
        ),
        Item(
            "8a", "14", "Outcomes",
            "; ".join(f"{name}: {count}" for name, count in labels.items())
            + "; labels are the corpus's own",
        ),
        Item(
            "11", "13", "Missing data",
            "a record without a task's label is left out of that task; missing leads stay missing "
            "and reach each expert as such",
        ),
        Item(
            "10", "19", "Size",
            f"{counts['accepted']:,} records, {counts['subjects']:,} subjects, {n_groups:,} groups",
        ),
        Item(
            "12a", "20, 21", "Partitions",
            (
                f"published split `{config['fold_column']}`, {folds} folds"
                if config["fold_column"]
                else f"{folds} outer folds by hash of seed {config['seed']} and group (records of "
                "a subject and identical signals stay together)"
            )
            + (
                f", the whole repeated {config['repeats']} times with other folds"
                if config.get("repeats", 1) > 1
                else ""
            )
            + f", inner folds: {config['inner_folds']}; see folds.csv",
        ),
        Item(
            "12c", "22, 25, 26, 27", "Models",
            f"experts {', '.join(config['experts'])}; heads, gates, mixing weights, calibration "
            "and thresholds chosen on training groups alone, by nested cross-validation",
        ),
        Item(
            "12e", "28, 29", "Measures of performance",
            "mean over outer folds with 95 % intervals of the procedure; paired differences "
            "against plainer predictors",
        ),
        Item(
            "13", "", "Class imbalance",
            f"class weights: {config['stage1']['class_weights']}; thresholds for "
            f"{ensemble['threshold']}",
        ),
        Item(
            "15", "", "Output of the model",
            "values with a 90 % prediction interval; calibrated probabilities, and an answer by "
            "threshold",
        ),
        Item("18f", "23, 41", "Code", f"commit {results['commit'] or 'unknown'}"),
        Item(
            "23a", "35, 36", "Performance",
            "`tasks` of results.json; every prediction in predictions.parquet",
        ),
        Item(
            "22", "", "The model itself",
            "bundle/<task>: all tensors and settings, with a model card",
        ),
    ]  # fmt: skip
    seen = {name: one["seen_in_pretraining"] for name, one in results["experts"].items()}
    flagged = ", ".join(f"{name} ({', '.join(on)})" for name, on in seen.items() if on)
    items.append(
        Item(
            "",
            "24",
            "Pretraining",
            f"experts pretrained on corpora that share records with these: {flagged or 'none'}",
        )
    )
    return [item._asdict() for item in items]
