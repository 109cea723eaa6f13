"""A store in the making: who makes it, with which arguments, and which of its shards are done.

All of it lies in the folder ``.unfinished`` of the store and is removed, the arguments last, once
``dataset.json`` is there. So whatever a kill leaves, the next job knows what it is.

A store that replaces a finished one is made in the folder ``.replacement`` of that store, and moves
in when it is whole; until then the old one can be read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import enecg
from enecg import interrupts
from enecg.checked_files import DamagedFile, parse_sealed_json, sealed_json
from enecg.errors import JobFailed, UserError
from enecg.names import is_store_file
from enecg.ownership import refuse_inside
from enecg.progress import say
from enecg.records.description import parse_description
from enecg.records.labels import list_of
from enecg.records.shard_file import shard_name
from enecg.records.store import DESCRIPTION, FORMAT, RELABELLED, REPLACEMENT, UNFINISHED
from enecg.storage import Folder

_ARGUMENTS, _OUTCOMES = f"{UNFINISHED}/arguments.json", f"{UNFINISHED}/outcomes"
_READ_AT_ONCE = 16
_CLEARING = "clearing"
"""In the arguments: an old store is being removed, the new one's are not there yet."""

OUTCOME_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),
        ("path", pa.string()),
        ("reason", pa.string()),  # null: accepted
        ("detail", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int32()),
        ("sampling_rate_hz", pa.float64()),
        ("n_samples", pa.int64()),
        ("lead_present", list_of(pa.bool_())),
        ("lead_derived", list_of(pa.bool_())),
        ("changed", list_of(pa.string())),
        ("requantisation_error_uv", pa.float64()),
        ("signal_sha256", pa.string()),
        ("physical_sha256", pa.string()),
        ("shard_sha256", pa.string()),
        ("rr_interval", pa.float64()),
        ("left_out", list_of(pa.string())),  # signals that are none of the twelve leads
    ]
)
"""One row per record of a shard, accepted or not."""


@dataclass(frozen=True)
class Claim:
    """The right to make a store: it lasts until another job takes the store over.

    Attributes
    ----------
    store : Folder
        Where it is made.
    owner : str
        A random name of the job.
    old : Folder, optional
        The finished store that it replaces.
    """

    store: Folder
    owner: str
    old: Folder | None = None

    def check(self) -> None:
        """Stop here if the store is not this job's to write any more.

        Raises
        ------
        JobFailed
            Another job has taken it over, finished or removed it.
        """
        try:
            held = _read_arguments(self.store)["owner"] == self.owner
        except FileNotFoundError:
            held = False
        if not held:
            raise JobFailed(
                f"{self.store.uri}: another conversion has taken over this store; this one stops"
            )

    def release(self) -> None:
        """Remove what was there to make the store, once it is finished; replace the old one."""
        remove_half_written(self.store)
        if self.old is not None:
            interrupts.keeps(f"a new store is moving into {self.old.uri}")
            _move_in(self.store, self.old)
            return
        self.store.remove(_OUTCOMES)
        self.store.remove(UNFINISHED)


@contextmanager
def held(store: Folder) -> Iterator[None]:
    """Hold a store's folder for this process; the lock ends with the process, however that ends.

    In object storage, and on file systems without locks, a later job takes the store over instead:
    see `claim`.

    Raises
    ------
    UserError
        Another process makes a store there, or it lies in something else's folder.
    """
    if store.remote or store.path.is_file():  # `claim` refuses a file
        yield
        return
    refuse_inside(f"--output {store.uri}", store.path)
    store.path.mkdir(parents=True, exist_ok=True)
    folder = os.open(store.path, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"--output {store.uri}: another conversion works in this folder; wait for it "
                    "or give another"
                ) from None
        yield
    finally:
        os.close(folder)


