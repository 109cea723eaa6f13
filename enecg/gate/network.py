"""The gate: down-sampled leads → a small network → one weight per expert.

Gates of the same shape for several folds are trained as one stacked computation (axis U: one gate
each). They share nothing: each has its own parameters, its own records and its own mean loss, and
AdamW works element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from torch import Tensor

from enecg.gate.space import GateChoice
from enecg.signals import LEADS, SAMPLING_RATE_HZ
from enecg.tasks import SMALLEST, Task, known

RATE_HZ = 20
"""Sampling rate of what a gate sees."""
LIMIT_MV = 5.0
"""Larger deflections are cut off: they are artefacts."""
BATCH = 256


def gate_view(x_BLT: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return what a gate sees of some records: shape (B, 12, 200), in mV at 20 Hz.

    Missing samples are 0 mV.
    """
    known = np.nan_to_num(x_BLT, nan=0.0)
    slow = resample_poly(known, 1, SAMPLING_RATE_HZ // RATE_HZ, axis=-1)
    return np.clip(slow, -LIMIT_MV, LIMIT_MV).astype(np.float16)


@dataclass
class Gates:
    """U trained gates of one choice.

    Attributes
    ----------
    choice : GateChoice
    parameters : list of (Tensor of shape (U, in, out), Tensor of shape (U, 1, out))
        Weights and biases, layer by layer.
    """

    choice: GateChoice
    parameters: list[tuple[Tensor, Tensor]]

    @torch.no_grad()
    def weights(self, view_BLT: npt.NDArray[np.float16], experts: list[str]) -> Tensor:
        """Return the weights over all experts, shape (U, B, E); 0 for those not chosen.

        Parameters
        ----------
        view_BLT : array, shape (B, 12, 200)
            What `gate_view` gives.
        experts : list of str
            Names of the E experts, in the order wanted.
        """
        chosen_UBE = _forward(self.parameters, _input(view_BLT, self.choice), self.choice, None)
        weights_UBE = torch.zeros(*chosen_UBE.shape[:2], len(experts))
        places = [experts.index(name) for name in self.choice.experts]
        weights_UBE[:, :, places] = chosen_UBE
        return weights_UBE

    def of_unit(self, number: int) -> Gates:
        """Return one of the U gates alone (U = 1)."""
        alone = [(w[number : number + 1], b[number : number + 1]) for w, b in self.parameters]
        return Gates(self.choice, alone)


def train_gates(
    choice: GateChoice,
    view_NLT: npt.NDArray[np.float16],
    outputs_UNEC: npt.NDArray[np.float32],
    target_N: npt.NDArray[np.float64],
    learns_UN: npt.NDArray[np.bool_],
    task: Task,
    seed: int,
) -> Gates:
    """Train one gate per unit, all of the same choice.

    Parameters
    ----------
    choice : GateChoice
    view_NLT : float16 array, shape (N, 12, 200)
        What `gate_view` gives.
    outputs_UNEC : float32 array, shape (U, N, E, C)
        Outputs of the chosen experts, in the choice's order.
    target_N : float array, shape (N,), or (N, C) for several labels
        NaN where missing.
    learns_UN : bool array, shape (U, N)
        The records each gate learns from.
    task : Task
    seed : int

    Returns
    -------
    Gates
        In evaluation mode (no dropout).
    """
    known_UN = torch.from_numpy(learns_UN & known(target_N))
    x_NF = _input(view_NLT, choice)
    outputs = torch.from_numpy(outputs_UNEC)
    target = torch.from_numpy(np.nan_to_num(target_N)).float()
    scale_U = torch.ones(len(learns_UN))
    if task.kind == "regression":
        deviations = [target[rows].std(correction=0) for rows in known_UN]
        scale_U = torch.stack(deviations).nan_to_num(1.0).clamp_min(1e-6)  # NaN: no label at all
    random = torch.Generator().manual_seed(seed)
    parameters = _initial(choice, x_NF.shape[1], len(learns_UN), random)
    flat = [tensor for layer in parameters for tensor in layer]
    optimizer = torch.optim.AdamW(flat, lr=choice.learning_rate, weight_decay=choice.weight_decay)
    order = np.random.default_rng(seed)
    for _ in range(choice.epochs):
        shuffled = torch.from_numpy(order.permutation(len(x_NF)))
        for rows in shuffled.split(BATCH):
            weights_UBE = _forward(parameters, x_NF[rows], choice, random)
            here_UB = known_UN[:, rows]
            # `where` and not a product: what a gate may not see must not even be NaN for it.
            shown_UBEC = torch.where(here_UB[..., None, None], outputs[:, rows], 0.0)
            mixed_UBC = torch.einsum("ube,ubec->ubc", weights_UBE, shown_UBEC)
            if task.kind == "regression":
                loss_UB = (mixed_UBC[..., 0] - target[rows]).abs() / scale_U[:, None]
            elif task.kind == "multilabel":
                right_UBC = torch.where(target[rows] > 0.5, mixed_UBC, 1 - mixed_UBC)
                loss_UB = -right_UBC.clamp_min(SMALLEST).log().mean(-1)
            else:
                classes = target[rows].long().expand(len(learns_UN), -1)[..., None]
                loss_UB = -mixed_UBC.gather(-1, classes)[..., 0].clamp_min(SMALLEST).log()
            loss_U = torch.where(here_UB, loss_UB, 0.0).sum(1) / here_UB.sum(1).clamp_min(1)
            optimizer.zero_grad()
            loss_U.sum().backward()
            optimizer.step()
    return Gates(choice, [(w.detach(), b.detach()) for w, b in parameters])


def _input(view_BLT: npt.NDArray[np.float16], choice: GateChoice) -> Tensor:
    places = [LEADS.index(lead) for lead in choice.leads]
    return torch.from_numpy(np.ascontiguousarray(view_BLT[:, places])).float().flatten(1)


def _initial(
    choice: GateChoice, width_in: int, n_units: int, random: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """He initialisation; the last layer is zero, so a gate starts as the plain mean.

    One draw for all units: a gate's start depends on the seed alone, not on who is in the stack.
    """
    widths = [width_in, *[choice.width] * choice.depth, len(choice.experts)]
    layers = []
    for number, (before, after) in enumerate(pairwise(widths)):
        weight = torch.randn(before, after, generator=random) * (2 / before) ** 0.5
        weight = weight.repeat(n_units, 1, 1)
        if number == choice.depth:
            weight.zero_()
        layers.append((weight.requires_grad_(), torch.zeros(n_units, 1, after).requires_grad_()))
    return layers


def _forward(
    parameters: list[tuple[Tensor, Tensor]],
    x_BF: Tensor,
    choice: GateChoice,
    dropout: torch.Generator | None,
) -> Tensor:
    """Weights over the chosen experts, shape (U, B, E); with a generator, dropout is on."""
    hidden = x_BF.expand(len(parameters[0][0]), -1, -1)
    for number, (weight, bias) in enumerate(parameters):
        if dropout is not None and choice.dropout > 0:
            # One draw for all units: the mask then depends on the seed and step alone.
            keep = torch.rand(hidden.shape[1:], generator=dropout) >= choice.dropout
            hidden = hidden * keep / (1 - choice.dropout)
        hidden = torch.baddbmm(bias, hidden, weight)
        if number + 1 < len(parameters):
            hidden = torch.nn.functional.gelu(hidden)
    return (hidden / choice.temperature).softmax(-1)
