"""Paths as people give them, in a config or on a command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from enecg.errors import UserError
from enecg.names import shown

_LONGEST_PART, _LONGEST = 255, 3072
"""Bytes of a part, and of the whole, so that what stands below it fits into Linux's 4096."""


def given(text: str) -> str:
    """Return a path or URI with a leading ``~`` replaced by the home it stands for.

    Raises
    ------
    ValueError
        Nothing, or what cannot be a path: a NUL, a name that is not UTF-8, a part of more than
        255 bytes.
    """
    if not text.strip():
        raise ValueError("is empty; give a path")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{shown(text)}: a name that is not UTF-8; rename it") from None
    if "\0" in text:
        raise ValueError(f"{shown(text)}: no path has a NUL in it")
    if "://" in text:
        return text
    longest = max(map(len, encoded.split(b"/")))
    if longest > _LONGEST_PART or len(encoded) > _LONGEST:
        raise ValueError(
            f"{shown(text)}: too long; a folder's or file's name may have {_LONGEST_PART} bytes, "
            f"a path {_LONGEST}"
        )
    path = os.path.expanduser(text)
    if re.match(r"~[\w.-]*(/|$)", path):
        raise ValueError(f"{shown(text)}: there is no such user's home; write ./~… for such a name")
    return path


def option_text(option: str, text: str | os.PathLike[str]) -> str:
    """Return what a command line's option gave, a path or URI, as `given` does.

    Raises
    ------
    UserError
        It cannot be a path; names the option.
    """
    try:
        return given(os.fspath(text))
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def on_disk(option: str, text: str | os.PathLike[str]) -> Path:
    """Return an option's path, which must be on a disk: a plain path or ``file://…``.

    Raises
    ------
    UserError
        It cannot be a path, or is a URI of something else.
    """
    place = option_text(option, text)
    # pathlib folds the slashes of a URI into one.
    scheme, separator, rest = place.partition(":/")
    if separator and scheme.isalnum() and len(scheme) > 1 and not Path(scheme + ":").exists():
        if scheme not in ("file", "local"):
            raise UserError(f"{option} {place}: give a path on a disk, not a URI")
        return Path("/" + unquote(rest).lstrip("/"))
    return Path(place)
