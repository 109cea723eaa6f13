"""What this program puts into its folders, by name: anything else in them is somebody's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enecg.names import STORE_FILE

MARK = ".enecg"
_LEFT = re.compile(r"\..+\.tmp|\.shared-[0-9a-f]{32}|\.nfs[0-9a-f]+|lost\+found")
"""What a kill, or the file system, leaves."""

Inventory = Mapping[str, Any]
"""Names (regular expressions) of what may be in a folder. None: a file, or a folder with whatever
is in it; else the inventory of a folder."""

_WORK: Inventory = {
    r"[\w.-]+\.(json|safetensors|parquet|log|lock)": None,
    r"train(\.discarded)?|tune|predictions|optuna\.log\.lock.+": None,
}
_BUNDLE: Inventory = {
    r"bundle\.json|(gates|features|seen)\.safetensors|model_card\.md|experts": None,
}
_REPEAT: Inventory = {
    r"\.lock|(config|results)\.json|folds\.csv|report\.html|predictions\.parquet": None,
    r"experts": {r".+": _WORK},
    r"gate|ensemble": _WORK,
    r"\.?bundle(\.building|\.old)?": {r".+": _BUNDLE},
    r"\.?folds(\.building|\.old)?": {r".+": {r".+": _BUNDLE}},
}
_FEATURES: Inventory = {
    r".+-weights-.+-prepared-.+": {r"(expert|rate)\.json|part-[0-9a-f-]+\.parquet": None},
}
INVENTORIES: dict[str, Inventory] = {
    "run": {**_REPEAT, r"repeats": {r".+": _REPEAT}, r"features": _FEATURES},
    "repeat": _REPEAT,
    "work": _WORK,
    "features": _FEATURES,
    "cohort": {r"labels\.csv": None, r"records": {r"syn[0-9]{5,}\.(hea|dat)": None}},
    "records": {
        rf"{STORE_FILE}|dataset\.json": None,
        r"\.unfinished|\.relabelled|\.replacement": None,
    },
    "bundle": _BUNDLE,
}
"""By kind of folder."""


def stranger(folder: Path, inventory: Inventory) -> Path | None:
    """Return something in a folder that its inventory does not have, if there is anything."""
    for path in sorted(folder.iterdir()):
        if path.name == MARK or _LEFT.fullmatch(path.name):
            continue
        found = [inside for name, inside in inventory.items() if re.fullmatch(name, path.name)]
        if not found:
            return path
        if found[0] is not None:
            if not path.is_dir():
                return path
            if (below := stranger(path, found[0])) is not None:
                return below
    return None
