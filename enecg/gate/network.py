"""The gate: down-sampled leads → a small network → weights over experts → one prediction.

Gates of the same shape for several folds are one stacked computation (axis U: one gate each).
They share nothing: each has its own parameters, its own records and its own loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import resample_poly
from torch import Tensor
from torch.nn import functional

from enecg.gate.space import GateChoice, plain_choice
from enecg.signals import DURATION_S, LEADS, SAMPLING_RATE_HZ
from enecg.tasks import SMALLEST, Task

RATE_HZ = 20
"""Sampling rate of what a gate sees."""
VIEW_SAMPLES = DURATION_S * RATE_HZ
"""Length of what a gate sees."""
LIMIT_MV = 5.0
"""Larger deflections are cut off: they are artefacts."""
KERNEL = 16
"""Length and step of the convolution in samples of what a gate sees: 0.8 s, a heart beat or so."""
SHOWN = 8
"""Numbers that a gate sees of each expert's features, where it sees those."""
TOGETHER = 64
"""Columns of a product over what all gates see alike; see `shared_layer`."""
NEVER = -1e9
"""Logit of an expert that has no output; finite, since gradients of −∞ are not numbers."""

Parameters = dict[str, Tensor]
"""By name, with the gates' axis first: ``dense0/weight`` is of shape (U, in, out)."""


