"""Tensors on disk whose content is checked where it is read: safetensors with their own SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from enecg.checked_files import KEY, ZEROS, DamagedFile, check_sealed, seal
from enecg.errors import one_line
from enecg.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor | np.ndarray[Any, Any]]) -> None:
    """Write tensors or arrays by name, with the file's SHA-256 in its header, atomically.

    Raises
    ------
    OSError
        They cannot be written: a full disk, say.
    """
    found = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, np.ndarray)
        else value.contiguous()
        for name, value in tensors.items()
    }
    with replacing(path) as temporary:
        try:
            save_file(found, temporary, metadata={KEY: ZEROS})
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"{path}: {one_line(error)}") from error
        seal(temporary)


def read_tensors(path: Path, sealed: bool = True) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote.

    Parameters
    ----------
    path : Path
    sealed : bool
        Compare with the SHA-256 it carries; False for files of earlier versions, without one.

    Raises
    ------
    DamagedFile
        It is not what was written.
    FileNotFoundError
    """
    if sealed:
        check_sealed(path)
    try:
        found: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise DamagedFile(path, f"is damaged ({one_line(error)})") from None
    return found
