"""Training many units at once under DeepSpeed, none of them noticing the others.

One pass over the records serves every unit: each takes from a batch the records it may learn
from. The loss is the sum of the units' own means, AdamW works element by element, gradients are
clipped unit by unit, and chance (dropout) is drawn unit by unit; so a unit trained alone gets the
same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from enecg.config import Stage1Settings
from enecg.errors import JobFailed
from enecg.stage1.engine import (
    Bank,
    Chance,
    checkpoint_blocks,
    deepspeed_engine,
    learning_rate_at,
    load_state,
    save_state,
    trained_state,
)
from enecg.stage1.feeding import Feed, Rows, batch_sizes
from enecg.stage1.lora import restore, trained
from enecg.stage1.units import Unit

Targets = dict[str, np.ndarray]


@dataclass
class Progress:
    """Where training stands: epochs done (of how many at most), the mean validation loss, and
    the records per second of the last epoch, over all workers."""

    epoch: int
    epochs: int
    loss: float | None
    rate: float


def fit_units(
    units: list[Unit],
    feed: Feed,
    targets: Targets,
    settings: Stage1Settings,
    *,
    bf16: bool = False,
    device: torch.device | None = None,
    resume_from: Path | None = None,
    after_epoch: Callable[[Progress, Callable[[Path], None]], None] | None = None,
) -> None:
    """Train units until each has stopped; their models end with their best epoch's tensors.

    A default process group must be there (one process will do).

    Parameters
    ----------
    units : list of Unit
    feed : Feed
        This worker's batches.
    targets : dict of str to float array, shape (N,)
        NaN where missing.
    settings : Stage1Settings
    bf16 : bool
        Train in bfloat16.
    device : torch.device, optional
    resume_from : Path, optional
        A folder that an earlier run's ``save`` wrote (see ``after_epoch``).
    after_epoch : callable, optional
        Called on every worker after each epoch with the progress and a function that saves this
        worker's part of the state to a folder.

    Raises
    ------
    JobFailed
        A loss is not finite.
    """
    device = device or torch.device("cpu")
    bank = Bank(units)
    if settings.activation_checkpointing == "blocks":
        for model in bank.of_units():
            if model.backbone is not None:
                checkpoint_blocks(model.backbone)
    engine = deepspeed_engine(bank, units, settings, device, bf16)
    first = load_state(resume_from, units, engine) if resume_from is not None else 0
    tensors = {name: torch.from_numpy(values) for name, values in targets.items()}
    steps = len(batch_sizes(feed.n, settings.batch_size))

    groups = _passed_together(units, settings)
    patience = settings.epochs if settings.patience == "none" else settings.patience
    for epoch in range(first + 1, settings.epochs + 1):
        if all(unit.finished for unit in units):
            break
        engine.train()
        for module in bank.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # its statistics would tie records, and units, together
        started = time.monotonic()
        for step, (batch, mine, inputs) in enumerate(feed.epoch(epoch, settings.batch_size)):
            at = (epoch - 1 + step / steps) / settings.epochs
            for unit, group in zip(units, engine.optimizer.param_groups, strict=True):
                group["lr"] = learning_rate_at(at, unit.choice.learning_rate)
            for last, part in _micro_batches(len(batch), feed.world, settings):
                places = torch.arange(feed.rank, len(batch), feed.world)[part]
                x = inputs[part].to(device)
                for group in groups:
                    engine.set_gradient_accumulation_boundary(last and group is groups[-1])
                    loss = _batch_loss(
                        engine, bank, units, group, tensors, batch, mine[part], x, places,
                        (epoch, step),
                    )  # fmt: skip
                    engine.backward(loss)
            engine.step()
        rate = feed.n / (time.monotonic() - started)
        size = sweep_size(settings, feed.world)
        losses = _validation_losses(engine, bank, units, feed, tensors, size, device)
        for unit, model, value in zip(units, bank.of_units(), losses, strict=True):
            if value is None and not _finite(trained(model).values()):
                raise _not_finite(unit, epoch, settings)
            if value is not None and not math.isfinite(value):
                raise JobFailed(
                    f"the loss of {unit.key} is {value} after epoch {epoch}; "
                    f"try a learning rate below {settings.learning_rate:g}"
                )
            if unit.observe(epoch, value, patience):
                unit.best_state = trained_state(model, settings.zero_stage)
        if after_epoch is not None:
            known = [value for value in losses if value is not None]
            mean = float(np.mean(known)) if known else None
            after_epoch(
                Progress(epoch, settings.epochs, mean, rate),
                partial(save_state, units=units, engine=engine, epoch=epoch),
            )
    for unit in units:
        if not _finite(unit.best_state.values()):
            raise _not_finite(unit, unit.best_epoch, settings)
        restore(unit.model, unit.best_state)
        unit.model.eval()
    engine.destroy()


def _finite(values: Iterable[Tensor]) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values)


def _not_finite(unit: Unit, epoch: int, settings: Stage1Settings) -> JobFailed:
    return JobFailed(
        f"{unit.key} has weights that are not finite after epoch {epoch}; "
        f"try a learning rate below {settings.learning_rate:g}"
    )


def _batch_loss(
    engine: Any,
    bank: Bank,
    units: list[Unit],
    group: slice,
    targets: dict[str, Tensor],
    batch: Rows,
    mine: Rows,
    x: Tensor,
    places: Tensor,
    when: tuple[int, int],
) -> Tensor:
    """Sum of some units' mean losses over the global batch, scaled for averaging over workers.

    ``group`` says which units. ``mine`` are the rows that ``x`` holds, at these ``places`` in the
    global batch; ``when`` is epoch and step.
    """
    units = units[group]
    wanted = _selections(units, mine, "learn", x.device)
    total = torch.zeros((), device=x.device)
    world = dist.get_world_size()
    first = int(places[0]) if len(places) else -1
    chances = [
        Chance(
            {
                name: [mask.to(x.device) for mask in masks]
                for name, masks in unit.dropout(len(batch), places[selected.cpu()], *when).items()
            },
            unit.seed(*when, first),
        )
        for unit, selected in zip(units, wanted, strict=True)
    ]
    for unit, model, selected, outputs in zip(
        units, bank.of_units()[group], wanted, engine(x, wanted, chances, group), strict=True
    ):
        rows = mine[selected.cpu().numpy()]
        for name, out_BC in outputs.items():
            learns = unit.learns[name]
            known = torch.from_numpy(learns[rows])
            target = targets[name][torch.from_numpy(rows)][known].to(x.device, torch.float32)
            losses = model.head(name).loss(out_BC[known.to(x.device)], target)
            total = total + losses.sum() * world / max(1, int(learns[batch].sum()))
    return total


@torch.no_grad()
def _validation_losses(
    engine: Any,
    bank: Bank,
    units: list[Unit],
    feed: Feed,
    targets: dict[str, Tensor],
    batch_size: int,
    device: torch.device,
) -> list[float | None]:
    """Each unit's validation loss (mean over records, summed over tasks); None without records."""
    engine.eval()
    slots = [(number, name) for number, unit in enumerate(units) for name in unit.validates]
    sums = torch.zeros(len(slots), 2, dtype=torch.float64)
    if slots:
        place = {slot: i for i, slot in enumerate(slots)}
        for mine, inputs in feed.sweep(batch_size):
            x = inputs.to(device)
            wanted = _selections(units, mine, "validate", device)
            for number, (unit, model, outputs) in enumerate(
                zip(units, bank.of_units(), engine(x, wanted), strict=True)
            ):
                rows = mine[wanted[number].cpu().numpy()]
                for name, mask in unit.validates.items():
                    known = torch.from_numpy(mask[rows])
                    target = targets[name][torch.from_numpy(rows)][known]
                    losses = model.head(name).loss(
                        outputs[name][known.to(device)], target.to(device, torch.float32)
                    )
                    sums[place[number, name], 0] += losses.double().sum().cpu()
                    sums[place[number, name], 1] += len(target)
        if dist.get_world_size() > 1:
            on_device = sums.to(device)
            dist.all_reduce(on_device)
            sums = on_device.cpu()
    result: list[float | None] = [None] * len(units)
    for (number, _), (loss, count) in zip(slots, sums.tolist(), strict=True):
        if count:
            result[number] = (result[number] or 0.0) + loss / count
    return result


