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

from enecg.experts.contract import Expert
from enecg.nested import Fit
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.choosing import Outcome, Setup, choose_heads, outcome_of
from enecg.stage1.engine import ADAM_BYTES
from enecg.stage1.feeding import HELD_BYTES, Feed
from enecg.stage1.fitting import Progress, fit_units, sweep_size
from enecg.stage1.head_space import HeadChoice, papers_head
from enecg.stage1.kernel import KERNELS, fit_kernel
from enecg.stage1.lora import merge_lora, restore, trained
from enecg.stage1.ridge import CHUNK, fit_ridge
from enecg.stage1.scaling import scale_inputs
from enecg.stage1.trees import fit_trees
from enecg.stage1.units import Unit, build_unit
from enecg.tasks import Task, known


@dataclass
class Session:
    """What a job keeps over a restart, and the hook to save it.

    Attributes
    ----------
    finished : dict
        Per key of a unit whose training is over: its trained tensors and best epoch.
    resume_from : Path or None
        Folder with the state of the units that were interrupted.
    report : callable
        Called after each epoch: (what is trained, finished, progress, save).
    solved : callable
        Called after each head that takes no epochs: (how many are done, of how many).
    """

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    resume_from: Path | None = None
    report: Callable[[str, dict[str, Any], Progress, Callable[[Path], None]], None] = field(
        default=lambda *_: None
    )
    solved: Callable[[int, int], None] = lambda *_: None

    def train(self, what: str, units: list[Unit], device: torch.device, **arguments: Any) -> None:
        """Train some units, as many at once as fit into memory; their number changes no result.

        Those that an interrupted run has finished are taken from there.
        """
        todo = [unit for unit in units if unit.key not in self.finished]
        at_once = _at_once(todo, device)
        for start in range(0, len(todo), at_once):
            group = todo[start : start + at_once]
            fit_units(
                group,
                device=device,
                resume_from=self.resume_from,
                after_epoch=lambda progress, save: self.report(what, self.finished, progress, save),
                **arguments,
            )
            self.resume_from = None
            for unit in group:
                self.finished[unit.key] = {"state": unit.best_state, "epoch": unit.best_epoch}
        for unit in units:
            restore(unit.model, self.finished[unit.key]["state"])
            unit.model.eval()
            unit.best_epoch = self.finished[unit.key]["epoch"]


def _at_once(units: list[Unit], device: torch.device) -> int:
    """How many units fit into half of the device's free memory (on a CPU 2 GB); at least one."""
    if not units:
        return 1
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * HELD_BYTES
    model = units[0].model
    learns = sum(value.numel() for value in trained(model).values())
    held = sum(value.numel() for value in model.parameters()) - learns
    at_once = torch.tensor(max(1, int(free / 2 / max(1, ADAM_BYTES * learns + 4 * held))))
    if dist.get_world_size() > 1:  # all workers have to train the same units at a time
        shared = at_once.to(device)
        dist.all_reduce(shared, op=dist.ReduceOp.MIN)
        at_once = shared.cpu()
    return int(at_once)


def adapt_heads(
    setup: Setup,
    choices: list[HeadChoice],
    feed: Feed,
    session: Session,
    device: torch.device,
) -> Outcome:
    """Train heads on the features of a frozen backbone: every task, fit and choice.

    Parameters
    ----------
    setup : Setup
        ``heads`` says which kinds are tried.
    choices : list of HeadChoice
        The feed-forward heads that are tried.
    feed : Feed
        Features; they are kept in a file (see `Feed.hold`).
    session : Session
    device : torch.device
    """
    tasks, nested, targets = setup.tasks, setup.nested, setup.targets
    features_ND = cast(Tensor, feed.hold(at_any_size=True))
    kinds = {f"ffn-{n}" if n else "ffn": choice for n, choice in enumerate(choices)}
    if "ffn" not in setup.heads:
        kinds = {}
    lora_rank = setup.expert.lora_rank if setup.expert.adaptation == "head_lora" else None

    def ffn(kind: str, fit: Fit, task: Task, epochs: int | None) -> Unit:
        return build_unit(
            fit, [task], targets, nested, setup.seed, kinds[kind],
            number=list(kinds).index(kind), lora_rank=lora_rank, balance=setup.balance,
            features_ND=features_ND, epochs=epochs,
        )  # fmt: skip

    def train(what: str, units: list[Unit]) -> None:
        session.train(what, units, device, feed=feed, targets=targets, settings=setup.settings)

    def solved(kind: str, fit: Fit, task: Task) -> Model:
        """A head of a kind that takes no epochs."""
        rows = nested.learns_from(fit) & known(targets[task.name])
        row_R = torch.from_numpy(np.flatnonzero(rows))
        target_R = torch.from_numpy(targets[task.name][rows])
        if kind == "trees":  # they, and kernels, need all of their records in memory
            return Model(fit_trees(features_ND[row_R], target_R, task, setup.balance).eval())
        part_R = torch.from_numpy(nested.stopping_N[rows])
        if kind in KERNELS:
            f_RD = features_ND[row_R]
            return Model(fit_kernel(kind, f_RD, target_R, part_R, task, setup.balance).eval())
        return Model(fit_ridge(features_ND, target_R, part_R, task, setup.balance, row_R).eval())

    def model_of(unit: Unit) -> Model:
        [head] = unit.model.heads.values()
        if lora_rank is not None:
            merge_lora(head)
        return Model(cast(Any, head).eval())

    fits = nested.inner_models
    units = {
        (kind, task.name, fit): ffn(kind, fit, task, setup.fixed_epochs)
        for kind in kinds
        for task in tasks
        for fit in fits
    }
    train("inner models", list(units.values()))
    models = {key: model_of(unit) for key, unit in units.items()}
    others = [kind for kind in setup.heads if kind != "ffn"]
    wanted = [(kind, task, fit) for kind in others for task in tasks for fit in fits]
    for done, (kind, task, fit) in enumerate(wanted, start=1):
        models[kind, task.name, fit] = solved(kind, fit, task)
        session.solved(done, len(wanted))

    def answers_of(model: Model, chosen_N: np.ndarray) -> np.ndarray:
        expert = AdaptedExpert([model], "")
        rows = torch.from_numpy(np.flatnonzero(chosen_N))
        return torch.cat([expert.answer(features_ND[part]) for part in rows.split(CHUNK)]).numpy()

    chosen = choose_heads(setup, models, answers_of)
    if setup.expert.final_rule == "refit":
        finals: dict[tuple[str, str, Fit], Unit] = {}
        for (name, scope), choice in chosen.items():
            task, final = next(t for t in tasks if t.name == name), Fit(scope, None)
            if choice.kind not in kinds:
                # What takes no epochs comes out alike from the same records.
                twin = nested.inner_twin(scope)
                models[choice.kind, name, final] = (
                    models[choice.kind, name, twin] if twin else solved(choice.kind, final, task)
                )
            else:
                inner = [nested.model_of(fit) for fit in nested.fits(scope)]
                best = [units[choice.kind, name, fit].best_epoch for fit in inner]
                epochs = setup.median_epochs(best)
                finals[choice.kind, name, final] = ffn(choice.kind, final, task, epochs)
        train("final models", list(finals.values()))
        models |= {key: model_of(unit) for key, unit in finals.items()}
    facts = {kind: choice.model_dump() for kind, choice in kinds.items()}
    return outcome_of(setup, models, chosen, answers_of, facts)


