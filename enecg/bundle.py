"""Bundles: all that one task's predictions need, in a folder of safetensors and JSON.

::

    <bundle>/bundle.json                 what it is, which experts and gates, how it came about
    <bundle>/model_card.md               the same in words: results, intended use, limits
    <bundle>/gates.safetensors
    <bundle>/seen.safetensors            hashes of what it learned from
    <bundle>/features.safetensors        where gates see experts' features: how those are reduced
    <bundle>/experts/<name>/models.*     heads, and backbones where those were trained
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from enecg import __version__
from enecg.config import ExpertSettings
from enecg.errors import UserError
from enecg.files import read_json, replacing, write_json, write_text
from enecg.gate.calibration import Calibration
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import PARTS, Reduction
from enecg.gate.network import Gates, initial
from enecg.gate.space import GateChoice
from enecg.seen import Seen
from enecg.stage1.adapted import (
    AdaptedExpert,
    load_adapted,
    load_outputs,
    save_adapted,
    save_outputs,
)
from enecg.tasks import Task

FORMAT = "enecg-bundle"
FORMAT_VERSION = 4
MODEL_KEY, SEEN = "model", "seen.safetensors"
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
        Those that some gate weighs, at least.
    ensemble : GateEnsemble
    provenance : dict
        Facts on how it came about, as JSON values.
    fingerprints : dict of str to str
        Of the backbones that heads or LoRA were trained on.
    reductions : dict of str to Reduction
        For gates that see experts' features: what they see of each.
    stacking, absolute_stacking : dict of str to float
        The weights of the plain ways of these names, to be judged beside the ensemble.
    dummy : tuple of float
        What is answered without looking: the training mean, or each class's share.
    card : str
        The model card, in Markdown; empty: none is written.
    seen : Seen or None
        Which signals and subjects it learned from; None in bundles of earlier versions.
    """

    task: Task
    expert_names: list[str]
    experts: dict[str, tuple[ExpertSettings, AdaptedExpert]]
    ensemble: GateEnsemble
    provenance: Mapping[str, Any]
    fingerprints: dict[str, str] = field(default_factory=dict)
    reductions: dict[str, Reduction] = field(default_factory=dict)
    stacking: dict[str, float] = field(default_factory=dict)
    absolute_stacking: dict[str, float] = field(default_factory=dict)
    dummy: tuple[float, ...] = ()
    card: str = ""
    seen: Seen | None = None

    @property
    def weighed(self) -> list[str]:
        """The experts that some gate weighs, in the order of `expert_names`."""
        wanted = {name for _, gate in self.ensemble.members for name in gate.choice.experts}
        return [name for name in self.expert_names if name in wanted]

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
                        "answer": adapted.made_as,
                    }
                    for name, (settings, adapted) in self.experts.items()
                },
                "gates": [
                    {"drawn": count, "choice": gates.choice.model_dump()}
                    for count, gates in self.ensemble.members
                ],
                "features_seen": list(self.reductions),
                "baselines": {
                    "stacking": self.stacking,
                    "absolute_stacking": self.absolute_stacking,
                    "dummy": list(self.dummy),
                },
                "calibration": self.ensemble.calibration.dump(),
                "thresholds": list(self.ensemble.thresholds),
                "half_width": self.ensemble.half_width,
                "fingerprints": self.fingerprints,
                "provenance": dict(self.provenance),
            },
        )
        if self.seen is not None:
            with replacing(building / SEEN) as temporary:
                self.seen.save(temporary)
        if self.card:
            write_text(building / "model_card.md", self.card)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)

    @classmethod
    def load(cls, folder: Path, every_expert: bool = False) -> Bundle:
        """Read a bundle; nothing in it is executed.

        Parameters
        ----------
        folder : Path
        every_expert : bool
            Read also the experts that no gate weighs, to judge them.

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
            return cls._read(Path(folder), description, every_expert)
        except _UNREADABLE as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"{folder}: this bundle is damaged: {what}") from error

    @classmethod
    def _read(cls, folder: Path, description: dict[str, Any], every_expert: bool) -> Bundle:
        fields = description["task"]
        task = Task(
            **fields
            | {
                "classes": tuple(fields["classes"]),
                "valid": None if fields["valid"] is None else tuple(fields["valid"]),
            }
        )
        found = {}
        weighed = {n for one in description["gates"] for n in one["choice"]["experts"]}
        for name, entry in description["experts"].items():
            if name not in weighed and not every_expert:
                continue
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
        baselines = description.get("baselines", {})
        return cls(
            task,
            description["expert_names"],
            found,
            GateEnsemble(
                members,
                Calibration.read(description["calibration"]),
                _thresholds(task, description.get("thresholds", [])),
                _half_width(task, description.get("half_width")),
            ),
            description["provenance"],
            description["fingerprints"],
            reductions,
            baselines.get("stacking", {}),
            baselines.get("absolute_stacking", {}),
            tuple(baselines.get("dummy", ())),
            seen=Seen.load(folder / SEEN) if (folder / SEEN).exists() else None,
        )


def _thresholds(task: Task, values: list[float]) -> tuple[float, ...]:
    """Return a bundle's thresholds; none where there are none, else one per class."""
    if values and (len(values) != len(task.classes) or not np.isfinite(values).all()):
        raise ValueError(f"thresholds {values} for {len(task.classes)} classes")
    return tuple(map(float, values))


def _half_width(task: Task, value: float | None) -> float | None:
    """Return half the width of a bundle's prediction intervals."""
    if value is not None and (task.kind != "regression" or not 0 <= value < np.inf):
        raise ValueError(f"half_width {value} for a {task.kind}")
    return None if value is None else float(value)


def load_bundles(folder: Path, every_expert: bool = False) -> list[Bundle]:
    """Load one task's bundle, or those of all tasks from the folder that holds them.

    ``every_expert`` is as for `Bundle.load`.

    Raises
    ------
    UserError
        Neither is there.
    """
    folder = Path(folder)
    if (folder / "bundle.json").exists():
        return [Bundle.load(folder, every_expert)]
    # A name with a dot is a bundle that a killed job was building.
    found = sorted(p.parent for p in folder.glob("*/bundle.json") if p.parent.name[0] != ".")
    if not found:
        raise UserError(f"{folder}: no bundle here; give bundle/ or bundle/<task> of a run folder")
    return [Bundle.load(path, every_expert) for path in found]
