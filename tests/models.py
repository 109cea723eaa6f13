"""Small adapted experts, gates and bundles for the tests: made by hand of random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from enecg import experts
from enecg.bundle import Bundle
from enecg.config import ExpertSettings
from enecg.gate.calibration import Calibration
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import Reduction, fit_reduction
from enecg.gate.network import Gates, initial
from enecg.gate.space import GateChoice
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.heads import FFN_HIDDEN, Head
from enecg.stage1.kernel import KERNELS, KernelHead
from enecg.stage1.trees import Trees, fit_trees
from enecg.tasks import Task

ROCKET = ExpertSettings.model_validate({"kernels": 8})
DLINEAR = ExpertSettings.model_validate({"adaptation": "full", "kernel": 25, "pred_len": 2})
SETTINGS = {"rocket": ROCKET, "dlinear": DLINEAR}


def randomised(module: Any, seed: int) -> Any:
    """Draw every tensor of a module anew, deviations positive; gives the module."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        drawn = 0.1 * torch.randn(value.shape, generator=generator)
        value.copy_(drawn.abs() + 1 if name.endswith("_std") else drawn)
    return module.eval()


def grown(width: int, task: Task, seed: int) -> Trees:
    """Trees of 60 random records."""
    generator = torch.Generator().manual_seed(seed)
    f_RD = torch.randn(60, width, generator=generator)
    noise_RC = torch.randn(60, task.width, generator=generator) / 5
    if task.kind == "multilabel":
        return fit_trees(f_RD, ((f_RD[:, : task.width] + noise_RC) > 0).double(), task)
    if task.kind == "classification":
        return fit_trees(f_RD, (f_RD[:, : task.width] + noise_RC).argmax(1).double(), task)
    return fit_trees(f_RD, 50 + 10 * f_RD[:, 0].double(), task)


def adapted_expert(name: str, task: Task, kind: str = "ridge", n_models: int = 1) -> AdaptedExpert:
    """Random heads, on backbones of their own where the expert is trained."""
    settings = SETTINGS[name]
    models = []
    for number in range(n_models):
        seed = 10 * number + task.width
        expert = experts.load(name, **settings.options)
        backbone = None if settings.frozen else randomised(expert, seed)
        hidden = FFN_HIDDEN if kind == "ffn" else ()
        head: Head | Trees | KernelHead = Head(
            expert.spec.width, task, hidden, trained_backbone=backbone is not None
        )
        if kind == "trees":
            head = grown(expert.spec.width, task, seed)
        elif kind in KERNELS:
            head = KernelHead(kind, task, 50, expert.spec.width)
        models.append(Model(head if kind == "trees" else randomised(head, seed + 1), backbone))
    return AdaptedExpert(models, kind)


def gate(
    task: Task, names: tuple[str, ...], seed: int = 0, depth: int = 1, **changes: Any
) -> Gates:
    """One gate with random weights."""
    choice = GateChoice.model_validate(
        {
            "leads": "II+V1", "experts": names, "depth": depth, "width": 4, "dropout": 0.1,
            "temperature": 0.5, "learning_rate": 1e-2, "weight_decay": 0.1, "epochs": 1,
        }
        | changes
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    parameters = initial(choice, 1, task.width, generator)
    for name, value in parameters.items():
        if name != "scale":
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return Gates(choice, parameters)


def reduction(name: str) -> Reduction:
    """What gates see of an expert's features: of random ones."""
    width = experts.load(name, **SETTINGS[name].options).spec.width
    f_ND = np.random.default_rng(width).normal(size=(40, width)).astype(np.float32)
    return fit_reduction(f_ND, np.ones(40, dtype=bool), 0)


def bundle(task: Task, **models: AdaptedExpert) -> Bundle:
    """A bundle of three gates over some experts (by default: both)."""
    if not models:
        models = {
            "rocket": adapted_expert("rocket", task),
            "dlinear": adapted_expert("dlinear", task, "ffn", 3),
        }
    names = tuple(models)
    return Bundle(
        task,
        ["rocket", "dlinear", "unused"],
        {name: (SETTINGS[name], adapted) for name, adapted in models.items()},
        GateEnsemble(
            [
                (2, gate(task, names, 1, encoder="conv", joined="outputs", weights_per="class")),
                (1, gate(task, names[:1], 2, depth=0)),
                (1, gate(task, names, 3, joined="features")),
            ],
            Calibration("temperature", 1.5),
        ),
        {"commit": None, "n_training": 7},
        reductions={name: reduction(name) for name in names if SETTINGS[name].frozen},
    )


def signals(n: int, seed: int = 0) -> np.ndarray:
    """Records like ECGs in size, some with missing leads: mV, float32 (n, 12, 5000)."""
    random = np.random.default_rng(seed)
    x_BLT = random.normal(0, 0.3, (n, 12, 5000)).cumsum(-1).astype(np.float32) / 20
    x_BLT[1::4, 3:6] = np.nan
    return x_BLT
