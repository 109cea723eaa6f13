"""The end of a run: the ensemble chosen, refitted, judged against plainer predictors, bundled."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from enecg import experts
from enecg.bundling import write_bundles
from enecg.cluster import peak_memory_mb
from enecg.config import Config
from enecg.errors import JobFailed
from enecg.evaluation.comparisons import compare
from enecg.evaluation.kept_predictions import FILE, OutOfFold, write_predictions
from enecg.evaluation.paper import draw_ecg
from enecg.evaluation.predictors import judge_predictors
from enecg.evaluation.report import write_report
from enecg.evaluation.reporting import reporting_items
from enecg.experiment import Experiment, answered
from enecg.experts.contract import Expert
from enecg.experts.corpora import overlap
from enecg.files import fingerprint, write_json
from enecg.gate.search import TABLE, gate_fingerprint, gate_folder
from enecg.nested import Nested
from enecg.out_of_fold import Repeat, decide, ensemble_folder, further_repeat, said_in
from enecg.progress import say
from enecg.provenance import commit, hardware
from enecg.records.subjects import subjects_note
from enecg.run_folder import begin, facts_of, finish, is_done
from enecg.signals import LEADS
from enecg.stage1.jobs import expert_folder
from enecg.tasks import Task, known

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
    config, repeats = experiment.config, experiment.repeats
    run, folder = Path(config.run_dir), ensemble_folder(config)
    searched = [gate_fingerprint(one) for one in repeats]
    for repeat, search in zip(repeats, searched, strict=True):
        if not is_done(gate_folder(repeat.config), search):
            raise JobFailed(
                f"no finished gate search for these settings in {repeat.config.run_dir}; "
                "run search_gate.py first"
            )
    repeated = {"repeats": searched[1:]} if len(repeats) > 1 else {}
    print_ = fingerprint(
        {"search": searched[0], "ensemble": config.ensemble.model_dump(), "revision": REVISION}
        | repeated
    )
    if is_done(folder, print_):
        say("ensemble: done before, kept")
        return results_path(config)
    started = datetime.now(UTC)
    further = [further_repeat(one) for one in repeats[1:]]
    clock = time.monotonic()
    begin(folder, print_)
    arrays, chosen, gates, worker_peak = decide(experiment)
    said = [said_in(experiment.tasks, arrays, chosen, gates), *further]

    nested = [one.nested for one in repeats]
    summaries: dict[str, Any] = {}
    out_of_sample: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    gate_weights: dict[str, dict[str, float]] = {}
    kept: list[OutOfFold] = []
    for task in experiment.tasks:
        name, target_N = task.name, experiment.targets[task.name]
        say(f"{name}: intervals")
        summaries[name] = judge(task, target_N, said, nested, arrays.experts_of(task), arrays.seed)
        out_of_sample[name] = (target_N, said[0].said[name].by_predictor["ensemble"])
        weights_E = np.mean([one.said[name].weights_NE.mean(0) for one in said], axis=0)
        weights = zip(arrays.experts, weights_E.tolist(), strict=True)
        answering = arrays.experts_of(task)
        gate_weights[name] = {expert: mean for expert, mean in weights if expert in answering}
        for place, (one, folds) in enumerate(zip(said, nested, strict=True)):
            kept.append(
                OutOfFold(
                    task,
                    place,
                    np.array(experiment.record_ids),
                    folds.group_N,
                    np.array(folds.outer_names)[folds.outer_N],
                    target_N,
                    one.said[name].by_predictor,
                    one.said[name].weights_NE,
                    one.said[name].answers_N,
                )
            )
    loaded = {
        name: experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
        for name, settings in config.experts.items()
    }
    made_by = {
        name: expert.provenance()
        | {"licence": expert.spec.licence}
        | _unanswered(experiment.tasks, expert)
        for name, expert in loaded.items()
    }
    write_predictions(run / FILE, kept, arrays.experts)
    write_bundles(experiment, arrays, chosen, gates, made_by, summaries)
    facts = _facts_of_stages(experiment)
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
        **_repeats(experiment),
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


def judge(
    task: Task,
    truth_N: np.ndarray,
    repeats: Sequence[Repeat],
    nested: Sequence[Nested],
    names: list[str],
    seed: int,
) -> dict[str, Any]:
    """Return what results.json says of one task.

    Parameters
    ----------
    task : Task
    truth_N : float array, shape (N,), or (N, C) for several labels
    repeats, nested : sequences of R
        What each repeat's predictors say, and its folds.
    names : list of str
        The experts'.
    seed : int
    """
    said = [repeat.said[task.name] for repeat in repeats]
    predictions = {
        name: np.stack([one.by_predictor[name] for one in said]) for name in said[0].by_predictor
    }
    answers = [one.answers_N for one in said if one.answers_N is not None]
    half_width_RN = np.stack([one.half_width_N for one in said])
    where = (np.stack([one.outer_N for one in nested]), nested[0].group_N)
    judged = judge_predictors(
        task,
        truth_N,
        predictions,
        np.stack(answers) if answers else None,
        half_width_RN,
        *where,
        seed=seed,
        thresholds_NC=np.stack([one.thresholds_NC for one in said]),
    )
    decisions = {
        scope if number == 1 else f"{scope}, repeat {number}": decision
        for number, repeat in enumerate(repeats, start=1)
        for scope, decision in repeat.decisions[task.name].items()
    }
    return {
        **judged,
        "n": int(known(truth_N).sum()),
        "comparisons": compare(
            task, truth_N, predictions, judged["predictors"], names, *where, seed=seed
        ),
        "decisions": decisions,
    }


def _unanswered(tasks: list[Task], expert: Expert) -> dict[str, list[str]]:
    """What results.json says of tasks that an expert has no outputs for, if there are."""
    there = answered(tasks, expert.spec)
    names = [task.name for task in tasks if task not in there]
    return {"no_output_for": names} if names else {}


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


def _facts_of_stages(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Seconds and memory of the finished stages, by name."""
    facts: dict[str, dict[str, Any]] = {}
    for one in experiment.repeats:
        config = one.config
        for name in config.experts:
            facts[one.called(f"expert {name}")] = facts_of(expert_folder(config, name))
        facts[one.called("gate search")] = facts_of(gate_folder(config))
        if one.repeat > 1:
            facts[one.called("ensemble")] = facts_of(ensemble_folder(config))
    return facts


def _repeats(experiment: Experiment) -> dict[str, Any]:
    """What results.json says on repeats, and the seed of each; nothing where there is one."""
    if len(experiment.repeats) == 1:
        return {}
    seeds = [one.config.seed for one in experiment.repeats]
    return {"repeats": len(seeds), "seeds": seeds}


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
