"""The end of a run: the ensemble chosen, refitted, judged against plainer predictors, bundled."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from enecg import experts
from enecg.bundling import write_bundles
from enecg.cluster import peak_memory_mb
from enecg.config import OTHER_PREDICTORS, Config
from enecg.errors import JobFailed
from enecg.evaluation.comparisons import compare
from enecg.evaluation.kept_predictions import FILE, OutOfFold, write_predictions
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.predictors import judge_predictors
from enecg.evaluation.report import write_report
from enecg.evaluation.reporting import reporting_items
from enecg.evaluation.thresholds import answers
from enecg.experiment import Experiment
from enecg.experts.corpora import overlap
from enecg.files import fingerprint, write_json
from enecg.gate.combine import dummy
from enecg.gate.ensemble import Chosen, GateEnsemble, Key, TrainedGates, choose, refit_chosen
from enecg.gate.network import constant_gate
from enecg.gate.search import TABLE, found_trials, gate_fingerprint, gate_folder, load_arrays
from enecg.gate.trial import Arrays
from enecg.nested import ALL, Fit
from enecg.progress import say
from enecg.provenance import commit, hardware
from enecg.records.subjects import subjects_note
from enecg.run_folder import begin, facts_of, finish, is_done
from enecg.signals import LEADS
from enecg.stage1.jobs import expert_folder
from enecg.tasks import Task, known

Predictions = dict[str, np.ndarray]
REVISION = 3
"""Raised whenever results.json says other things of the same predictions: it is written anew."""


def results_path(config: Config) -> Path:
    """Return where a run's results stand."""
    return Path(config.run_dir) / "results.json"


def ensemble_and_evaluate(experiment: Experiment) -> Path:
    """Bring results, report and bundles up to date; return the path of results.json.

    Raises
    ------
    JobFailed
        The gate search is not finished for these settings.
    """
    config = experiment.config
    run, folder = Path(config.run_dir), Path(config.run_dir) / "ensemble"
    searched = gate_fingerprint(experiment)
    if not is_done(gate_folder(config), searched):
        raise JobFailed(
            f"no finished gate search for these settings in {run}; run search_gate.py first"
        )
    print_ = fingerprint(
        {"search": searched, "ensemble": config.ensemble.model_dump(), "revision": REVISION}
    )
    if is_done(folder, print_):
        say("ensemble: done before, kept")
        return results_path(config)
    started, clock = datetime.now(UTC), time.monotonic()
    begin(folder, print_)
    arrays, trials = load_arrays(experiment), found_trials(config)
    chosen = choose(gate_folder(config), trials, arrays, config.ensemble)
    gates, worker_peak = refit_chosen(chosen, [trial.choice for trial in trials], arrays)

    summaries: dict[str, Any] = {}
    out_of_sample: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    gate_weights: dict[str, dict[str, float]] = {}
    kept: list[OutOfFold] = []
    for task in experiment.tasks:
        said = predict_test_groups(task, arrays, chosen, gates)
        predictions, weights_NE = said.by_predictor, said.weights_NE
        say(f"{task.name}: intervals")
        summaries[task.name] = judge(task, said, arrays, chosen)
        out_of_sample[task.name] = (experiment.targets[task.name], predictions["ensemble"])
        gate_weights[task.name] = dict(
            zip(arrays.experts, weights_NE.mean(0).tolist(), strict=True)
        )
        kept.append(
            OutOfFold(
                task,
                0,
                np.array(experiment.record_ids),
                arrays.nested.group_N,
                np.array(arrays.nested.outer_names)[arrays.nested.outer_N],
                experiment.targets[task.name],
                predictions,
                weights_NE,
                said.answers_N,
            )
        )
    loaded = {
        name: experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
        for name, settings in config.experts.items()
    }
    made_by = {
        name: expert.provenance() | {"licence": expert.spec.licence}
        for name, expert in loaded.items()
    }
    write_predictions(run / FILE, kept, arrays.experts)
    write_bundles(experiment, arrays, chosen, gates, made_by, summaries)
    facts = _facts_of_stages(config)
    results: dict[str, Any] = {
        "commit": commit(),
        "started": started.isoformat(timespec="seconds"),
        "hardware": hardware(),
        "seconds": {
            **{stage: fact["seconds"] for stage, fact in facts.items()},
            "ensemble": round(time.monotonic() - clock, 1),
        },
        "peak_memory_mb": {
            "driver": round(
                max([peak_memory_mb(), *(f["driver_peak_memory_mb"] for f in facts.values())])
            ),
            "largest_worker": round(
                max([worker_peak, *(f["worker_peak_memory_mb"] for f in facts.values())])
            ),
        },
        "config": config.model_dump(mode="json"),
        "experts": {
            name: facts | {"seen_in_pretraining": _overlap(facts, experiment)}
            for name, facts in made_by.items()
        },
        **_subjects(experiment.store.description),
        "tasks": summaries,
    }
    results["reporting"] = reporting_items(
        results,
        experiment.store.description,
        len(set(arrays.nested.group_N)),
        len(arrays.nested.outer_names),
    )
    write_json(results_path(config), results)
    write_report(
        run / "report.html",
        results,
        experiment.tasks,
        out_of_sample=out_of_sample,
        gate_weights=gate_weights,
        trials=pd.read_parquet(gate_folder(config) / TABLE),
        drawings=_example(experiment),
    )
    left = [results_path(config), run / "report.html", run / FILE]
    left += [path for path in sorted((run / "bundle").rglob("*.*")) if path.suffix != ".md"]
    finish(folder, print_, [os.path.relpath(path, folder) for path in left if path.is_file()])
    return results_path(config)