def train_backbones(
    setup: Setup,
    make_backbone: Callable[[], Expert],
    feed: Feed,
    session: Session,
    device: torch.device,
    bf16: bool,
) -> Outcome:
    """Train a backbone with one head per task: one model per fit.

    Parameters
    ----------
    setup : Setup
    make_backbone : callable
        Gives the backbone that training starts from, afresh at every call.
    feed : Feed
        Prepared signals.
    session : Session
    device : torch.device
    bf16 : bool
        Train in bfloat16.
    """
    tasks, nested, targets = setup.tasks, setup.nested, setup.targets

    def unit_of(fit: Fit, epochs: int | None) -> Unit:
        return build_unit(
            fit, tasks, targets, nested, setup.seed, papers_head(setup.settings),
            balance=setup.balance, epochs=epochs, make_backbone=make_backbone,
        )  # fmt: skip

    arguments: dict[str, Any] = {
        "feed": feed, "targets": targets, "settings": setup.settings, "bf16": bf16,
    }  # fmt: skip
    units = {fit: unit_of(fit, setup.fixed_epochs) for fit in nested.inner_models}
    if setup.expert.weights is None:
        scale_inputs(list(units.values()), feed)
    session.train("inner models", list(units.values()), device, **arguments)
    if setup.expert.final_rule == "refit":
        finals = {}
        for scope in nested.scopes:
            epochs = [units[nested.model_of(fit)].best_epoch for fit in nested.fits(scope)]
            final = Fit(scope, None)
            finals[final] = unit_of(final, setup.median_epochs(epochs))
        if setup.expert.weights is None:
            scale_inputs(list(finals.values()), feed)
        session.train("final models", list(finals.values()), device, **arguments)
        units |= finals
    models = {
        ("ffn", task.name, fit): Model(unit.model.head(task.name).eval(), unit.model.backbone)
        for fit, unit in units.items()
        for task in tasks
    }
    size = sweep_size(setup.settings, feed.world)
    table = _answers_of_all(tasks, list(units.items()), feed, size, device)

    def answers_of(model: Model, chosen_N: np.ndarray) -> np.ndarray:
        return table[id(model.head)][chosen_N]

    chosen = choose_heads(setup, models, answers_of)
    return outcome_of(setup, models, chosen, answers_of, {})


@torch.no_grad()
def _answers_of_all(
    tasks: list[Task], units: list[tuple[Fit, Unit]], feed: Feed, size: int, device: torch.device
) -> dict[int, np.ndarray]:
    """Every head's answers for every record, by the head's identity.

    The signals are passed over as often as it takes to have only some models on the device.
    """
    answers: dict[int, Tensor] = {}
    at_once = _at_once([unit for _, unit in units], device)
    for start in range(0, len(units), at_once):
        group = [unit for _, unit in units[start : start + at_once]]
        for unit in group:
            unit.model.to(device).eval()
            for task in tasks:
                answers[id(unit.model.head(task.name))] = torch.zeros(feed.n, task.width)
        for rows, inputs in feed.sweep(size):
            on_device = inputs.to(device)
            for unit in group if len(rows) else []:
                for name, out_BC in unit.model(on_device).items():
                    head = unit.model.head(name)
                    answers[id(head)][torch.from_numpy(rows)] = head.answer(out_BC).cpu()
        for unit in group:
            unit.model.to("cpu")
    for tensor in answers.values():
        if dist.get_world_size() > 1:  # each record was another worker's, or nobody else's
            shared = tensor.to(device)
            dist.all_reduce(shared)
            tensor.copy_(shared.cpu())
    return {key: tensor.numpy() for key, tensor in answers.items()}
