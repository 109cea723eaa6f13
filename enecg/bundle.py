"""Bundles: all that one task's predictions need, in a folder of safetensors and JSON.

::

    <bundle>/bundle.json                 what it is, which experts and gates, how it came about
    <bundle>/model_card.md               the same in words: results, intended use, limits
    <bundle>/gates.safetensors
    <bundle>/features.safetensors        where gates see experts' features: how those are reduced
    <bundle>/experts/<name>/models.*     heads, and backbones where those were trained
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from enecg import __version__, experts
from enecg.config import ExpertSettings
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.joined import Joined
from enecg.files import read_json, replacing, write_json, write_text
from enecg.gate.calibration import Calibration
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import PARTS, Reduction
from enecg.gate.network import SHOWN, Gates, gate_view, initial
from enecg.gate.space import GateChoice
from enecg.stage1.adapted import (
    AdaptedExpert,
    load_adapted,
    load_outputs,
    save_adapted,
    save_outputs,
)
from enecg.tasks import Task

FORMAT = "enecg-bundle"
FORMAT_VERSION = 2
MODEL_KEY = "model"
AT_A_TIME = 32
"""Records that are always computed together. In batches of other sizes the same record comes out
with other last bits; and with a multiple of what a CPU's vector instructions take at once, it does
not matter which row of the batch a record is."""
Answers = dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""By task: predictions (B, C), and the experts' weights (B, E)."""
_UNREADABLE = (
    OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError,
    UserError,
)  # fmt: skip
"""What reading a damaged bundle may raise; pydantic's errors are ValueErrors."""