@dataclass(frozen=True)
class TestPredictions:
    """What every predictor says of every record, learned without the record's outer fold.

    Attributes
    ----------
    by_predictor : dict of str to float32 array, shape (N, C)
        Each expert alone, ``uniform``, ``stacking``, ``absolute_stacking`` (values only), ``gate``,
        ``ensemble``, ``deployed``, ``dummy``. ``deployed`` has the ensemble's probabilities; it
        answers by threshold.
    weights_NE : float32 array, shape (N, E)
        The ensemble's weights.
    answers_N : array or None
        What ``deployed`` answers: see `thresholds.answers`. None for values.
    half_width_N : float array, shape (N,)
        Half the width of each prediction interval; NaN where there is none.
    thresholds_NC : float array, shape (N, C)
        What ``deployed`` answers by; 0.5 where there is no threshold.
    """

    __test__ = False  # no class of tests, for pytest

    by_predictor: Predictions
    weights_NE: np.ndarray
    answers_N: np.ndarray | None
    half_width_N: np.ndarray
    thresholds_NC: np.ndarray


def predict_test_groups(
    task: Task, arrays: Arrays, chosen: dict[Key, Chosen], gates: TrainedGates
) -> TestPredictions:
    """Predict every record once, by what was learned without its outer fold.

    A predictor that has no output for a record (none of its experts has one) counts as if it said
    what ``dummy`` says.
    """
    n, each = len(arrays.view_NLT), arrays.experts
    predictions: Predictions = {}
    weights_NE = np.zeros((n, len(each)), dtype=np.float32)
    half_width_N = np.full(n, np.nan)
    thresholds_NC = np.full((n, task.width), 0.5)
    answers_N: np.ndarray | None = None
    if task.kind != "regression":
        several = task.kind == "multilabel"
        answers_N = np.zeros((n, task.width) if several else n, dtype=bool if several else np.int64)
    missing: Counter[str] = Counter()
    for number, scope in enumerate(arrays.nested.scopes):
        if scope == ALL:
            continue
        training, test = arrays.nested.training(scope), arrays.nested.test(scope)
        filler_BC = dummy(task, arrays.targets[task.name][training], int(test.sum()))
        choice = chosen[task.name, scope]
        features = arrays.features.get(Fit(scope, None).key)
        said: Predictions = {"dummy": filler_BC}
        for name, mixture in _mixtures((task.name, scope), choice, each, gates).items():
            predicted_BC, weights_BE = mixture.predict(
                arrays.view_NLT[test],
                arrays.outputs[task.name][number, test],
                each,
                task,
                None if features is None else features[test],
            )
            lacking = np.isnan(predicted_BC)
            missing[name] += int(lacking.any(1).sum())
            said[name] = np.where(lacking, filler_BC, predicted_BC)
        weights_NE[test] = weights_BE  # the ensemble's: it is the last
        said["deployed"] = said["ensemble"]
        if answers_N is not None:
            answers_N[test] = answers(task, said["deployed"], choice.thresholds)
            thresholds_NC[test] = choice.thresholds or 0.5
        if choice.half_width is not None:
            half_width_N[test] = choice.half_width
        for name, predicted_BC in said.items():
            empty = np.zeros((n, task.width), dtype=np.float32)
            predictions.setdefault(name, empty)[test] = predicted_BC
    for name, count in missing.items():
        if count:
            say(f"{task.name}: {name} has no output for {count:,} records; counted as the dummy's")
    order = [*each, *(name for name in OTHER_PREDICTORS if name in predictions)]
    by_predictor = {name: predictions[name] for name in order}
    return TestPredictions(by_predictor, weights_NE, answers_N, half_width_N, thresholds_NC)


