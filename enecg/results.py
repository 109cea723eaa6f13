"""The end of a run: the ensemble chosen, refitted, judged against plainer predictors, bundled."""

from __future__ import annotations

import io
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from enecg import experts
from enecg.bundle import Bundle
from enecg.cluster import peak_memory_mb
from enecg.config import OTHER_PREDICTORS, Config
from enecg.errors import JobFailed
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.report import write_report
from enecg.experiment import Experiment
from enecg.experts.corpora import overlap
from enecg.files import fingerprint, write_json
from enecg.gate.combine import dummy, mix, stacking_weights, uniform
from enecg.gate.ensemble import Chosen, GateEnsemble, Key, choose, refit_chosen
from enecg.gate.network import Gates
from enecg.gate.search import drawn_choices, gate_fingerprint, gate_folder, load_arrays
from enecg.gate.trial import Arrays
from enecg.nested import ALL
from enecg.progress import say
from enecg.provenance import commit, hardware
from enecg.run_folder import begin, facts_of, finish, is_done
from enecg.signals import LEADS
from enecg.stage1.adapted import AdaptedExpert, load_adapted
from enecg.stage1.jobs import expert_folder
from enecg.tasks import Task, known

Predictions = dict[str, np.ndarray]
TrainedGates = dict[tuple[str, str, int], Gates]


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
    arrays, choices = load_arrays(experiment), drawn_choices(config)
    chosen = choose(gate_folder(config), choices, arrays, config.ensemble.size)
    gates, worker_peak = refit_chosen(chosen, choices, arrays)

    summaries: dict[str, Any] = {}
    out_of_sample: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    gate_weights: dict[str, dict[str, float]] = {}
    for task in experiment.tasks:
        predictions, weights_NE = predict_test_groups(task, arrays, chosen, gates)
        truth_N = experiment.targets[task.name]
        say(f"{task.name}: intervals")
        summaries[task.name] = {
            "n": int(known(truth_N).sum()),
            "predictors": {
                name: fold_summary(
                    task, truth_N, predicted, experiment.nested.outer_N,
                    experiment.nested.group_N, seed=config.seed,
                )
                for name, predicted in predictions.items()
            },
        }  # fmt: skip
        out_of_sample[task.name] = (truth_N, predictions["ensemble"])
        gate_weights[task.name] = dict(
            zip(arrays.experts, weights_NE.mean(0).tolist(), strict=True)
        )
    made_by = {
        name: experts.load(
            settings.backbone(name), weights=settings.weights, **settings.options
        ).provenance()
        for name, settings in config.experts.items()
    }
    write_bundles(experiment, arrays, chosen, gates, made_by)
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
        "tasks": summaries,
    }
    write_json(results_path(config), results)
    write_report(
        run / "report.html",
        results,
        experiment.tasks,
        out_of_sample=out_of_sample,
        gate_weights=gate_weights,
        drawings=_example(experiment),
    )
    finish(folder, print_)
    return results_path(config)


def predict_test_groups(
    task: Task, arrays: Arrays, chosen: dict[Key, Chosen], gates: TrainedGates
) -> tuple[Predictions, np.ndarray]:
    """Predict every record once, by what was learned without its outer fold.

    Returns
    -------
    dict of str to array, shape (N, C)
        By predictor: each expert alone, ``uniform``, ``stacking``, ``gate``, ``ensemble``,
        ``dummy``.
    array, shape (N, E)
        The ensemble's weights.
    """
    n = len(arrays.view_NLT)
    names = [*arrays.experts, *OTHER_PREDICTORS]
    predictions = {name: np.zeros((n, task.width), dtype=np.float32) for name in names}
    weights_NE = np.zeros((n, len(arrays.experts)), dtype=np.float32)
    target_N = arrays.targets[task.name]
    for number, scope in enumerate(arrays.nested.scopes):
        if scope == ALL:
            continue
        training, test = arrays.nested.training(scope), arrays.nested.test(scope)
        outputs_NEC = arrays.outputs[task.name][number]
        tested = outputs_NEC[test]
        for place, name in enumerate(arrays.experts):
            predictions[name][test] = tested[:, place]
        predictions["uniform"][test] = uniform(tested)
        stacked = stacking_weights(task, outputs_NEC[training], target_N[training])
        predictions["stacking"][test] = mix(tested, stacked)
        choice = chosen[task.name, scope]
        for name, ensemble in (
            ("gate", GateEnsemble([(1, gates[task.name, scope, choice.best])])),
            ("ensemble", _ensemble(task.name, scope, choice, gates)),
        ):
            weights_BE = ensemble.weights(arrays.view_NLT[test], arrays.experts).numpy()
            predictions[name][test] = np.einsum("be,bec->bc", weights_BE, tested)
        weights_NE[test] = weights_BE
        predictions["dummy"][test] = dummy(task, target_N[training], int(test.sum()))
    return predictions, weights_NE


def write_bundles(
    experiment: Experiment,
    arrays: Arrays,
    chosen: dict[Key, Chosen],
    gates: TrainedGates,
    made_by: dict[str, dict[str, Any]],
) -> None:
    """Write ``bundle/<task>`` (all groups) and ``folds/<fold>/<task>`` (each fold's models).

    ``made_by`` holds every expert's provenance.
    """
    config, located = experiment.config, experiment.config.located()
    run = Path(config.run_dir)
    keys = {f"{task.name}/{s}": task for task in experiment.tasks for s in arrays.nested.scopes}
    adapted: dict[str, dict[str, AdaptedExpert]] = {
        name: load_adapted(expert_folder(config, name), keys, name, settings)
        for name, settings in config.experts.items()
    }
    for earlier in ("bundle", "folds"):  # of other tasks or folds, perhaps
        shutil.rmtree(run / earlier, ignore_errors=True)
    for task in experiment.tasks:
        for scope in arrays.nested.scopes:
            ensemble = _ensemble(task.name, scope, chosen[task.name, scope], gates)
            used = {name for _, gate in ensemble.members for name in gate.choice.experts}
            bundle = Bundle(
                task,
                arrays.experts,
                {
                    name: (located.experts[name], adapted[name][f"{task.name}/{scope}"])
                    for name in arrays.experts
                    if name in used
                },
                ensemble,
                {
                    "commit": commit(),
                    "records": experiment.store.fingerprint,
                    "trained_on": "all groups" if scope == ALL else f"all but outer fold {scope}",
                    "n_training": int(arrays.nested.training(scope).sum()),
                    "experts": made_by,
                    "config": config.model_dump(mode="json"),
                },
                {
                    name: made_by[name]["fingerprint"]
                    for name in used
                    if config.experts[name].builds_on_weights
                },
            )
            place = run / "bundle" if scope == ALL else run / "folds" / scope
            bundle.save(place / task.name)


def _overlap(made_by: dict[str, Any], experiment: Experiment) -> list[str]:
    """Corpora that an expert was pretrained on and that share records with this store."""
    source = str(experiment.store.description["source"])
    return list(overlap(made_by["pretraining_corpora"], source))


def _ensemble(task: str, scope: str, choice: Chosen, gates: TrainedGates) -> GateEnsemble:
    return GateEnsemble(
        [(count, gates[task, scope, trial]) for trial, count in sorted(choice.members.items())]
    )


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
