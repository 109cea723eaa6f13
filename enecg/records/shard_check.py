"""Comparing a store's signal files with their checksums, before they are read."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from enecg.checked_files import DamagedFile
from enecg.errors import one_line
from enecg.progress import say
from enecg.records.description import DESCRIPTION, INDEX
from enecg.storage import Folder

_REMOTE_AT_ONCE = 16
_WORTH_TELLING = 1.0  # seconds


def check_shards(folder: Folder, digests: Mapping[str, str], rows: Mapping[str, int]) -> None:
    """Compare shards with their SHA-256, in parallel; what this process has compared counts.

    A shard is read again only if its size, time or inode has changed since (in object storage: its
    size, time or tag). If it takes long enough to be noticed, a line says how long it took.

    Parameters
    ----------
    folder : Folder
        The store's.
    digests : mapping of str to str
        SHA-256 by name.
    rows : mapping of str to int
        How many records each has.

    Raises
    ------
    DamagedFile
        A shard is gone, is not what it was, or has other rows.
    """
    at_once = _REMOTE_AT_ONCE if folder.remote else os.cpu_count() or 1
    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        sizes = pool.map(lambda name: _checked(folder, name, digests[name], rows[name]), digests)
        checked = sum(sizes)
    if (seconds := time.monotonic() - started) >= _WORTH_TELLING:
        say(f"checked {checked / 1e9:.2f} GB of signals in {seconds:.1f} s: all whole")


def damaged(folder: Folder, name: str, problem: str | None = None) -> DamagedFile:
    """Return the error that says what is wrong with a file of a store, and what to do."""
    return DamagedFile(
        folder.uri_of(name),
        problem or f"is damaged (its SHA-256 is not that in {DESCRIPTION})",
        "bring the file back, or make the record store again",
    )


def _checked(folder: Folder, name: str, digest: str, rows: int) -> int:
    """Return a shard's size in bytes, once it has been found whole."""
    try:
        if folder.sha256_once(name) != digest:
            raise damaged(folder, name)
        with folder.open(name) as file:
            found = pq.read_metadata(file).num_rows
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise damaged(folder, name, "is gone") from None
    except (OSError, pa.ArrowException) as error:
        raise damaged(folder, name, f"cannot be read ({one_line(error)})") from None
    if found != rows:
        raise damaged(folder, name, f"has {found} rows, {INDEX} says {rows}")
    return size
