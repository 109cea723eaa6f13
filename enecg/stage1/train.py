"""What one expert's training job computes: plain functions of arrays, and a process group.

Both ways end in the same `Outcome`: outputs for every record in every scope, and the models that
gave those for the scopes' test groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from enecg import experts
from enecg.config import ExpertSettings, Stage1Settings
from enecg.nested import ALL, Fit, Nested
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.feeding import Feed
from enecg.stage1.fitting import Progress, Targets, fit_units
from enecg.stage1.ridge import fit_ridge
from enecg.stage1.units import Unit, build_unit
from enecg.tasks import Task, known

SWEEP_BATCH = 256


@dataclass
class Outcome:
    """What stage 1 finds out about one expert.

    Attributes
    ----------
    outputs : dict of str to float32 array, shape (S, N, C)
        Per task and scope: out-of-fold outputs for the scope's training records, the final
        model's (or the inner models' mean) for its test records.
    adapted : dict of str to AdaptedExpert
        Key ``<task>/<scope>``.
    choices : dict
        Per task and scope: losses on training groups by head, and the head that was chosen.
    """

    outputs: dict[str, np.ndarray]
    adapted: dict[str, AdaptedExpert]
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Session:
    """What a job keeps over a restart: finished phases, and the hooks to save the running one.

    Attributes
    ----------
    phase : int
        0 while inner models train, 1 while the final ones do.
    resume_from : Path or None
        Folder with the state of the phase that was interrupted.
    inner : dict
        Phase 0's result, per unit key, where it is over.
    report : callable
        Called after each epoch: (phase, inner, progress, save).
    """

    phase: int = 0
    resume_from: Path | None = None
    inner: dict[str, dict[str, Any]] = field(default_factory=dict)
    report: Callable[[int, dict[str, Any], Progress, Callable[[Path], None]], None] = field(
        default=lambda *_: None
    )

    def fit(self, phase: int, units: list[Unit], **arguments: Any) -> None:
        """Run `fit_units` for one phase, from where it was interrupted if it was."""
        fit_units(
            units,
            resume_from=self.resume_from if phase == self.phase else None,
            after_epoch=lambda progress, save: self.report(phase, self.inner, progress, save),
            **arguments,
        )


def adapt_heads(
    tasks: list[Task],
    nested: Nested,
    targets: Targets,
    feed: Feed,
    settings: Stage1Settings,
    final_rule: str,
    seed: int,
    session: Session,
    device: torch.device,
) -> Outcome:
    """Train heads on the features of a frozen backbone: every task, scope and inner fold.

    Parameters
    ----------
    tasks, nested, targets
        What is predicted, by which folds, from which labels.
    feed : Feed
        Features; all of them are kept in memory.
    settings : Stage1Settings
        ``heads`` says which kinds are tried.
    final_rule : {"refit", "average"}
    seed : int
    session : Session
    device : torch.device
    """
    features_ND = cast(Tensor, feed.hold(at_any_size=True))

    def ffn_unit(fit: Fit, task: Task, epochs: int | None) -> Unit:
        return build_unit(
            fit, [task], targets, nested, seed, features_ND=features_ND, epochs=epochs
        )

    def train(phase: int, units: list[Unit]) -> None:
        session.fit(phase, units, feed=feed, targets=targets, settings=settings, device=device)

    models: dict[tuple[str, str, Fit], Model] = {}
    if "ffn" in settings.heads:
        keyed = {
            (task.name, fit): ffn_unit(fit, task, None)
            for task in tasks
            for scope in nested.scopes
            for fit in nested.fits(scope)
        }
        if not session.inner:
            train(0, list(keyed.values()))
            session.inner = {
                unit.key: {"state": unit.best_state, "epoch": unit.best_epoch}
                for unit in keyed.values()
            }
        for unit in keyed.values():
            unit.model.load_state_dict(session.inner[unit.key]["state"])
            unit.best_epoch = session.inner[unit.key]["epoch"]
        if final_rule == "refit":
            for task in tasks:
                for scope in nested.scopes:
                    epochs = [keyed[task.name, fit].best_epoch for fit in nested.fits(scope)]
                    final = Fit(scope, None)
                    keyed[task.name, final] = ffn_unit(final, task, round(float(np.median(epochs))))
            train(1, [unit for (_, fit), unit in keyed.items() if fit.inner is None])
        for (name, fit), unit in keyed.items():
            models["ffn", name, fit] = Model(unit.model.head(name).eval())
    if "ridge" in settings.heads:
        finals = [None] if final_rule == "refit" else []
        for task in tasks:
            for scope in nested.scopes:
                for fit in [*nested.fits(scope), *(Fit(scope, inner) for inner in finals)]:
                    rows = nested.learns_from(fit) & known(targets[task.name])
                    head = fit_ridge(
                        features_ND[torch.from_numpy(rows)],
                        torch.from_numpy(targets[task.name][rows]),
                        torch.from_numpy(nested.stopping_N[rows]),
                        task,
                    )
                    models["ridge", task.name, fit] = Model(head.eval())

    def answers_of(expert: AdaptedExpert) -> np.ndarray:
        return expert.answer(features_ND).numpy()

    return _choose(tasks, nested, targets, settings.heads, models, final_rule, answers_of)


def train_backbones(
    tasks: list[Task],
    nested: Nested,
    targets: Targets,
    feed: Feed,
    settings: Stage1Settings,
    expert: tuple[str, ExpertSettings],
    seed: int,
    session: Session,
    device: torch.device,
    bf16: bool,
) -> Outcome:
    """Train a backbone with one head per task: one model per scope and inner fold.

    Parameters
    ----------
    feed : Feed
        Prepared signals.
    expert : (str, ExpertSettings)
        Name and settings; ``weights`` is where training starts, None is from scratch.
    bf16 : bool
        Train in bfloat16.

    Other parameters are as for `adapt_heads`.
    """
    name, chosen = expert

    def unit_of(fit: Fit, epochs: int | None = None) -> Unit:
        return build_unit(
            fit, tasks, targets, nested, seed, epochs=epochs,
            make_backbone=lambda: experts.load(name, weights=chosen.weights, **chosen.options),
        )  # fmt: skip

    units = {fit: unit_of(fit) for scope in nested.scopes for fit in nested.fits(scope)}
    arguments: dict[str, Any] = {
        "feed": feed, "targets": targets, "settings": settings, "device": device, "bf16": bf16,
    }  # fmt: skip
    if not session.inner:
        session.fit(0, list(units.values()), **arguments)
        session.inner = {
            u.key: {"state": u.best_state, "epoch": u.best_epoch} for u in units.values()
        }
    for unit in units.values():
        unit.model.load_state_dict(session.inner[unit.key]["state"])
        unit.best_epoch = session.inner[unit.key]["epoch"]
    if chosen.final_rule == "refit":
        for scope in nested.scopes:
            epochs = round(float(np.median([units[fit].best_epoch for fit in nested.fits(scope)])))
            units[Fit(scope, None)] = unit_of(Fit(scope, None), epochs)
        session.fit(1, [u for fit, u in units.items() if fit.inner is None], **arguments)
    models = {
        ("ffn", task.name, fit): Model(unit.model.head(task.name).eval(), unit.model.backbone)
        for fit, unit in units.items()
        for task in tasks
    }
    for unit in units.values():
        unit.model.to(device).eval()

    @torch.no_grad()
    def answers_of_all() -> dict[int, np.ndarray]:
        """Every head's answers for every record, from one pass over the signals."""
        answers = {
            id(model): torch.zeros(feed.n, task.width)
            for task in tasks
            for (_, named, _), model in models.items()
            if named == task.name
        }
        for rows, inputs in feed.sweep(SWEEP_BATCH):
            on_device = inputs.to(device)
            for fit, unit in units.items():
                for task_name, out_BC in unit.model(on_device).items():
                    head = unit.model.head(task_name)
                    answers[id(models["ffn", task_name, fit])][torch.from_numpy(rows)] = (
                        head.answer(out_BC).cpu()
                    )
        for tensor in answers.values():
            if dist.get_world_size() > 1:  # each record was another worker's, or nobody else's
                shared = tensor.to(device)
                dist.all_reduce(shared)
                tensor.copy_(shared.cpu())
        return {key: tensor.numpy() for key, tensor in answers.items()}

    table = answers_of_all()

    def answers_of(expert: AdaptedExpert) -> np.ndarray:
        mean: np.ndarray = np.mean([table[id(model)] for model in expert.models], axis=0)
        return mean

    return _choose(tasks, nested, targets, ["ffn"], models, chosen.final_rule, answers_of)