def claim(store: Folder, arguments: dict[str, Any], overwrite: bool) -> Claim:
    """Make a folder ready to hold a store: empty, or with part of the very same store.

    A job that still works on the same store is stopped by this at its next shard; what it has
    done counts. With ``overwrite`` a finished store stays until `Claim.release`.

    Raises
    ------
    UserError
        A finished store, an unfinished one of other arguments, or files of another kind.
    """
    if not store.remote and store.path.is_file():
        raise UserError(f"--output {store.uri}: is a file; give a folder")
    names = store.names()
    unfinished: dict[str, Any] | None = {}
    try:
        unfinished = _unfinished_arguments(store)
    except JobFailed:  # damaged: its end is what --overwrite is for
        if not overwrite:
            raise
    new = store.below(REPLACEMENT)
    moving_in = DESCRIPTION not in names and new.exists(DESCRIPTION)
    if moving_in and not overwrite:
        raise UserError(
            f"--output {store.uri}: an earlier --overwrite was stopped here while the new store "
            "moved in; add --overwrite to go on"
        )
    if moving_in or (overwrite and _is_finished(store)):
        if unfinished is not None:  # a kill came after dataset.json
            store.remove(UNFINISHED)
        return _claim_replacement(store, new, arguments)
    if overwrite:
        _clear(store, names, unfinished is not None)
    elif unfinished is not None:
        if unfinished.get(_CLEARING):
            raise UserError(
                f"--output {store.uri}: an earlier --overwrite was stopped here while it removed "
                "the old store; add --overwrite to go on"
            )
        differing = [key for key in arguments if unfinished.get(key) != arguments[key]]
        if differing:
            said = ", ".join(
                "the records or labels found"
                if key == "listing"
                else f"{key} {unfinished.get(key)!r}, now {arguments[key]!r}"
                for key in differing
            )
            raise UserError(
                f"--output {store.uri}: holds an unfinished store made with other arguments "
                f"({said}); repeat those, or add --overwrite to start afresh"
            )
        say(f"{store.uri}: going on with an unfinished conversion")
    elif DESCRIPTION in names:
        raise UserError(
            f"--output {store.uri}: holds a finished record store; add --overwrite to replace it"
        )
    elif any(name != UNFINISHED and not name.endswith(".tmp") for name in names):
        raise UserError(
            f"--output {store.uri}: is not empty and holds no record store; give another folder, "
            "or add --overwrite to put one there (other files in it stay)"
        )
    mine = Claim(store, secrets.token_hex(16))
    store.write(_ARGUMENTS, sealed_json({**arguments, "owner": mine.owner}))
    return mine


def _claim_replacement(old: Folder, new: Folder, arguments: dict[str, Any]) -> Claim:
    """Claim the folder of a store that is to replace a finished one."""
    try:
        said = _unfinished_arguments(new)
        same = said is not None and all(said.get(key) == arguments[key] for key in arguments)
    except JobFailed:  # damaged
        said, same = {}, False
    if not same and new.exists(DESCRIPTION) and not old.exists(DESCRIPTION):
        _move_in(new, old)  # what an earlier command made: whole again, then replaced in its turn
    elif not same and (said is not None or new.exists(DESCRIPTION)):
        old.remove(REPLACEMENT)
    return replace(claim(new, arguments, overwrite=False), old=old)


def _move_in(new: Folder, old: Folder) -> None:
    """Put a finished store in the place of an old one; cut short, this goes on where it stopped.

    From the first step to the last there is no ``dataset.json``: nothing takes a mixture for a
    store.
    """
    files = parse_description(new.read(DESCRIPTION), new.uri_of(DESCRIPTION))["files"]
    old.remove(DESCRIPTION)
    old.remove(RELABELLED)
    for name in files:
        if new.exists(name):  # else it has moved before
            new.move(name, old)
    for name in old.names():
        if is_store_file(name) and name not in files:
            old.remove(name)
    remove_half_written(old)
    new.move(DESCRIPTION, old)
    new.remove(_OUTCOMES)
    new.remove(UNFINISHED)  # what says whose it is goes last
    old.remove(REPLACEMENT)


