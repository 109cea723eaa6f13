"""Reading weight files without executing anything that is pickled in them."""

from __future__ import annotations

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
    return [(type("Inert", (Inert,), {"stands_for": name}), name) for name in sorted(names)]


def _reason(error: Exception) -> str:
    """Say what is wrong with a checkpoint; torch's own text is long and advises unsafe loading."""
    asked = re.search(r"GLOBAL ([\w.]+)|blocklisted module ([\w.]+)", str(error))
    if asked:
        return f"refused: its pickle asks for {asked[1] or asked[2]}, which is not data"
    return "damaged, or not written by torch.save"


def tensors_of(content: Any, path: str | Path) -> dict[str, Tensor]:
    """Return a checkpoint's state dict, or its ``state_dict`` or ``model`` entry, as a dict.

    Raises
    ------
    UserError
        If there is no mapping of names to tensors in it.
    """
    for candidate in (content, *_entries(content, ("state_dict", "model"))):
        tensors = dict(candidate) if isinstance(candidate, Mapping) else {}
        if tensors and all(isinstance(value, Tensor) for value in tensors.values()):
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
        Listing missing and unexpected tensors and those of another shape.
    """
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - wanted.keys())
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    found = [f"{what} {_listing(names)}" for what, names in faults.items() if names]
    if found:
        hint = did_you_mean(missing[0], unexpected) if missing and unexpected else ""
        raise UserError(f"weights {path}: tensors {'; '.join(found)}{hint}")
    module.load_state_dict(dict(tensors), strict=True)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