def gate_view(x_BLT: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Return what a gate sees of some records: shape (B, 12, 200), in mV at 20 Hz.

    Missing samples, and so missing leads, are 0 mV.
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
    parameters : dict of str to Tensor
        See `initial`.
    """

    choice: GateChoice
    parameters: Parameters

    def predict(
        self,
        view_BLT: npt.NDArray[np.float16],
        outputs_UBEC: npt.NDArray[np.float32],
        task: Task,
        features_UBEK: npt.NDArray[np.float32] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mix the experts' outputs.

        Parameters
        ----------
        view_BLT : array, shape (B, 12, 200)
            What `gate_view` gives.
        outputs_UBEC : array, shape (U, B, E, C)
            Outputs of the choice's experts, in its order; NaN where an expert has none.
        task : Task
        features_UBEK : array, shape (U, B, E, K), optional
            What `features.Reduction` gives of their features, for gates that see those.

        Returns
        -------
        predictions : array, shape (U, B, C)
            NaN where no expert of the choice has an output.
        weights : array, shape (U, B, E)
            Sum to 1, and are 0 where there is no output; where each class has weights of its own,
            their mean over classes.
        """
        return self.predict_leads(
            leads_of(view_BLT, self.choice), outputs_UBEC, task, features_UBEK
        )

    @torch.no_grad()
    def predict_leads(
        self,
        x_BLT: Tensor,
        outputs_UBEC: npt.NDArray[np.float32],
        task: Task,
        features_UBEK: npt.NDArray[np.float32] | None = None,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `predict`, from what `leads_of` gives."""
        outputs = torch.from_numpy(np.ascontiguousarray(outputs_UBEC))
        features = None
        if features_UBEK is not None:
            features = torch.from_numpy(np.ascontiguousarray(features_UBEK))
        weights_UBCE = weigh(self.parameters, x_BLT, outputs, self.choice, features_UBEK=features)
        mixed_UBC = mix(weights_UBCE, outputs, self.choice, task)
        return mixed_UBC.numpy(), weights_UBCE.mean(2).numpy()

    def of_unit(self, number: int) -> Gates:
        """Return one of the U gates alone (U = 1)."""
        return Gates(self.choice, {n: p[number : number + 1] for n, p in self.parameters.items()})


def constant_gate(weights: dict[str, float]) -> Gates:
    """Return a single gate that looks at nothing and always gives the same weights.

    Parameters
    ----------
    weights : dict of str to float
        By expert; non-negative, not all 0. They are scaled to sum to 1.
    """
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    choice = plain_choice(tuple(positive))
    gate = Gates(choice, initial(choice, 1, 1, torch.Generator()))
    gate.parameters["dense0/bias"][0, 0] = torch.tensor([*positive.values()]).log()
    return gate


def leads_of(view_BLT: npt.NDArray[np.float16], choice: GateChoice) -> Tensor:
    """Return the leads that a gate looks at, shape (B, L, 200)."""
    places = [LEADS.index(lead) for lead in choice.leads]
    return torch.from_numpy(np.ascontiguousarray(view_BLT[:, places])).float()


def initial(
    choice: GateChoice, n_units: int, n_outputs: int, random: torch.Generator
) -> Parameters:
    """Draw a choice's parameters (He et al. 2015).

    The last layer is zero, so a gate starts as the plain mean. One draw for all units: a gate's
    start depends on the seed alone, not on who is in the stack.

    Parameters
    ----------
    choice : GateChoice
    n_units : int
    n_outputs : int
        Output columns C of the task.
    random : torch.Generator

    Returns
    -------
    dict of str to Tensor
        ``conv/…`` where the encoder is convolutional; ``dense0/…``, …; ``joined/weight`` where
        the experts' outputs or features are joined to what the first dense layer sees; for
        outputs also ``center`` and ``scale`` (U, 1, 1, 1), which standardise those.
    """
    drawn: Parameters = {}

    def layer(name: str, before: int, after: int, zero: bool) -> None:
        weight = torch.randn(before, after, generator=random) * (2 / before) ** 0.5
        drawn[f"{name}/weight"] = (weight * (not zero)).repeat(n_units, 1, 1)
        drawn[f"{name}/bias"] = torch.zeros(n_units, 1, after)

    if choice.encoder == "conv":
        layer("conv", len(choice.leads) * KERNEL, choice.width, zero=False)
        width_in = 2 * choice.width
    else:
        width_in = len(choice.leads) * VIEW_SAMPLES
    columns = n_outputs if choice.weights_per == "class" else 1
    widths = [width_in, *[choice.width] * choice.depth, len(choice.experts) * columns]
    for number, (before, after) in enumerate(pairwise(widths)):
        layer(f"dense{number}", before, after, zero=number == choice.depth)
    if choice.joined != "nothing":
        each = n_outputs if choice.joined == "outputs" else SHOWN
        layer("joined", len(choice.experts) * each, widths[1], zero=choice.depth == 0)
        del drawn["joined/bias"]
    if choice.joined == "outputs":
        drawn["center"] = torch.zeros(n_units, 1, 1, 1)
        drawn["scale"] = torch.ones(n_units, 1, 1, 1)
    return drawn


def weigh(
    parameters: Parameters,
    x_BLT: Tensor,
    outputs_UBEC: Tensor,
    choice: GateChoice,
    dropout: torch.Generator | None = None,
    features_UBEK: Tensor | None = None,
) -> Tensor:
    """Return weights over the chosen experts, shape (U, B, 1 or C, E).

    Parameters
    ----------
    parameters : dict of str to Tensor
    x_BLT : Tensor, shape (B, L, 200)
        The chosen leads, the same for all gates.
    outputs_UBEC : Tensor, shape (U, B, E, C)
        NaN where an expert has none: its weight is 0, the others' still sum to 1.
    choice : GateChoice
    dropout : torch.Generator, optional
        With one, dropout is on.
    features_UBEK : Tensor, shape (U, B, E, K), optional
        NaN where an expert has none; a gate that is to see features and is given none sees zeros.
    """
    n_experts = outputs_UBEC.shape[2]

    def dropped(hidden_UBF: Tensor) -> Tensor:
        if dropout is None or choice.dropout == 0:
            return hidden_UBF
        # One draw for all units: the mask then depends on the seed and step alone.
        keep = torch.rand(hidden_UBF.shape[1:], generator=dropout) >= choice.dropout
        return hidden_UBF * (keep / (1 - choice.dropout))

    if choice.encoder == "conv":
        patches = x_BLT.unfold(-1, KERNEL, KERNEL).transpose(1, 2).flatten(2)  # (B, T', L·K)
        inner = shared_layer(patches.flatten(0, 1), parameters, "conv")
        inner = inner.relu().unflatten(1, patches.shape[:2])
        hidden = dropped(torch.cat([inner.mean(2), inner.amax(2)], dim=-1))
    for number in range(choice.depth + 1):
        if number:
            hidden = dropped(hidden.relu())  # exact, wherever in a stack a number stands
        if number == 0 and choice.encoder == "mlp":
            hidden = shared_layer(dropped(x_BLT.flatten(1)[None])[0], parameters, "dense0")
        else:
            hidden = torch.baddbmm(
                parameters[f"dense{number}/bias"], hidden, parameters[f"dense{number}/weight"]
            )
        shown = features_UBEK if choice.joined == "features" else None
        if choice.joined == "outputs":
            shown = (outputs_UBEC - parameters["center"]) / parameters["scale"]
        if number == 0 and shown is not None:
            shown_UBJ = dropped(shown.nan_to_num(0.0).flatten(2))
            hidden = torch.baddbmm(hidden, shown_UBJ, parameters["joined/weight"])
    logits_UBCE = hidden.unflatten(-1, (-1, n_experts)) / choice.temperature
    there_UBCE = ~outputs_UBEC.isnan().any(-1)[:, :, None]
    weights_UBCE = logits_UBCE.masked_fill(~there_UBCE, NEVER).softmax(-1) * there_UBCE
    if 0 < choice.top_k < n_experts:
        # Equal ones all stay: a gate still starts as the plain mean, and learns whom to drop.
        smallest = weights_UBCE.topk(choice.top_k, dim=-1).values[..., -1:]
        weights_UBCE = torch.where(weights_UBCE >= smallest, weights_UBCE, 0.0)
    return weights_UBCE / weights_UBCE.sum(-1, keepdim=True).clamp_min(SMALLEST)


def shared_layer(x_RF: Tensor, parameters: Parameters, name: str) -> Tensor:
    """Apply every gate's own layer to the same rows, shape (U, R, H).

    The gates' columns stand side by side, which is several times as fast as narrow products, one
    for each gate. All products are of the same width, filled up with zeros: else the last bits
    of a gate would depend on how many there are in the stack.
    """
    weight_UFH = parameters[f"{name}/weight"]
    flat_FW = weight_UFH.transpose(0, 1).flatten(1)
    width = flat_FW.shape[1]
    parts = functional.pad(flat_FW, (0, -width % TOGETHER)).split(TOGETHER, dim=1)
    out_RW = torch.cat([x_RF @ part.contiguous() for part in parts], dim=1)[:, :width]
    out_URH = out_RW.unflatten(1, (len(weight_UFH), -1)).transpose(0, 1).contiguous()
    return out_URH + parameters[f"{name}/bias"]


def mix(weights_UBCE: Tensor, outputs_UBEC: Tensor, choice: GateChoice, task: Task) -> Tensor:
    """Return the weighted outputs, or the weighted logits as probabilities, shape (U, B, C)."""
    outputs_UBCE = outputs_UBEC.transpose(-1, -2)
    there_UBCE = ~outputs_UBCE.isnan()
    probabilities = task.kind != "regression"
    if probabilities and choice.mix == "logits":
        outputs_UBCE = outputs_UBCE.clamp(SMALLEST, 1 - SMALLEST)
        logs_UBCE = outputs_UBCE.log()
        several = task.kind == "multilabel"
        outputs_UBCE = logs_UBCE - (1 - outputs_UBCE).log() if several else logs_UBCE
    # `where` and not a product: what is missing must not turn the rest into NaN.
    mixed_UBC = (weights_UBCE * torch.where(there_UBCE, outputs_UBCE, 0.0)).sum(-1)
    if probabilities and choice.mix == "logits":
        if several:  # sigmoid's last bits depend on where in a stack a number stands
            mixed_UBC = torch.stack([mixed_UBC, torch.zeros_like(mixed_UBC)], -1).softmax(-1)[
                ..., 0
            ]
        else:
            mixed_UBC = mixed_UBC.softmax(-1)
    elif task.kind == "classification" and choice.weights_per == "class":
        mixed_UBC = mixed_UBC / mixed_UBC.sum(-1, keepdim=True).clamp_min(SMALLEST)
    if probabilities:  # a weighted mean of ones may round to a little more than one
        mixed_UBC = mixed_UBC.clamp(0, 1)
    return torch.where(there_UBCE.any(-1), mixed_UBC, torch.nan)