def _mixtures(
    key: Key, choice: Chosen, each: list[str], gates: TrainedGates
) -> dict[str, GateEnsemble]:
    """Return a scope's predictors by name; the ensemble is the last."""
    plain = {
        **{name: {name: 1.0} for name in each},
        "uniform": dict.fromkeys(each, 1.0),
        "stacking": choice.stacking,
    }
    if choice.absolute_stacking:
        plain["absolute_stacking"] = choice.absolute_stacking
    return {
        **{name: GateEnsemble([(1, constant_gate(given))]) for name, given in plain.items()},
        "gate": GateEnsemble([(1, gates[*key, choice.best])]),
        "ensemble": choice.ensemble(key, gates),
    }


def judge(
    task: Task, said: TestPredictions, arrays: Arrays, chosen: dict[Key, Chosen]
) -> dict[str, Any]:
    """Return what results.json says of one task."""
    truth_N, nested = arrays.targets[task.name], arrays.nested
    predictions = said.by_predictor
    where = (nested.outer_N, nested.group_N)
    judged = judge_predictors(
        task,
        truth_N,
        predictions,
        said.answers_N,
        said.half_width_N,
        *where,
        seed=arrays.seed,
        thresholds_NC=said.thresholds_NC,
    )
    return {
        **judged,
        "n": int(known(truth_N).sum()),
        "comparisons": compare(
            task,
            truth_N,
            predictions,
            judged["predictors"],
            arrays.experts,
            *where,
            seed=arrays.seed,
        ),
        "decisions": {
            scope: {
                "way": choice.way,
                "losses": choice.losses,
                "gain_of_gates": choice.gain,
                "standard_error": choice.error,
                "calibration": choice.calibration.kind,
                "plain_gate": choice.best_plain,
                "thresholds": dict(zip(task.classes, choice.thresholds, strict=False)),
            }
            for (name, scope), choice in chosen.items()
            if name == task.name
        },
    }


def _subjects(description: dict[str, Any]) -> dict[str, Any]:
    """What results.json says on subjects; nothing for a store that does not know."""
    if "subjects" not in description:
        return {}
    note = subjects_note(description)
    return {"subjects": {"state": description["subjects"], **({"note": note} if note else {})}}


def _overlap(made_by: dict[str, Any], experiment: Experiment) -> list[str]:
    """Corpora that an expert was pretrained on and that share records with this store."""
    source = str(experiment.store.description["source"])
    return list(overlap(made_by["pretraining_corpora"], source))


def _facts_of_stages(config: Config) -> dict[str, dict[str, Any]]:
    """Seconds and memory of the finished stages, by name."""
    facts = {f"expert {name}": facts_of(expert_folder(config, name)) for name in config.experts}
    return {**facts, "gate search": facts_of(gate_folder(config))}


def _example(experiment: Experiment) -> dict[str, bytes]:
    """The store's first record, drawn."""
    [(ids, x_BLT)] = [
        next(experiment.store.signals(record_ids=[experiment.record_ids[0]], batch_size=1))
    ]
    figure = Figure(figsize=(11, 6.2), layout="tight")
    derived_L = experiment.store.index["lead_derived"].iloc[0]
    derived = [lead for lead, is_derived in zip(LEADS, derived_L, strict=True) if is_derived]
    draw_ecg(x_BLT[0], figure.add_subplot(), derived=derived)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=90)
    return {f"Record {ids[0]}, as the experts get it": drawn.getvalue()}
