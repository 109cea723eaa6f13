"""Gates that learn from random numbers, for the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from enecg.gate.network import SHOWN, Gates
from enecg.gate.space import GateChoice
from enecg.gate.training import train_gates
from enecg.tasks import Task
from problems import AGE

EXPERTS = ["a", "b", "c"]


def choice(**changes: Any) -> GateChoice:
    return GateChoice.model_validate(
        {
            "leads": "II+V1", "experts": ("a", "b", "c"), "depth": 1, "width": 8, "dropout": 0.2,
            "temperature": 1.0, "learning_rate": 1e-2, "weight_decay": 0.1, "epochs": 2,
        }
        | changes
    )  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What some gates learn from."""

    task: Task
    view_NLT: np.ndarray
    outputs_UNEC: np.ndarray
    target_N: np.ndarray
    learns_UN: np.ndarray
    features_UNEK: np.ndarray

    def train(self, chosen: GateChoice, seed: int = 5) -> Gates:
        torch.set_num_threads(1)
        return train_gates(
            chosen, self.view_NLT, self.outputs_UNEC, self.target_N, self.learns_UN, self.task,
            seed, self.features_UNEK if chosen.joined == "features" else None,
        )  # fmt: skip

    def unit(self, number: int) -> Material:
        part = slice(number, number + 1)
        return replace(
            self, outputs_UNEC=self.outputs_UNEC[part], learns_UN=self.learns_UN[part],
            features_UNEK=self.features_UNEK[part],
        )  # fmt: skip


def material(task: Task = AGE, units: int = 3, n: int = 300) -> Material:
    random = np.random.default_rng(0)
    outputs = random.random((units, n, len(EXPERTS), task.width)).astype(np.float32)
    if task.kind == "classification":
        outputs /= outputs.sum(-1, keepdims=True)
        target = random.integers(0, task.width, n).astype(float)
    elif task.kind == "multilabel":
        target = random.integers(0, 2, (n, task.width)).astype(float)
    else:
        target = random.normal(size=n)
    target[::9] = np.nan
    view = random.normal(size=(n, 12, 200)).astype(np.float16)
    learns = random.random((units, n)) < 0.7
    features = random.normal(size=(units, n, len(EXPERTS), SHOWN)).astype(np.float32)
    features[:, :, 1] = np.nan  # one has none
    return Material(task, view, outputs, target, learns, features)


def tensors(gates: Gates) -> list[torch.Tensor]:
    return [*gates.parameters.values()]


def weights(gates: Gates, view_BLT: np.ndarray, task: Task = AGE) -> torch.Tensor:
    """The weights where every expert has an output, shape (U, B, E)."""
    units = len(tensors(gates)[0])
    outputs = np.ones((units, len(view_BLT), len(gates.choice.experts), task.width), np.float32)
    return torch.from_numpy(gates.predict(view_BLT, outputs, task)[1])