def _passed_together(units: list[Unit], settings: Stage1Settings) -> list[slice]:
    """Which units go forwards before they go backwards.

    Of trained backbones one at a time, so that memory holds, and the cache keeps, what lies between
    for one alone. Under ZeRO 1 to 3 all together: there each parameter's gradient is passed on
    once per step.
    """
    if settings.zero_stage > 0 or units[0].model.backbone is None:
        return [slice(0, len(units))]
    return [slice(number, number + 1) for number in range(len(units))]


def _selections(units: list[Unit], rows: Rows, purpose: str, device: torch.device) -> list[Tensor]:
    """Per unit, the positions in a batch of the records it needs."""
    return [
        torch.from_numpy(np.flatnonzero(unit.wanted(rows, purpose))).to(device) for unit in units
    ]


def sweep_size(settings: Stage1Settings, world: int) -> int:
    """Records, over all workers, that pass the models together where nothing is learned."""
    if settings.micro_batch == "auto":
        return settings.batch_size
    return min(settings.batch_size, settings.micro_batch * world)


def _micro_batches(
    batch: int, world: int, settings: Stage1Settings
) -> Iterator[tuple[bool, slice]]:
    """Parts of a worker's share of a global batch, and whether they are the last ones.

    Every worker gets the same number of parts, since some ZeRO stages communicate in each.
    """
    share = -(-batch // world)
    size = share if settings.micro_batch == "auto" else settings.micro_batch
    for start in range(0, share, size):
        yield start + size >= share, slice(start, start + size)
