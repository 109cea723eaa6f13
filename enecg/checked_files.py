"""Files whose content is checked where it is read: one flipped bit must not become another number.

JSON and safetensors files carry their own SHA-256, so that a file and its checksum are there
together or not at all::

    {"sha256": "<64 hexadecimal digits>", …}                 JSON: the first key
    {"__metadata__": {"sha256": "<64 digits>"}, …} tensors   safetensors: in the header

The hash is that of the whole file with 64 zeros in place of the digits; any JSON or safetensors
reader reads such files. Of other files, and of sets of files, the hashes stand in one that checks
itself: ``dataset.json``, ``bundle.json``, ``done.json``; or, for parts of features, in the name.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import IO, Any

from enecg.errors import JobFailed, one_line
from enecg.files import replacing, sha256_of_file

KEY = "sha256"
ZEROS = "0" * 64
_PLACE = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
HEAD = 256
"""The checksum stands within so many bytes of a file's start."""
_PIECE = 1 << 20
_SETTLED_SECONDS = 2.0
"""A file changed more recently may change again within the resolution of its time."""


class DamagedFile(JobFailed):
    """A stored file is not what it was when it was written.

    Attributes
    ----------
    place : str
        Its path or URI.
    problem : str
        What is wrong with it, to be read after the path.
    """

    def __init__(self, place: str | Path, problem: str, cure: str | None = None) -> None:
        self.place, self.problem = str(place), problem
        self.cure = cure or f"remove {Path(place).parent} and run again: it is made anew"
        super().__init__(f"{place} {problem}; {self.cure}")

    def __reduce__(self) -> tuple[Any, ...]:  # it travels from Ray's workers
        return DamagedFile, (self.place, self.problem, self.cure)


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return a mapping as indented JSON that carries its SHA-256; NaN and infinity are refused."""
    text = json.dumps({KEY: ZEROS, **value}, indent=2, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(ZEROS, digest, 1).encode()


def parse_sealed_json(content: bytes, place: str | Path) -> dict[str, Any]:
    """Return what `sealed_json` was given, from its bytes.

    Parameters
    ----------
    content : bytes
    place : str or Path
        Where they are from, for messages.

    Raises
    ------
    DamagedFile
        The bytes are not those that were written, or carry no checksum.
    """
    _compare(place, *_digests(io.BytesIO(content)))
    try:
        value: dict[str, Any] = json.loads(content)
        del value[KEY]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise DamagedFile(place, "is damaged (not a JSON object with a checksum)") from None
    return value


def write_sealed_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON that carries its SHA-256, atomically."""
    content = sealed_json(value)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Read what `write_sealed_json` wrote.

    Raises
    ------
    DamagedFile
        It is not what was written.
    FileNotFoundError
    """
    return parse_sealed_json(_bytes_of(path), path)


def seal(path: Path) -> None:
    """Write into a file that begins with room for its SHA-256 (64 zeros) what belongs there."""
    with open(path, "r+b") as file:
        place = _PLACE.search(file.read(HEAD))
        if place is None or place[1] != ZEROS.encode():
            raise ValueError(f"{path} has no room for a checksum in its first {HEAD} bytes")
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(place.start(1))
        file.write(digest.encode())


def check_sealed(path: Path) -> None:
    """Compare a JSON or safetensors file with the SHA-256 it carries, reading it in pieces.

    Raises
    ------
    DamagedFile
        They differ, or it carries none.
    FileNotFoundError
    """
    try:
        with open(path, "rb") as file:
            digests = _digests(file)
    except FileNotFoundError:
        raise
    except OSError as error:  # a bad block, say
        raise DamagedFile(path, f"cannot be read ({one_line(error)})") from None
    _compare(path, *digests)


def sha256_once(path: Path) -> str:
    """Return a file's SHA-256; read again in this process only if size, time or inode changed."""
    state = os.stat(path)
    if time.time() - state.st_mtime < _SETTLED_SECONDS:
        return sha256_of_file(path)
    stamp = (os.fspath(path), state.st_size, state.st_mtime_ns, state.st_ino)
    return remembered(stamp, lambda: sha256_of_file(path))


def remembered(what: Hashable, compute: Callable[[], str]) -> str:
    """Return what was computed before for the same ``what`` in this process."""
    with _lock:
        known = _known.get(what)
    if known is None:
        known = compute()
        with _lock:
            _known[what] = known
    return known


def first_damaged(folder: Path, files: Mapping[str, str]) -> str | None:
    """Return the name of a file that is gone or not what it was, None where all are whole.

    Parameters
    ----------
    folder : Path
    files : mapping of str to str
        SHA-256 by name, relative to the folder.
    """
    for name, digest in files.items():
        try:
            if sha256_once(folder / name) != digest:
                return name
        except OSError:
            return name
    return None


_known: dict[Hashable, str] = {}
_lock = threading.Lock()


def _digests(file: IO[bytes]) -> tuple[str | None, str]:
    """Return the SHA-256 a file carries (None: none), and the one it should carry."""
    head = file.read(HEAD)
    place = _PLACE.search(head)
    carried = None if place is None else place[1].decode()
    if place is not None:
        head = head[: place.start(1)] + ZEROS.encode() + head[place.end(1) :]
    digest = hashlib.sha256(head)
    while piece := file.read(_PIECE):
        digest.update(piece)
    return carried, digest.hexdigest()


def _compare(place: str | Path, carried: str | None, found: str) -> None:
    if carried is None:
        raise DamagedFile(
            place, "carries no SHA-256 of its own (an earlier version wrote it, or it is damaged)"
        )
    if carried != found:
        raise DamagedFile(place, "is damaged (its SHA-256 is not the one written in it)")


def _bytes_of(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(path, f"cannot be read ({one_line(error)})") from None
