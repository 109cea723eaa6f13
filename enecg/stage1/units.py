"""What is trained together but stays apart: units, each with its own records, loss and stopping."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from enecg.experts.contract import Expert
from enecg.nested import Fit, Nested
from enecg.stage1.head_space import HeadChoice
from enecg.stage1.heads import Head
from enecg.tasks import Task, known


class UnitModel(nn.Module):
    """Heads of one fit, on given features or on a backbone of their own.

    Parameters
    ----------
    heads : dict of str to Head
        A head per task.
    backbone : Expert, optional
        Trained with the heads; without one the input is features.
    """

    def __init__(self, heads: dict[str, Head], backbone: Expert | None = None) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)
        self.backbone = backbone

    def head(self, task: str) -> Head:
        """Return one task's head."""
        return cast(Head, self.heads[task])

    def forward(
        self, inputs: Tensor, keep: Mapping[str, Sequence[Tensor]] | None = None
    ) -> dict[str, Tensor]:
        """Return what each task's head gives, shape (B, C) each; ``keep`` is their dropout."""
        f_BD = inputs if self.backbone is None else self.backbone.embed(inputs)
        masks = keep or {}
        return {name: head(f_BD, masks.get(name, ())) for name, head in self.heads.items()}


@dataclass
class Unit:
    """One model in training.

    Attributes
    ----------
    key : str
        Unique name.
    fit : Fit
        Whose groups it may learn from.
    model : UnitModel
    choice : HeadChoice
        Its heads, and how it learns.
    learns : dict of str to bool array, shape (N,)
        Per task, the records whose loss is minimised.
    validates : dict of str to bool array, shape (N,)
        Per task, the records whose loss decides when to stop; empty where `epochs` is fixed.
    epochs : int or None
        Train for so many epochs, without validation.
    best_loss, best_epoch, best_state, finished
        The best epoch so far (1 is the first), its trained tensors, and whether patience has run
        out.
    """

    key: str
    fit: Fit
    model: UnitModel
    choice: HeadChoice
    learns: dict[str, np.ndarray]
    validates: dict[str, np.ndarray]
    epochs: int | None = None
    best_loss: float = float("inf")
    best_epoch: int = 0
    best_state: dict[str, Tensor] = field(default_factory=dict)
    finished: bool = False

    def wanted(self, rows: np.ndarray, purpose: str) -> np.ndarray:
        """Return which of some records (row numbers) any task of this unit needs: bool array.

        A unit that has finished, or does not validate, needs none.
        """
        masks = self.learns if purpose == "learn" else self.validates
        if self.finished or not masks:
            return np.zeros(len(rows), dtype=bool)
        return np.logical_or.reduce([mask[rows] for mask in masks.values()])

    def seed(self, *when: int) -> int:
        """Return a number that depends on the unit's name and a moment of its training alone."""
        digest = hashlib.sha256(f"{self.key}/{when}".encode()).digest()
        return int.from_bytes(digest[:7], "little")

    def dropout(self, batch: int, positions: Tensor, *when: int) -> dict[str, list[Tensor]]:
        """Draw what features and hidden layers' outputs are multiplied by, for some records.

        Parameters
        ----------
        batch : int
            Records in the global batch.
        positions : Tensor of int
            Places in it of the records that are passed through the model.
        *when : int
            The moment: epoch and step.
        """
        choice = self.choice
        if choice.dropout == choice.input_dropout == 0:
            return {}
        random = torch.Generator().manual_seed(self.seed(*when))

        def mask(width: int, rate: float) -> Tensor:
            if rate == 0:
                return torch.ones(1, 1)
            return (torch.rand(batch, width, generator=random) >= rate)[positions] / (1 - rate)

        return {
            name: [
                mask(self.model.head(name).width_in, choice.input_dropout),
                *(mask(width, choice.dropout) for width in choice.hidden),
            ]
            for name in self.model.heads
        }

    def observe(self, epoch: int, loss: float | None, patience: int) -> bool:
        """Take note of an epoch's validation loss; return whether its tensors are to be kept."""
        if self.finished:
            return False
        if self.epochs is not None:
            self.finished = epoch >= self.epochs
            self.best_epoch = epoch
            return self.finished
        if loss is None:  # nothing labelled to stop by: the last epoch counts
            self.best_epoch = epoch
            return True
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            return True
        self.finished = epoch - self.best_epoch >= patience
        return False


def build_unit(
    fit: Fit,
    tasks: list[Task],
    targets: dict[str, np.ndarray],
    nested: Nested,
    seed: int,
    choice: HeadChoice,
    *,
    number: int = 0,
    lora_rank: int | None = None,
    balance: bool = False,
    features_ND: Tensor | None = None,
    make_backbone: Callable[[], Expert] | None = None,
    epochs: int | None = None,
) -> Unit:
    """Make one unit; its heads' weights are drawn from the seed and its key alone.

    Parameters
    ----------
    fit : Fit
        Whose training groups are meant.
    tasks : list of Task
        One head each.
    targets : dict of str to float array, shape (N,) or (N, C)
        NaN where missing.
    nested : Nested
        Says which records the fit learns from, and by which of them it stops (unless ``epochs``
        is given).
    seed : int
    choice : HeadChoice
        What the heads are.
    number : int
        Tells units apart that differ in ``choice`` alone.
    lora_rank : int, optional
        Train the heads' hidden layers by LoRA of this rank.
    balance : bool
        Let every class count alike.
    features_ND : Tensor, optional
        Features of all records, where the backbone is frozen.
    make_backbone : callable, optional
        Gives a fresh backbone to be trained, where it is not.
    epochs : int, optional
        A fixed number of epochs.
    """
    key = "-".join([fit.key, *(task.name for task in tasks), *([str(number)] if number else [])])
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    labelled = {t.name: nested.learns_from(fit) & known(targets[t.name]) for t in tasks}
    stops = np.zeros_like(nested.stops_by(fit)) if epochs is not None else nested.stops_by(fit)
    # The heads' initial weights must not depend on which other units are made before them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        backbone = make_backbone() if make_backbone else None
        width = backbone.spec.width if backbone is not None else _width(features_ND)
        heads = {
            task.name: Head(width, task, choice.hidden, trained_backbone=backbone is not None)
            for task in tasks
        }
        if lora_rank is not None:
            for head in heads.values():
                head.add_lora(lora_rank)
    learns = {name: mask & ~stops for name, mask in labelled.items()}
    for name, head in heads.items():
        rows = np.flatnonzero(learns[name])
        head.scale_targets(torch.from_numpy(targets[name][rows]).float())
        if balance and len(rows):
            head.weigh_classes(torch.from_numpy(targets[name][rows]).float())
        if features_ND is not None and len(rows):
            head.scale_features(features_ND, torch.from_numpy(rows))
    validates = {} if epochs is not None else {n: m & stops for n, m in labelled.items()}
    return Unit(key, fit, UnitModel(heads, backbone), choice, learns, validates, epochs)


def _width(features_ND: Tensor | None) -> int:
    if features_ND is None:
        raise ValueError("a unit needs features or a backbone")
    return features_ND.shape[1]
