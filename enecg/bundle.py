"""Bundles: all that one task's predictions need, in a folder of safetensors and JSON.

::

    <bundle>/bundle.json                 what it is, which experts and gates, how it came about
    <bundle>/model_card.md               the same in words: results, intended use, limits
    <bundle>/gates.safetensors
    <bundle>/seen.safetensors            hashes of what it learned from
    <bundle>/features.safetensors        where gates see experts' features: how those are reduced
    <bundle>/experts/<name>/models.*     heads, and backbones where those were trained

``bundle.json`` carries its own SHA-256 and lists that of every file that is read; `Bundle.load`
compares. The card is for people, who may add to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from enecg import __version__
from enecg.checked_files import (
    KEY,
    DamagedFile,
    first_damaged,
    parse_sealed_json,
    write_sealed_json,
)
from enecg.checked_tensors import read_tensors, write_tensors
from enecg.config import ExpertSettings
from enecg.errors import UserError
from enecg.files import replacing, sha256_of_file, write_text
from enecg.gate.calibration import Calibration
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import PARTS, Reduction
from enecg.gate.network import Gates, initial
from enecg.gate.space import GateChoice
from enecg.inventory import MARK
from enecg.names import check_name
from enecg.ownership import check_free, mark, remove_own, standing, swap
from enecg.progress import say
from enecg.seen import Seen
from enecg.stage1.adapted import DESCRIPTION as MODELS
from enecg.stage1.adapted import (
    TENSORS,
    AdaptedExpert,
    load_adapted,
    load_outputs,
    save_adapted,
    save_outputs,
)
from enecg.tasks import Task

FORMAT = "enecg-bundle"
FORMAT_VERSION, WITHOUT_CHECKSUMS = 5, 4
"""The version that is written, and an earlier one that is read as well."""
MODEL_KEY, SEEN = "model", "seen.safetensors"
_UNREADABLE = (
    OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, UserError,
    DamagedFile,
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
        """Write the bundle beside its folder, then put it there; a bundle there before is replaced.

        Raises
        ------
        UserError
            Something else stands there; it stays.
        """
        check_free("bundle", folder, "bundle")
        building = folder.with_name(f".{folder.name}.building")
        remove_own(building, "bundle")
        mark(building, "bundle")
        for name, (_, adapted) in self.experts.items():
            save_adapted(building / "experts" / name, {MODEL_KEY: adapted})
        tensors = {
            f"{member}/{name}": tensor
            for member, (_, gates) in enumerate(self.ensemble.members)
            for name, tensor in gates.parameters.items()
        }
        write_tensors(building / "gates.safetensors", tensors)
        if self.reductions:
            save_outputs(
                building / "features.safetensors",
                {
                    f"{name}/{part}": getattr(reduction, part)
                    for name, reduction in self.reductions.items()
                    for part in PARTS
                },
            )
        if self.seen is not None:
            with replacing(building / SEEN) as temporary:
                self.seen.save(temporary)
        files = [p for p in sorted(building.rglob("*")) if p.is_file() and p.name != MARK]
        write_sealed_json(
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
                "files": {p.relative_to(building).as_posix(): sha256_of_file(p) for p in files},
            },
        )
        if self.card:
            write_text(building / "model_card.md", self.card)
        (building / MARK).unlink()  # from here on bundle.json says whose it is
        swap(building, folder, "bundle")

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
        folder = standing(Path(folder))
        path = folder / "bundle.json"
        try:
            content = path.read_bytes()
            description = json.loads(content)
            version = (description["format"], description["format_version"])
        except FileNotFoundError:
            raise UserError(f"{folder}: no bundle here (no bundle.json)") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path}: not a bundle's description") from None
        if version not in ((FORMAT, FORMAT_VERSION), (FORMAT, WITHOUT_CHECKSUMS)):
            raise UserError(
                f"{path}: format {version}; this version reads {WITHOUT_CHECKSUMS} and "
                f"{FORMAT_VERSION}"
            )
        try:
            checked = version[1] == FORMAT_VERSION or KEY in description or "files" in description
            if checked:
                description = parse_sealed_json(content, path)
                _check_expert_names(description)
                read = _files_read(description, every_expert)
                digests = {name: description["files"][name] for name in read}
                if (name := first_damaged(folder, digests)) is not None:
                    raise DamagedFile(folder / name, "is gone or not what it was")
            else:
                say(f"{folder}: a bundle of an earlier version, without checksums: not checked")
            return cls._read(folder, description, every_expert)
        except _UNREADABLE as error:
            what = f"{type(error).__name__}: {error}"
            if isinstance(error, DamagedFile):
                what = f"{os.path.relpath(error.place, folder)} {error.problem}"
            raise UserError(
                f"{folder}: this bundle is damaged: {what}; bring it back, or remove it and run "
                "its pipeline.py again"
            ) from error

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
        task.check_names()
        _check_expert_names(description)
        found = {}
        for name in _experts_read(description, every_expert):
            settings = ExpertSettings.model_validate(description["experts"][name]["settings"])
            adapted = load_adapted(
                folder / "experts" / name, {MODEL_KEY: task}, name, settings, sealed=False
            )
            found[name] = (settings, adapted[MODEL_KEY])
        tensors = read_tensors(folder / "gates.safetensors", sealed=False)
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
            kept = load_outputs(folder / "features.safetensors", sealed=False)
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
            seen=Seen.load(folder / SEEN) if SEEN in description.get("files", ()) else None,
        )


def _check_expert_names(description: dict[str, Any]) -> None:
    """Refuse names of experts that lead elsewhere; to be done before one becomes part of a path."""
    for name in (*description["expert_names"], *description["experts"]):
        check_name("an expert", name)


def _experts_read(description: dict[str, Any], every_expert: bool) -> list[str]:
    """Names of the experts that are read: all, or those that some gate weighs."""
    weighed = {n for one in description["gates"] for n in one["choice"]["experts"]}
    return [name for name in description["experts"] if every_expert or name in weighed]


def _files_read(description: dict[str, Any], every_expert: bool) -> list[str]:
    """Names of the files that are read beside ``bundle.json``, relative to the folder."""
    names = ["gates.safetensors"]
    if description.get("features_seen"):
        names.append("features.safetensors")
    if SEEN in description["files"]:
        names.append(SEEN)
    for expert in _experts_read(description, every_expert):
        names += [f"experts/{expert}/{file}" for file in (TENSORS, MODELS)]
    return names


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
    folder = standing(Path(folder))
    if (folder / "bundle.json").is_file():
        return [Bundle.load(folder, every_expert)]
    # A name with a dot is a bundle that a killed job was building.
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [p for p in paths if p.name[0] != "." and (p / "bundle.json").is_file()]
    if not found:
        raise UserError(f"{folder}: no bundle here; give bundle/ or bundle/<task> of a run folder")
    bundles = [Bundle.load(path, every_expert) for path in found]
    names = [bundle.task.name for bundle in bundles]
    if len(set(names)) < len(names):
        raise UserError(f"{folder}: several bundles of one task ({', '.join(names)}); give one")
    return bundles
