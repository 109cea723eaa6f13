"""Reading weight files without executing anything that is pickled in them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from enecg.errors import UserError, did_you_mean, one_line
from enecg.files import sha256_of_file

CONFIG = "config.json"
_FOLDER_TENSORS = ("model.safetensors", "pytorch_model.bin")
"""What a Hugging Face folder may call its tensors, the preferred first; perhaps in shards."""
_LISTED = 12
"""How many tensor names an error message spells out."""


class Inert:
    """Stands in for any class a checkpoint names: keeps what it was given and does nothing.

    Training frameworks pickle their configuration (argparse, omegaconf, …) beside the tensors;
    reading the tensors must not need those packages, let alone run them.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Accept whatever arguments the pickled class took."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        """Keep the state, unread."""
        self.state = state


def files_of(path: str | Path) -> list[Path]:
    """Return the files that weights consist of.

    Parameters
    ----------
    path : str or Path
        A file, or a Hugging Face folder: config.json, and the tensors as safetensors or as
        PyTorch checkpoint, in one file or in the shards that an index lists.

    Raises
    ------
    UserError
        If there is nothing of the kind.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"weights {path}: no such file or folder")
    config = path / CONFIG
    if not config.is_file():
        raise UserError(f"weights {path}: no {CONFIG} in this folder")
    for name in _FOLDER_TENSORS:
        if (path / name).is_file():
            return [config, path / name]
        if (index := path / f"{name}.index.json").is_file():
            return [config, index, *_shards(index)]
    raise UserError(f"weights {path}: neither {' nor '.join(_FOLDER_TENSORS)} in this folder")


def hashes(path: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file that weights consist of, by its name."""
    return {file.name: sha256_of_file(file) for file in files_of(path)}


def read_folder(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a Hugging Face folder onto the CPU.

    Parameters
    ----------
    path : str or Path
        See `files_of`.

    Returns
    -------
    dict
        What config.json holds.
    dict of str to Tensor
        The tensors, of all shards together.

    Raises
    ------
    UserError
        If a file is missing or cannot be read, or its pickle asks for anything that is not data.
    """
    if Path(path).is_file():
        raise UserError(f"weights {path}: must be the folder that holds {CONFIG} and the tensors")
    config_path, *files = files_of(path)
    config = _json_object(config_path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        if file.suffix != ".json":
            tensors |= tensors_of(read(file), file)
    return config, tensors


def _shards(index: Path) -> list[Path]:
    """Return the files an index of shards lists, all of them in its own folder."""
    named = _json_object(index).get("weight_map")
    names = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    shards = [index.parent / name for name in names if Path(name).name == name]
    if not names or len(shards) < len(names):
        raise UserError(f"weights {index}: `weight_map` does not give files of this folder")
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise UserError(f"weights {index}: files missing beside it: {_listing(absent)}")
    return shards


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"weights {path}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"weights {path}: must hold a JSON object")
    return value


def read(path: str | Path) -> Any:
    """Read a safetensors file or a PyTorch checkpoint onto the CPU.

    Parameters
    ----------
    path : str or Path
        ``*.safetensors``, or anything ``torch.save`` wrote (the extension does not matter).

    Returns
    -------
    object
        Tensors in plain containers; for safetensors a dict. An object of any other class is an
        empty `Inert` stand-in.

    Raises
    ------
    UserError
        If there is no such file, it is in neither format, or its pickle asks for anything that
        is not data (a blocked module, a call of a function).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"weights {path}: is a folder; give the file with the weights itself")
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"weights {path}: not readable as safetensors: {one_line(error)}"
            ) from error
    try:
        with torch.serialization.safe_globals(_stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a parser fed with arbitrary bytes fails in any way
        raise UserError(
            f"weights {path}: {_reason(error)} "
            "(allowed: tensors and plain containers, as safetensors or by torch.save)"
        ) from error


def _stand_ins(path: Path) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Pair every class of a checkpoint that torch would refuse with an `Inert` one of its own."""
    if not zipfile.is_zipfile(path):
        return []  # written before torch 1.6: torch lists no classes there and refuses them all
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [
        (_plain_dict if name == "collections.defaultdict" else _inert(name), name)
        for name in sorted(names)
    ]


def _inert(name: str) -> type[Inert]:
    return type("Inert", (Inert,), {"stands_for": name})


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stand in for ``collections.defaultdict``, whose default does not matter here."""
    return {}


def _reason(error: Exception) -> str:
    """Say what is wrong with a checkpoint; torch's own text is long and advises unsafe loading."""
    asked = re.search(r"GLOBAL ([\w.]+)|blocklisted module ([\w.]+)", str(error))
    if asked:
        return f"refused: its pickle asks for {asked[1] or asked[2]}, which is not data"
    if re.search(r"Can only (SETITEM|append|extend)", str(error)):
        return "refused: it keeps values in a dict or list of a class of its own"
    return "damaged, or not written by torch.save"


def tensors_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return a checkpoint's state dict, or its ``state_dict`` or ``model`` entry, as a dict.

    Raises
    ------
    UserError
        If there is no mapping of names to tensors in it, or one of them has no values.
    """
    for candidate in (content, *_entries(content, ("state_dict", "model"))):
        tensors = dict(candidate) if isinstance(candidate, Mapping) else {}
        if tensors and all(isinstance(value, Tensor) for value in tensors.values()):
            if empty := sorted(str(key) for key, value in tensors.items() if value.is_meta):
                raise UserError(f"weights {path}: tensors without values: {_listing(empty)}")
            return {str(key): value for key, value in tensors.items()}
    raise UserError(f"weights {path}: no state dict (a mapping of names to tensors) in this file")


def _entries(content: Any, keys: tuple[str, ...]) -> list[Any]:
    return [content[key] for key in keys if key in content] if isinstance(content, Mapping) else []


def assign(module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy tensors into a module whose state dict has exactly these names and shapes.

    Parameters
    ----------
    module : nn.Module
        Left unchanged if an error is raised.
    tensors : mapping of str to Tensor
        The state dict.
    path : str or Path
        Where they come from, for the message.

    Raises
    ------
    UserError
        Listing missing and unexpected tensors and those of another shape or kind.
    """
    check(module.state_dict(), tensors, path)
    module.load_state_dict(dict(tensors), strict=True)


def check(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError unless tensors have exactly the names and shapes of those wanted.

    They may be of another precision, but whole numbers (as of a quantised model), complex ones,
    and sparse tensors are refused: a copy would change them, or fail.
    """
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if not tensors[key].is_nested and tensors[key].shape != wanted[key].shape
    ]
    foreign = [
        f"{key} {str(tensors[key].dtype).removeprefix('torch.')}"
        for key in sorted(wanted.keys() & tensors.keys())
        if _kind(tensors[key]) != (*_kind(wanted[key])[:2], True)
    ]
    faults = {
        "missing": missing, "unexpected": unexpected, "of another shape": misshapen,
        "not plain numbers of the kind wanted": foreign,
    }  # fmt: skip
    found = [f"{what} {_listing(names)}" for what, names in faults.items() if names]
    if found:
        hint = did_you_mean(missing[0], unexpected) if missing and unexpected else ""
        raise UserError(f"weights {path}: tensors {'; '.join(found)}{hint}")


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Say whether a tensor is of floats, is of complex numbers, and dense."""
    plain = tensor.layout == torch.strided and not tensor.is_nested
    return tensor.is_floating_point(), tensor.is_complex(), plain and not tensor.is_quantized


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
