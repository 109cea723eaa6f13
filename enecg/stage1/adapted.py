"""Adapted experts: what stage 1 leaves behind, saved without pickles, ready to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enecg import experts
from enecg.checked_files import read_sealed_json, write_sealed_json
from enecg.checked_tensors import read_tensors, write_tensors
from enecg.config import ExpertSettings
from enecg.experts.contract import Expert
from enecg.files import read_json
from enecg.stage1.heads import Head
from enecg.stage1.kernel import KERNELS, KernelHead
from enecg.stage1.lora import add_lora, restore, trained
from enecg.stage1.trees import Trees
from enecg.tasks import Task

TENSORS, DESCRIPTION = "models.safetensors", "models.json"


Once = Callable[[Expert | KernelHead, Callable[[], Tensor]], Tensor]


def _always(what: Expert | KernelHead, compute: Callable[[], Tensor]) -> Tensor:
    """Remember nothing."""
    return compute()


@dataclass
class Model:
    """A head, with the backbone that was trained with it (None: the shared frozen one)."""

    head: Head | Trees | KernelHead
    backbone: Expert | None = None


@dataclass
class AdaptedExpert:
    """One expert, ready for one task in one scope: the mean of its models' answers.

    Attributes
    ----------
    models : list of Model
        One refitted model, or the inner folds' models.
    head_kind : {"ridge", "ffn", "trees", "gaussian", "laplacian"}
        Which head was chosen.
    """

    models: list[Model]
    head_kind: str

    @property
    def made_as(self) -> str:
        """How it answers, in words."""
        if len(self.models) == 1:
            return "one model refitted on all training groups"
        return f"the mean of {len(self.models)} models, one per inner fold"

    @torch.no_grad()
    def answer(self, inputs: Tensor, once: Once = _always) -> Tensor:
        """Return values or class probabilities, shape (B, C).

        Parameters
        ----------
        inputs : Tensor
            Features (B, D) where the backbone is frozen, else prepared signals.
        once : callable, optional
            Given a trained backbone or a kernel head (which stands on given features alone) and
            what computes its features or similarities, returns these; for who remembers what
            another expert or task gave.
        """
        answers = []
        for model in self.models:
            head, f_BD = model.head, inputs
            if (backbone := model.backbone) is not None:
                f_BD = once(backbone, partial(backbone, inputs))
            if isinstance(head, KernelHead):
                out_BC = head.weighed(once(head, partial(head.similar, f_BD)))
            else:
                out_BC = head(f_BD)
            answers.append(head.answer(out_BC))
        return torch.stack(answers).mean(0)


def save_adapted(folder: Path, adapted: dict[str, AdaptedExpert]) -> None:
    """Write adapted experts, by key, to a folder: safetensors and JSON."""
    tensors: dict[str, Tensor] = {}
    description: dict[str, Any] = {}
    written: dict[int, str] = {}
    for key, expert in adapted.items():
        entries = []
        for number, model in enumerate(expert.models):
            prefix = f"{key}/{number}"
            _put(tensors, f"{prefix}/head", model.head)
            backbone = None
            if model.backbone is not None:  # heads trained with one backbone share its tensors
                backbone = written.setdefault(id(model.backbone), f"{prefix}/backbone")
                if backbone == f"{prefix}/backbone":
                    _put(tensors, backbone, model.backbone)
            hidden = list(model.head.hidden)
            entry: dict[str, Any] = {
                "head": f"{prefix}/head", "hidden": hidden, "backbone": backbone,
            }  # fmt: skip
            if model.backbone is not None:  # sizes may have come from the weights it began with
                entry["options"] = model.backbone.options
            entries.append(entry)
        description[key] = {"head_kind": expert.head_kind, "models": entries}
    write_tensors(folder / TENSORS, tensors)
    write_sealed_json(folder / DESCRIPTION, description)


def load_adapted(
    folder: Path,
    tasks: dict[str, Task],
    name: str,
    settings: ExpertSettings,
    sealed: bool = True,
) -> dict[str, AdaptedExpert]:
    """Read what `save_adapted` wrote.

    Parameters
    ----------
    folder : Path
    tasks : dict of str to Task
        The task of each key that is wanted.
    name, settings : str, ExpertSettings
        The expert whose backbones these are.
    sealed : bool
        Whether the files carry checksums, which then have to be right.

    Raises
    ------
    DamagedFile
        A file is not what `save_adapted` wrote.
    """
    tensors = read_tensors(folder / TENSORS, sealed)
    description = (read_sealed_json if sealed else read_json)(folder / DESCRIPTION)
    backbones: dict[str, Expert] = {}

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            key.removeprefix(prefix + "/"): value
            for key, value in tensors.items()
            if key.startswith(prefix + "/")
        }

    def backbone_at(prefix: str | None, options: dict[str, Any]) -> Expert | None:
        if prefix is not None and prefix not in backbones:
            if settings.adaptation == "lora":
                backbone = backbone_with_lora(name, settings)
                restore(backbone, part(prefix))
            else:
                backbone = experts.load(settings.backbone(name), **options)
                backbone.load_state_dict(part(prefix))
            backbones[prefix] = backbone.eval()
        return backbones[prefix] if prefix is not None else None

    adapted = {}
    for key, task in tasks.items():
        entry = description[key]
        models = []
        for model in entry["models"]:
            state = part(model["head"])
            head: Head | Trees | KernelHead
            if entry["head_kind"] == "trees":
                head = Trees.of_state(state, task)
            elif entry["head_kind"] in KERNELS:
                head = KernelHead.of_state(entry["head_kind"], state, task)
            else:
                head = Head(
                    len(state["feature_mean"]),
                    task,
                    tuple(model["hidden"]),
                    trained_backbone=model["backbone"] is not None,
                )
                head.load_state_dict(state)
            backbone = backbone_at(model["backbone"], model.get("options", settings.options))
            models.append(Model(head.eval(), backbone))
        adapted[key] = AdaptedExpert(models, entry["head_kind"])
    return adapted


def backbone_with_lora(name: str, settings: ExpertSettings) -> Expert:
    """Load an expert and put fresh LoRA on it."""
    expert = experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
    add_lora(expert, expert.spec.lora_targets, settings.lora_rank)
    return expert


def save_outputs(path: Path, outputs: dict[str, np.ndarray]) -> None:
    """Write arrays by task name, as safetensors that carry their checksum."""
    write_tensors(path, outputs)


def load_outputs(path: Path, sealed: bool = True) -> dict[str, np.ndarray]:
    """Read arrays by task name; ``sealed`` is as for `read_tensors`.

    Raises
    ------
    DamagedFile
        The file is not what `save_outputs` wrote.
    """
    return {name: value.numpy() for name, value in read_tensors(path, sealed).items()}


def _put(tensors: dict[str, Tensor], prefix: str, module: torch.nn.Module) -> None:
    """Put a module's tensors under a prefix; of one under LoRA, what LoRA has learned."""
    state = module.state_dict()
    if any("lora_" in name for name in state):
        state = trained(module)
    for name, value in state.items():
        tensors[f"{prefix}/{name}"] = value.detach().cpu().contiguous().clone()