def _choose(
    tasks: list[Task],
    nested: Nested,
    targets: Targets,
    kinds: list[Any],
    models: dict[tuple[str, str, Fit], Model],
    final_rule: str,
    answers_of: Callable[[AdaptedExpert], np.ndarray],
) -> Outcome:
    """Per task and scope, take the head with the least out-of-fold loss on training groups."""
    outcome = Outcome({}, {})
    for task in tasks:
        outcome.outputs[task.name] = np.zeros(
            (len(nested.scopes), len(nested.outer_N), task.width), dtype=np.float32
        )
        for number, scope in enumerate(nested.scopes):
            training, test = nested.training(scope), nested.test(scope)
            candidates = {}
            for kind in kinds:
                output_NC = outcome.outputs[task.name][number].copy()
                inner = [models[kind, task.name, fit] for fit in nested.fits(scope)]
                for fit, model in zip(nested.fits(scope), inner, strict=True):
                    held_out = nested.held_out(fit)
                    output_NC[held_out] = answers_of(AdaptedExpert([model], kind))[held_out]
                loss = task.loss(targets[task.name][training], output_NC[training])
                candidates[kind] = (loss, output_NC, inner)
            kind = min(candidates, key=lambda k: candidates[k][0])
            _, output_NC, inner = candidates[kind]
            final = (
                inner if final_rule == "average" else [models[kind, task.name, Fit(scope, None)]]
            )
            adapted = AdaptedExpert(final, kind)
            if scope != ALL:
                output_NC[test] = answers_of(adapted)[test]
            outcome.outputs[task.name][number] = output_NC
            outcome.adapted[f"{task.name}/{scope}"] = adapted
            outcome.choices[f"{task.name}/{scope}"] = {
                "head": kind,
                "losses": {k: loss for k, (loss, _, _) in candidates.items()},
            }
    return outcome
