"""Tasks of stage 2 whose classes count alike, for ``stage1.class_weights: balanced``.

Without it a gate, a stacking weight or a calibration that is fitted to the classes as frequent as
they are would undo what the experts learned with all classes counting alike.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from enecg.config import Stage1Settings
from enecg.stage1.heads import balanced
from enecg.tasks import Task


@dataclass(frozen=True)
class BalancedTask(Task):
    """A classification or multi-label task in whose loss every class counts alike."""

    def losses(
        self, truth_B: npt.NDArray[np.floating], prediction_BC: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return each record's loss times its weight; the mean is that of the classes' own means.

        Parameters and shapes are as for `Task.losses`. Weights come from ``truth_B`` itself.
        """
        weight = record_weights(self, truth_B)
        if self.kind == "classification" or weight is None:
            each = super().losses(truth_B, prediction_BC)
            return each if weight is None else each * weight
        stated = prediction_BC.astype(np.float64)
        ones = [
            Task(name, "multilabel", classes=(name,)).losses(truth_B[:, [c]], stated[..., [c]])
            for c, name in enumerate(self.classes)
        ]
        return np.mean([one * weight[:, c] for c, one in enumerate(ones)], axis=0)


def stage_2_tasks(settings: Stage1Settings, tasks: list[Task]) -> list[Task]:
    """Return the tasks with the losses that stage 2 learns and chooses by."""
    if settings.class_weights == "none":
        return tasks
    return [_balanced_task(task) for task in tasks]


def _balanced_task(task: Task) -> Task:
    if task.kind == "regression":
        return task
    return BalancedTask(**{field.name: getattr(task, field.name) for field in fields(Task)})


def record_weights(task: Task, truth_B: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Return the weight of each labelled record, (B,), or of each of its labels, (B, C).

    None where all count alike: the task is not balanced, or nothing is labelled.
    """
    if not isinstance(task, BalancedTask) or not len(truth_B):
        return None
    factor = balanced(torch.from_numpy(np.ascontiguousarray(truth_B)), task.width, task.kind)
    if factor is None:
        return None
    weight = factor.double().numpy()
    if task.kind == "classification":
        return np.asarray(weight[truth_B.astype(int)])
    return np.where(truth_B > 0.5, weight[1], weight[0])