@dataclass
class Bundle:
    """One task's ensemble.

    Attributes
    ----------
    task : Task
    expert_names : list of str
        Every expert of the experiment, in the order of gate weights.
    experts : dict of str to (ExpertSettings, AdaptedExpert)
        Those that some gate weighs.
    ensemble : GateEnsemble
    provenance : dict
        Facts on how it came about, as JSON values.
    fingerprints : dict of str to str
        Of the backbones that heads or LoRA were trained on.
    reductions : dict of str to Reduction
        For gates that see experts' features: what they see of each.
    card : str
        The model card, in Markdown; empty: none is written.
    """

    task: Task
    expert_names: list[str]
    experts: dict[str, tuple[ExpertSettings, AdaptedExpert]]
    ensemble: GateEnsemble
    provenance: Mapping[str, Any]
    fingerprints: dict[str, str] = field(default_factory=dict)
    reductions: dict[str, Reduction] = field(default_factory=dict)
    card: str = ""

    def save(self, folder: Path) -> None:
        """Write the bundle; a folder that was there is replaced as a whole."""
        building = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        for name, (_, adapted) in self.experts.items():
            save_adapted(building / "experts" / name, {MODEL_KEY: adapted})
        tensors = {
            f"{member}/{name}": tensor.contiguous()
            for member, (_, gates) in enumerate(self.ensemble.members)
            for name, tensor in gates.parameters.items()
        }
        with replacing(building / "gates.safetensors") as temporary:
            save_file(tensors, temporary)
        if self.reductions:
            save_outputs(
                building / "features.safetensors",
                {
                    f"{name}/{part}": getattr(reduction, part)
                    for name, reduction in self.reductions.items()
                    for part in PARTS
                },
            )
        write_json(
            building / "bundle.json",
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "enecg": __version__,
                "task": asdict(self.task),
                "expert_names": self.expert_names,
                "experts": {
                    name: {
                        "settings": settings.model_dump(),
                        "head": adapted.head_kind,
                        "answer": "one model refitted on all training groups"
                        if len(adapted.models) == 1
                        else f"the mean of {len(adapted.models)} models, one per inner fold",
                    }
                    for name, (settings, adapted) in self.experts.items()
                },
                "gates": [
                    {"drawn": count, "choice": gates.choice.model_dump()}
                    for count, gates in self.ensemble.members
                ],
                "features_seen": list(self.reductions),
                "calibration": self.ensemble.calibration.dump(),
                "fingerprints": self.fingerprints,
                "provenance": dict(self.provenance),
            },
        )
        if self.card:
            write_text(building / "model_card.md", self.card)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Read a bundle; nothing in it is executed.

        Raises
        ------
        UserError
            No bundle there, a damaged one, or one of another format version.
        """
        path = Path(folder) / "bundle.json"
        try:
            description = read_json(path)
            version = (description["format"], description["format_version"])
        except FileNotFoundError:
            raise UserError(f"{folder}: no bundle here (no bundle.json)") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a bundle's description") from None
        if version != (FORMAT, FORMAT_VERSION):
            raise UserError(f"{path}: format {version}; this version reads {FORMAT_VERSION}")
        try:
            return cls._read(Path(folder), description)
        except _UNREADABLE as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{folder}: this bundle is damaged: {what}") from error

    @classmethod
    def _read(cls, folder: Path, description: dict[str, Any]) -> Bundle:
        fields = description["task"]
        task = Task(
            **fields
            | {
                "classes": tuple(fields["classes"]),
                "valid": None if fields["valid"] is None else tuple(fields["valid"]),
            }
        )
        found = {}
        for name, entry in description["experts"].items():
            settings = ExpertSettings.model_validate(entry["settings"])
            adapted = load_adapted(folder / "experts" / name, {MODEL_KEY: task}, name, settings)
            found[name] = (settings, adapted[MODEL_KEY])
        tensors = load_file(folder / "gates.safetensors")
        members = []
        for member, entry in enumerate(description["gates"]):
            choice = GateChoice.model_validate(entry["choice"])
            wanted = initial(choice, 1, task.width, torch.Generator())
            found_here = {name: tensors[f"{member}/{name}"] for name in wanted}
            if any(found_here[name].shape != value.shape for name, value in wanted.items()):
                raise ValueError(f"gate {member} is of another shape than its description says")
            members.append((entry["drawn"], Gates(choice, found_here)))
        reductions: dict[str, Reduction] = {}
        if seen := description.get("features_seen"):
            kept = load_outputs(folder / "features.safetensors")
            reductions = {name: Reduction(*(kept[f"{name}/{p}"] for p in PARTS)) for name in seen}
        return cls(
            task,
            description["expert_names"],
            found,
            GateEnsemble(members, Calibration.read(description["calibration"])),
            description["provenance"],
            description["fingerprints"],
            reductions,
        )


class Predictor:
    """Several tasks' bundles, predicting together: a backbone they share runs once per record.

    A record's predictions are the same, bit for bit, whichever others are predicted with it: on
    one machine, with the same number of threads.

    Parameters
    ----------
    bundles : list of Bundle
    device : torch.device
        Where backbones run.
    """

    def __init__(self, bundles: list[Bundle], device: torch.device) -> None:
        self.bundles = bundles
        self.device = device
        self._backbones: dict[tuple[str, str], Expert] = {}
        """By task and expert: what prepares the signals, and embeds them if it is frozen."""
        self._fingerprints: dict[int, str] = {}
        loaded: dict[str, Expert] = {}
        for bundle in bundles:
            for name, (settings, adapted) in bundle.experts.items():
                # A trained backbone's weights are in the bundle; where they began is not asked.
                expert = None if settings.builds_on_weights else adapted.models[0].backbone
                if expert is None:
                    key = f"{settings.backbone(name)} {settings.weights} {settings.options}"
                    if key not in loaded:
                        loaded[key] = experts.load(
                            settings.backbone(name), weights=settings.weights, **settings.options
                        )
                    expert = loaded[key]
                fingerprint = self._fingerprint(expert)
                if bundle.fingerprints.get(name, fingerprint) != fingerprint:
                    raise UserError(
                        f"bundle {bundle.task.name}: expert {name} is not the one that the bundle "
                        f"was made with (other weights at {settings.weights}, or another version)"
                    )
                self._backbones[bundle.task.name, name] = expert.to(device)
                for model in adapted.models:
                    model.head.to(device)
                    if model.backbone is not None:
                        model.backbone.to(device)

    def _fingerprint(self, expert: Expert) -> str:
        """An expert's fingerprint, computed once."""
        if id(expert) not in self._fingerprints:
            self._fingerprints[id(expert)] = expert.fingerprint()
        return self._fingerprints[id(expert)]

    @torch.no_grad()
    def __call__(self, x_BLT: npt.NDArray[np.float32]) -> Answers:
        """Predict every task for some records.

        Parameters
        ----------
        x_BLT : float32 array, shape (B, 12, 5000)
            mV at 500 Hz, NaN where missing.

        Returns
        -------
        dict of str to (float32 array of shape (B, C), float32 array of shape (B, E))
            By task: value or class probabilities (NaN where no expert has an output), and the
            experts' weights.
        """
        batches = []
        for start in range(0, len(x_BLT), AT_A_TIME):
            part_BLT = x_BLT[start : start + AT_A_TIME]
            filled_up = np.resize(np.arange(len(part_BLT)), AT_A_TIME)  # by repeats, left out again
            batches.append((len(part_BLT), self._answers(part_BLT[filled_up])))
        return {
            task: (
                np.concatenate([answers[task][0][:n] for n, answers in batches]),
                np.concatenate([answers[task][1][:n] for n, answers in batches]),
            )
            for task in batches[0][1]
        }

    def _answers(self, x_BLT: npt.NDArray[np.float32]) -> Answers:
        """Predict every task for `AT_A_TIME` records."""
        signal = torch.from_numpy(x_BLT).to(self.device)
        view_BLT = gate_view(x_BLT)
        seen: dict[str, torch.Tensor] = {}

        def once(what: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
            if what not in seen:
                seen[what] = compute()
            return seen[what]

        def features(expert: Expert) -> torch.Tensor:
            if isinstance(expert, Joined):
                return torch.cat([features(part) for part in expert.joins()], dim=1)
            fingerprint = self._fingerprint(expert)
            return once(f"features {fingerprint}", lambda: expert.features(signal))

        def prepared(expert: Expert) -> torch.Tensor:
            fingerprint = expert.preparation_fingerprint()
            return once(f"inputs {fingerprint}", lambda: expert.prepare(signal))

        def embed(expert: Expert, inputs: torch.Tensor) -> torch.Tensor:
            fingerprint = self._fingerprint(expert)  # tasks share what was trained for all of them
            return once(f"features {fingerprint}", lambda: expert.embed(inputs))

        answers: Answers = {}
        for bundle in self.bundles:
            shape = (len(x_BLT), len(bundle.expert_names), bundle.task.width)
            outputs_BEC = np.full(shape, np.nan, dtype=np.float32)
            for name, (settings, adapted) in bundle.experts.items():
                backbone = self._backbones[bundle.task.name, name]
                inputs = features(backbone) if settings.frozen else prepared(backbone)
                place = bundle.expert_names.index(name)
                outputs_BEC[:, place] = adapted.answer(inputs, embed).cpu().numpy()
            features_BEK = np.full((*shape[:2], SHOWN), np.nan, dtype=np.float32)
            for name, reduction in bundle.reductions.items():
                seen_BD = features(self._backbones[bundle.task.name, name]).cpu().numpy()
                features_BEK[:, bundle.expert_names.index(name)] = reduction(seen_BD)
            answers[bundle.task.name] = bundle.ensemble.predict(
                view_BLT, outputs_BEC, bundle.expert_names, bundle.task, features_BEK
            )
        return answers


def load_bundles(folder: Path) -> list[Bundle]:
    """Load one task's bundle, or those of all tasks from the folder that holds them.

    Raises
    ------
    UserError
        Neither is there.
    """
    folder = Path(folder)
    if (folder / "bundle.json").exists():
        return [Bundle.load(folder)]
    # A name with a dot is a bundle that a killed job was building.
    found = sorted(p.parent for p in folder.glob("*/bundle.json") if p.parent.name[0] != ".")
    if not found:
        raise UserError(f"{folder}: no bundle here; give bundle/ or bundle/<task> of a run folder")
    return [Bundle.load(path) for path in found]
