"""Writing a run's bundles: what gets deployed, and what reproduces the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enecg.bundle import Bundle
from enecg.bundle_folders import replace_bundles
from enecg.evaluation.model_card import model_card
from enecg.experiment import Experiment
from enecg.gate.combine import dummy
from enecg.gate.ensemble import Chosen, Key, TrainedGates
from enecg.gate.features import final_reduction
from enecg.gate.search import FEATURES, gate_folder
from enecg.gate.trial import Arrays
from enecg.nested import ALL
from enecg.provenance import commit
from enecg.seen import identities, salt_of, sketch
from enecg.stage1.adapted import AdaptedExpert, load_adapted
from enecg.stage1.jobs import expert_folder


def write_bundles(
    experiment: Experiment,
    arrays: Arrays,
    chosen: dict[Key, Chosen],
    gates: TrainedGates,
    made_by: dict[str, dict[str, Any]],
    results: dict[str, Any],
) -> None:
    """Write ``bundle/<task>`` (all groups) and ``folds/<fold>/<task>`` (each fold's models).

    All are written beside those of an earlier run, then put in their place: a full disk or a kill
    leaves the earlier ones.

    Parameters
    ----------
    experiment : Experiment
    arrays : Arrays
    chosen, gates
        What was chosen, and the trained gates of it.
    made_by : dict
        Every expert's provenance.
    results : dict
        ``tasks`` of results.json, for the model card.

    Raises
    ------
    UserError
        Something else stands in the place of bundles; it stays.
    """
    made = _bundles(experiment, arrays, chosen, gates, made_by, results)
    replace_bundles(Path(experiment.config.run_dir), made)


def _bundles(
    experiment: Experiment,
    arrays: Arrays,
    chosen: dict[Key, Chosen],
    gates: TrainedGates,
    made_by: dict[str, dict[str, Any]],
    results: dict[str, Any],
) -> Iterator[tuple[str, Bundle]]:
    """Every scope's and task's bundle, each made when it is asked for."""
    config, located = experiment.config, experiment.config.located()
    adapted: dict[str, dict[str, AdaptedExpert]] = {
        name: load_adapted(
            expert_folder(config, name),
            {
                f"{task.name}/{scope}": task
                for task in experiment.tasks
                for scope in arrays.nested.scopes
                if name in arrays.experts_of(task)
            },
            name,
            settings,
        )
        for name, settings in config.experts.items()
    }
    salt = salt_of(experiment.store.fingerprint, config.seed)
    learned_from = identities(
        experiment.store.index, salt, with_subjects=config.ensemble.seen_subjects == "scrypt"
    )
    for task in experiment.tasks:
        for scope in arrays.nested.scopes:
            ensemble = chosen[task.name, scope].ensemble((task.name, scope), gates)
            weighed = {name for _, gate in ensemble.members for name in gate.choice.experts}
            # What is deployed holds all experts, so that evaluate.py can judge them elsewhere.
            names = arrays.experts_of(task)
            kept = [name for name in names if name in weighed or scope == ALL]
            dummy_C = dummy(task, arrays.targets[task.name][arrays.nested.training(scope)], 1)[0]
            seen = {
                name
                for _, gate in ensemble.members
                if gate.choice.joined == "features"
                for name in gate.choice.experts
            }
            found = {
                name: final_reduction(gate_folder(config) / FEATURES, scope, name)
                for name in names
                if name in seen
            }
            bundle = Bundle(
                task,
                names,
                {
                    name: (located.experts[name], adapted[name][f"{task.name}/{scope}"])
                    for name in kept
                },
                ensemble,
                {
                    "commit": commit(),
                    "records": experiment.store.fingerprint,
                    "source": experiment.store.description["source"],
                    "trained_on": "all groups" if scope == ALL else f"all but outer fold {scope}",
                    "n_training": int(arrays.nested.training(scope).sum()),
                    "way": chosen[task.name, scope].way,
                    "experts": made_by,
                    "config": config.model_dump(mode="json"),
                },
                {
                    name: made_by[name]["fingerprint"]
                    for name in kept
                    if config.experts[name].builds_on_weights
                },
                reductions={n: one for n, one in found.items() if one is not None},
                stacking=chosen[task.name, scope].stacking,
                absolute_stacking=chosen[task.name, scope].absolute_stacking,
                dummy=tuple(dummy_C.tolist()),
                seen=sketch(learned_from, salt, arrays.nested.training(scope)),
            )
            if scope == ALL:
                bundle.card = model_card(bundle, results[task.name])
            yield scope, bundle