def _clear(store: Folder, names: Sequence[str], is_unfinished: bool) -> None:
    """Remove the files of an unfinished store of this program's; others in its folder stay.

    Until the last one is gone, `_ARGUMENTS` says whose they are.
    """
    own = [n for n in names if is_store_file(n) or n in (DESCRIPTION, RELABELLED, UNFINISHED)]
    if not own:
        return
    if not is_unfinished:
        raise UserError(
            f"--output {store.uri}: holds {own[0]!r}, but nothing says that it is a record store "
            "of this program's; give another folder, or move it away"
        )
    said = {_CLEARING: True, "enecg": enecg.__version__, "owner": secrets.token_hex(16)}
    store.write(_ARGUMENTS, sealed_json(said))
    # dataset.json goes first: without it nothing takes the rest for a store.
    for name in (DESCRIPTION, _OUTCOMES, *(n for n in own if n not in (DESCRIPTION, UNFINISHED))):
        store.remove(name)
    remove_half_written(store)


def _is_finished(store: Folder) -> bool:
    """Whether a folder's description is that of a record store, of whatever version."""
    try:
        return bool(json.loads(store.read(DESCRIPTION))["format"] == FORMAT)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _unfinished_arguments(store: Folder) -> dict[str, Any] | None:
    """What a conversion that was stopped here was to make.

    Raises
    ------
    UserError
        There is a folder of the name that such a conversion uses, but it is something else's.
    JobFailed
        The file that says so is damaged.
    """
    try:
        return _read_arguments(store)
    except FileNotFoundError:
        inside = store.below(UNFINISHED).names()
        if all(fnmatch(name, ".arguments.json.*.tmp") for name in inside):
            return None
    raise UserError(
        f"--output {store.uri_of(UNFINISHED)}: was not made by this program, which keeps "
        "unfinished work under that name; move it away, or give another folder"
    )


def _read_arguments(store: Folder) -> dict[str, Any]:
    content, place = store.read(_ARGUMENTS), store.uri_of(_ARGUMENTS)
    if not any(key in content for key in (b'"owner"', b'"sha256"', b'"enecg"')):
        raise UserError(f"--output {place}: was not made by this program; move it away")
    try:
        return parse_sealed_json(content, place)
    except DamagedFile as error:
        raise JobFailed(
            f"{error.place} {error.problem}; add --overwrite to start this store afresh"
        ) from None


def outcome_name(shard: int) -> str:
    """Return where a shard's outcomes lie until the store is finished."""
    return f"{_OUTCOMES}/{shard_name(shard)}"


def shards_to_do(store: Folder, shards: int) -> list[int]:
    """Return which shards, or their outcomes, are not there yet."""
    files, outcomes = set(store.names()), set(store.below(_OUTCOMES).names())
    names = [shard_name(shard) for shard in range(shards)]
    return [n for n, name in enumerate(names) if name not in files or name not in outcomes]


def write_outcomes(store: Folder, shard: int, outcomes: pa.Table) -> None:
    """Write what became of a shard's records: the SHA-256 of what follows (32 bytes), Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(outcomes, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    store.write(outcome_name(shard), hashlib.sha256(content).digest() + content)


def read_outcomes(store: Folder, shards: Sequence[int]) -> pa.Table:
    """Read the outcomes of shards, in order.

    Raises
    ------
    DamagedFile
        A file is not what `write_outcomes` wrote.
    """

    def read(shard: int) -> pa.Table:
        content = store.read(outcome_name(shard))
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise DamagedFile(
                store.uri_of(outcome_name(shard)),
                "is damaged (it does not begin with its SHA-256)",
                "remove it: the same command then converts that shard again",
            )
        return pq.read_table(pa.BufferReader(content[32:]), use_threads=False)

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        # Outcomes of an earlier version lack a column.
        tables = [OUTCOME_SCHEMA.empty_table(), *pool.map(read, shards)]
        return pa.concat_tables(tables, promote_options="default")


def remove_half_written(store: Folder) -> None:
    """Remove what a kill in the middle of a write left; object storage knows no such thing."""
    for name in store.names():
        half = re.fullmatch(r"\.(.+)\.\d+\.tmp", name)
        if half and (half[1] == DESCRIPTION or is_store_file(half[1])):
            store.remove(name)
