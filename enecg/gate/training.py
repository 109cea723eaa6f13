"""Training gates: all folds of one choice at once, none of them noticing the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from enecg.gate.balanced import BalancedTask, record_weights
from enecg.gate.network import Gates, initial, leads_of, mix, weigh
from enecg.gate.space import GateChoice
from enecg.tasks import SMALLEST, Task, known

BATCH = 512


def train_gates(
    choice: GateChoice,
    view_NLT: npt.NDArray[np.float16],
    outputs_UNEC: npt.NDArray[np.float32],
    target_N: npt.NDArray[np.float64],
    learns_UN: npt.NDArray[np.bool_],
    task: Task,
    seed: int,
    features_UNEK: npt.NDArray[np.float32] | None = None,
) -> Gates:
    """Train one gate per unit, all of the same choice; parameters are as for `epochs_of`."""
    given = (view_NLT, outputs_UNEC, target_N, learns_UN, task, seed, features_UNEK)
    *_, trained = epochs_of(choice, *given)
    return trained


def epochs_of(
    choice: GateChoice,
    view_NLT: npt.NDArray[np.float16],
    outputs_UNEC: npt.NDArray[np.float32],
    target_N: npt.NDArray[np.float64],
    learns_UN: npt.NDArray[np.bool_],
    task: Task,
    seed: int,
    features_UNEK: npt.NDArray[np.float32] | None = None,
) -> Iterator[Gates]:
    """Train one gate per unit, all of the same choice, and show them after each epoch.

    Every gate has its own mean loss and AdamW works element by element, so that a gate trained
    alone comes out the same.

    Parameters
    ----------
    choice : GateChoice
    view_NLT : float16 array, shape (N, 12, 200)
        What `gate_view` gives.
    outputs_UNEC : float32 array, shape (U, N, E, C)
        Outputs of the chosen experts, in the choice's order; NaN where one has none.
    target_N : float array, shape (N,), or (N, C) for several labels
        NaN where missing.
    learns_UN : bool array, shape (U, N)
        The records each gate learns from.
    task : Task
    seed : int
    features_UNEK : float32 array, shape (U, N, E, K), optional
        What each gate sees of the experts' features; NaN where one has none.

    Yields
    ------
    Gates
        After each epoch; once, untrained, where there is none. The next epoch changes them.
    """
    known_UN = torch.from_numpy(learns_UN & known(target_N))
    x_NLT = leads_of(view_NLT, choice)
    outputs = torch.from_numpy(outputs_UNEC)
    features = None if features_UNEK is None else torch.from_numpy(features_UNEK)
    target = torch.from_numpy(np.nan_to_num(target_N)).float()
    random = torch.Generator().manual_seed(seed)
    parameters = initial(choice, len(learns_UN), task.width, random)
    center_U, scale_U = _scale(target, known_UN, task)
    if choice.joined == "outputs":
        parameters["center"].copy_(center_U[:, None, None, None])
        parameters["scale"].copy_(scale_U[:, None, None, None])
    learned = [p.requires_grad_() for n, p in parameters.items() if n not in ("center", "scale")]
    optimizer = torch.optim.AdamW(
        learned, lr=choice.learning_rate, weight_decay=choice.weight_decay
    )
    weight_UN = _class_weights(task, target_N, known_UN)
    order = np.random.default_rng(seed)
    shown = Gates(choice, {name: value.detach() for name, value in parameters.items()})
    for _ in range(choice.epochs):
        for rows in torch.from_numpy(order.permutation(len(x_NLT))).split(BATCH):
            here_UB = known_UN[:, rows]
            # `where` and not a product: what a gate may not see must not even be NaN for it.
            outputs_UBEC = torch.where(here_UB[..., None, None], outputs[:, rows], 0.0)
            features_UBEK = None
            if features is not None:
                features_UBEK = torch.where(here_UB[..., None, None], features[:, rows], 0.0)
            weights_UBCE = weigh(
                parameters, x_NLT[rows], outputs_UBEC, choice, random, features_UBEK
            )
            mixed_UBC = mix(weights_UBCE, outputs_UBEC, choice, task)
            here_UB = here_UB & ~mixed_UBC.isnan().any(-1)  # some expert must have an output
            weight_UB = None if weight_UN is None else weight_UN[:, rows]
            loss_UB = _losses(mixed_UBC.nan_to_num(), target[rows], scale_U, task, weight_UB)
            n_U = here_UB.sum(1).clamp_min(1)
            loss_U = torch.where(here_UB, loss_UB, 0.0).sum(1) / n_U
            if choice.balance > 0:
                # A product, since the order in which `sum` adds depends on the size of the stack.
                share_UE = torch.bmm(here_UB[:, None].float(), weights_UBCE.mean(2))[:, 0]
                share_UE = share_UE / n_U[:, None]
                # The squared coefficient of variation of the experts' mean weights (Shazeer et
                # al., ICLR 2017): 0 where all are used alike.
                loss_U = loss_U + choice.balance * (
                    share_UE.shape[1] * share_UE.square().sum(1) - share_UE.sum(1).square()
                )
            optimizer.zero_grad()
            loss_U.sum().backward()
            optimizer.step()
        yield shown
    if choice.epochs == 0:
        yield shown


def _scale(target: Tensor, known_UN: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Each gate's mean and deviation of a regression target, over the records it learns from."""
    n_units = len(known_UN)
    if task.kind != "regression":
        return torch.full((n_units,), 1 / task.width), torch.ones(n_units)
    means = torch.stack([target[rows].mean() for rows in known_UN])
    deviations = torch.stack([target[rows].std(correction=0) for rows in known_UN])
    return means.nan_to_num(0.0), deviations.nan_to_num(1.0).clamp_min(1e-6)  # NaN: no label at all


def _class_weights(
    task: Task, target_N: npt.NDArray[np.float64], known_UN: Tensor
) -> Tensor | None:
    """Each gate's weights of the records it learns from, (U, N), or of their labels, (U, N, C).

    None where all count alike.
    """
    if not isinstance(task, BalancedTask):
        return None
    weight_UN = torch.ones(len(known_UN), *target_N.shape)
    for weight_N, learned_N in zip(weight_UN, known_UN, strict=True):
        weight = record_weights(task, target_N[learned_N.numpy()])
        if weight is not None:
            weight_N[learned_N] = torch.from_numpy(weight).float()
    return weight_UN


def _losses(
    mixed_UBC: Tensor, target_B: Tensor, scale_U: Tensor, task: Task, weight_UB: Tensor | None
) -> Tensor:
    """Absolute error in deviations, or negative log-likelihood by weight, shape (U, B)."""
    if task.kind == "regression":
        return (mixed_UBC[..., 0] - target_B).abs() / scale_U[:, None]
    if task.kind == "multilabel":
        right_UBC = torch.where(target_B > 0.5, mixed_UBC, 1 - mixed_UBC)
        loss_UBC = -right_UBC.clamp_min(SMALLEST).log()
        return (loss_UBC if weight_UB is None else loss_UBC * weight_UB).mean(-1)
    classes = target_B.long().expand(len(mixed_UBC), -1)[..., None]
    loss_UB = -mixed_UBC.gather(-1, classes)[..., 0].clamp_min(SMALLEST).log()
    return loss_UB if weight_UB is None else loss_UB * weight_UB
