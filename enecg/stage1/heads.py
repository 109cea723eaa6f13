"""Heads: from an expert's features to a task's value or class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from enecg.stage1.lora import add_lora
from enecg.tasks import Task

FFN_HIDDEN = (256, 256)
"""Hidden widths of the paper's feed-forward head (EnECG, arXiv 2511.22935)."""
LARGEST_DEVIATION = 8.0
"""Standardised features are cut off here; see `standardised`."""


class Head(nn.Module):
    """A feed-forward head; with no hidden layer, a linear one.

    Parameters
    ----------
    width_in : int
        Feature width D.
    task : Task
        Gives the output width C and what the output means.
    hidden : tuple of int
        Hidden widths.
    trained_backbone : bool
        Features that move during training are normalised per record (layer norm); those of a
        frozen backbone by the training records' mean and deviation, set with `scale_features`,
        and cut off at `LARGEST_DEVIATION`.
    """

    feature_mean: Tensor
    feature_std: Tensor
    target_mean: Tensor
    target_std: Tensor
    class_weight: Tensor | None

    def __init__(
        self, width_in: int, task: Task, hidden: tuple[int, ...], trained_backbone: bool = False
    ) -> None:
        super().__init__()
        self.kind, self.width = task.kind, task.width
        self.width_in = width_in
        self.hidden = hidden
        self.trained_backbone = trained_backbone
        self.register_buffer("feature_mean", torch.zeros(width_in))
        self.register_buffer("feature_std", torch.ones(width_in))
        self.register_buffer("target_mean", torch.zeros(1))
        self.register_buffer("target_std", torch.ones(1))
        self.register_buffer("class_weight", None, persistent=False)  # matters in training alone
        layers: list[nn.Module] = [nn.LayerNorm(width_in)] if trained_backbone else []
        for width_before, width in zip((width_in, *hidden), hidden, strict=False):
            layers += [nn.Linear(width_before, width), nn.GELU()]
        layers.append(nn.Linear(hidden[-1] if hidden else width_in, task.width))
        self.layers = nn.Sequential(*layers)

    def scale_features(self, f_ND: Tensor, row_B: Tensor) -> None:
        """Take the features' mean and deviation from training records, the rows ``row_B``."""
        for part in column_parts(len(row_B), f_ND.shape[1]):
            f_BP = f_ND[:, part][row_B]
            self.feature_mean[part] = f_BP.mean(0)
            self.feature_std[part] = spread(f_BP)

    def scale_targets(self, target_B: Tensor) -> None:
        """Take a regression target's mean and deviation from training records (no NaN)."""
        if self.kind == "regression" and len(target_B):
            self.target_mean.copy_(target_B.mean())
            deviation = target_B.std(correction=0)
            self.target_std.copy_(torch.where(deviation > 0, deviation, torch.ones(())))

    def weigh_classes(self, target_B: Tensor) -> None:
        """Let every class count alike in the loss, as often as each stands in some targets."""
        self.class_weight = balanced(target_B, self.width, self.kind)

    def add_lora(self, rank: int) -> None:
        """Put LoRA on the hidden layers; the layer norm and the last layer train as they are."""
        linear = [n for n, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        if not self.hidden:
            return
        add_lora(self.layers, [str(n) for n in linear[:-1]], rank)
        for layer in self.layers:
            if isinstance(layer, nn.LayerNorm) or layer is self.layers[-1]:
                layer.requires_grad_(True)

    def forward(self, f_BD: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        """Return standardised values or class logits, shape (B, C).

        ``keep`` multiplies the features, and what each hidden layer gives: dropout, drawn
        elsewhere.
        """
        x = f_BD
        if not self.trained_backbone:  # the others' layer norm takes features of any size
            x = standardised(x, self.feature_mean, self.feature_std)
        masks = iter(keep)
        if (mask := next(masks, None)) is not None:
            x = x * mask
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.GELU) and (mask := next(masks, None)) is not None:
                x = x * mask
        return x

    def loss(self, out_BC: Tensor, target_B: Tensor) -> Tensor:
        """Return each record's loss, shape (B,): absolute error in deviations, or cross-entropy.

        Of several labels (``target_B`` is then of shape (B, C)), the mean of theirs.
        """
        if self.kind == "regression":
            return (out_BC[:, 0] - (target_B - self.target_mean) / self.target_std).abs()
        weight = self.class_weight
        if self.kind == "multilabel":
            loss_BC = nn.functional.binary_cross_entropy_with_logits(
                out_BC.float(), target_B, reduction="none"
            )
            if weight is not None:
                loss_BC = loss_BC * torch.where(target_B > 0.5, weight[1], weight[0])
            return loss_BC.mean(1)
        classes = target_B.long()
        loss_B = nn.functional.cross_entropy(out_BC.float(), classes, reduction="none")
        return loss_B if weight is None else loss_B * weight[classes]

    def answer(self, out_BC: Tensor) -> Tensor:
        """Turn what `forward` gives into values in the task's unit, or class probabilities."""
        return answer(self.kind, out_BC, self.target_mean, self.target_std)


def answer(kind: str, out_BC: Tensor, target_mean: Tensor, target_std: Tensor) -> Tensor:
    """Turn standardised values or logits into values in a task's unit, or probabilities."""
    if kind == "regression":
        return out_BC.float() * target_std + target_mean
    if kind == "multilabel":
        return out_BC.float().sigmoid()
    return out_BC.float().softmax(-1)


def balanced(target_B: Tensor, width: int, kind: str) -> Tensor | None:
    """Return the factor by which each class's loss counts so that all classes count alike.

    Returns
    -------
    Tensor of shape (C,), of shape (2, C) for several labels (absent, present), or None
        Their mean over the records is 1; a class without records gets 1; None for a regression.
    """
    if kind == "regression":
        return None
    if kind == "multilabel":
        count_C = torch.stack([(target_B <= 0.5).sum(0), (target_B > 0.5).sum(0)]).float()
    else:
        count_C = torch.bincount(target_B.long(), minlength=width).float()
    present = (count_C > 0).sum(0)
    return torch.where(count_C > 0, len(target_B) / (present * count_C.clamp_min(1)), 1.0)


def standardised(f_BD: Tensor, mean_D: Tensor, std_D: Tensor) -> Tensor:
    """Return features in deviations from their mean, cut off at `LARGEST_DEVIATION`.

    A feature that hardly varied among the training records can lie hundreds of deviations away in
    a new one, and a linear head would follow it anywhere.
    """
    return ((f_BD - mean_D) / std_D).clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)


def column_parts(n: int, width: int) -> list[slice]:
    """Divide features so that each part of ``n`` records is small, whatever their number.

    Parts begin at multiples of 64, and only the last one, which takes the rest, has another width:
    so torch adds up every column just as it would in one go.
    """
    columns = max(64, 2**20 // max(1, n) // 64 * 64)
    starts = [columns * part for part in range(max(1, width // columns))]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], width], strict=True)]


def spread(f_BD: Tensor) -> Tensor:
    """Return each feature's deviation over the batch, shape (D,); 1 where it does not vary."""
    deviation = f_BD.std(0, correction=0)
    return torch.where(deviation > 1e-6 * f_BD.abs().amax(0).clamp_min(1e-6), deviation, 1.0)
