"""The end of a run: the ensemble chosen, refitted, judged against plainer predictors, bundled."""

from __future__ import annotations

import io
import time
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
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.report import write_report
from enecg.experiment import Experiment
from enecg.experts.corpora import overlap
from enecg.files import fingerprint, write_json
from enecg.gate.combine import dummy
from enecg.gate.ensemble import Chosen, GateEnsemble, Key, TrainedGates, choose, refit_chosen
from enecg.gate.network import constant_gate
from enecg.gate.search import found_trials, gate_fingerprint, gate_folder, load_arrays
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
    print_ = fingerprint({"search": searched, "ensemble": config.ensemble.model_dump()})
    left = [results_path(config), run / "report.html"]
    left += [run / "bundle" / task.name / "bundle.json" for task in experiment.tasks]
    if is_done(folder, print_) and all(path.exists() for path in left):
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
    for task in experiment.tasks:
        predictions, weights_NE = predict_test_groups(task, arrays, chosen, gates)
        say(f"{task.name}: intervals")
        summaries[task.name] = judge(task, predictions, arrays, chosen)
        out_of_sample[task.name] = (experiment.targets[task.name], predictions["ensemble"])
        gate_weights[task.name] = dict(
            zip(arrays.experts, weights_NE.mean(0).tolist(), strict=True)
        )
    loaded = {
        name: experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
        for name, settings in config.experts.items()
    }
    made_by = {
        name: expert.provenance() | {"licence": expert.spec.licence}
        for name, expert in loaded.items()
    }
    write_bundles(experiment, arrays, chosen, gates, made_by, summaries)
    facts = _facts_of_stages(config)
    results = {
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
    write_json(results_path(config), results)
    write_report(
        run / "report.html",
        results,
        experiment.tasks,
        out_of_sample=out_of_sample,
        gate_weights=gate_weights,
        trials=pd.read_parquet(gate_folder(config) / "trials.parquet"),
        drawings=_example(experiment),
    )
    finish(folder, print_)
    return results_path(config)


def predict_test_groups(
    task: Task, arrays: Arrays, chosen: dict[Key, Chosen], gates: TrainedGates
) -> tuple[Predictions, np.ndarray]:
    """Predict every record once, by what was learned without its outer fold.

    A predictor that has no output for a record (none of its experts has one) counts as if it said
    what ``dummy`` says.

    Returns
    -------
    dict of str to array, shape (N, C)
        By predictor: each expert alone, ``uniform``, ``stacking``, ``gate``, ``ensemble``,
        ``dummy``.
    array, shape (N, E)
        The ensemble's weights.
    """
    n, each = len(arrays.view_NLT), arrays.experts
    names = [*each, *OTHER_PREDICTORS]
    predictions = {name: np.zeros((n, task.width), dtype=np.float32) for name in names}
    weights_NE = np.zeros((n, len(each)), dtype=np.float32)
    missing = dict.fromkeys(names, 0)
    for number, scope in enumerate(arrays.nested.scopes):
        if scope == ALL:
            continue
        training, test = arrays.nested.training(scope), arrays.nested.test(scope)
        filler_BC = dummy(task, arrays.targets[task.name][training], int(test.sum()))
        choice = chosen[task.name, scope]
        features = arrays.features.get(Fit(scope, None).key)
        mixtures = {
            **{name: GateEnsemble([(1, constant_gate({name: 1.0}))]) for name in each},
            "uniform": GateEnsemble([(1, constant_gate(dict.fromkeys(each, 1.0)))]),
            "stacking": GateEnsemble([(1, constant_gate(choice.stacking))]),
            "gate": GateEnsemble([(1, gates[task.name, scope, choice.best])]),
            "ensemble": choice.ensemble((task.name, scope), gates),
        }
        for name, mixture in mixtures.items():
            predicted_BC, weights_BE = mixture.predict(
                arrays.view_NLT[test],
                arrays.outputs[task.name][number, test],
                each,
                task,
                None if features is None else features[test],
            )
            lacking = np.isnan(predicted_BC)
            missing[name] += int(lacking.any(1).sum())
            predictions[name][test] = np.where(lacking, filler_BC, predicted_BC)
        weights_NE[test] = weights_BE  # the ensemble's: it is the last
        predictions["dummy"][test] = filler_BC
    for name, count in missing.items():
        if count:
            say(f"{task.name}: {name} has no output for {count:,} records; counted as the dummy's")
    return predictions, weights_NE


def judge(
    task: Task, predictions: Predictions, arrays: Arrays, chosen: dict[Key, Chosen]
) -> dict[str, Any]:
    """Return what results.json says of one task."""
    truth_N, nested = arrays.targets[task.name], arrays.nested
    where = (nested.outer_N, nested.group_N)
    summaries = {
        name: fold_summary(task, truth_N, predicted, *where, seed=arrays.seed)
        for name, predicted in predictions.items()
    }
    return {
        "n": int(known(truth_N).sum()),
        "predictors": summaries,
        "comparisons": compare(
            task, truth_N, predictions, summaries, arrays.experts, *where, seed=arrays.seed
        ),
        "decisions": {
            scope: {
                "way": choice.way,
                "losses": choice.losses,
                "gain_of_gates": choice.gain,
                "standard_error": choice.error,
                "calibration": choice.calibration.kind,
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
