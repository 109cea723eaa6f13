"""A store in the making: who makes it, with which arguments, and which of its shards are done.

All of it lies in the folder ``.unfinished`` of the store and is removed, the arguments last, once
``dataset.json`` is there. So whatever a kill leaves, the next job knows what it is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from enecg.errors import JobFailed, UserError
from enecg.progress import say
from enecg.records.labels import list_of
from enecg.records.shard_file import shard_name
from enecg.records.store import DESCRIPTION, INDEX, REJECTED, RELABELLED, UNFINISHED
from enecg.storage import Folder

_ARGUMENTS, _OUTCOMES = f"{UNFINISHED}/arguments.json", f"{UNFINISHED}/outcomes"
_READ_AT_ONCE = 16

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
    owner : str
        A random name of the job.
    """

    store: Folder
    owner: str

    def check(self) -> None:
        """Stop here if the store is not this job's to write any more.

        Raises
        ------
        JobFailed
            Another job has taken it over, finished or removed it.
        """
        try:
            held = json.loads(self.store.read(_ARGUMENTS))["owner"] == self.owner
        except FileNotFoundError:
            held = False
        if not held:
            raise JobFailed(
                f"{self.store.uri}: another conversion has taken over this store; this one stops"
            )

    def release(self) -> None:
        """Remove what was there to make the store, once it is finished."""
        remove_half_written(self.store)
        self.store.remove(_OUTCOMES)
        self.store.remove(UNFINISHED)


def claim(store: Folder, arguments: dict[str, Any], overwrite: bool) -> Claim:
    """Make a folder ready to hold a store: empty, or with part of the very same store.

    A job that still works on the same store is stopped by this at its next shard; what it has
    done counts.

    Raises
    ------
    UserError
        A finished store, an unfinished one of other arguments, or files of another kind.
    """
    if not store.remote and store.path.is_file():
        raise UserError(f"--output {store.uri}: is a file; give a folder")
    names, unfinished = store.names(), _unfinished_arguments(store)
    if overwrite:
        # dataset.json goes first: without it nothing takes the rest for a store.
        for name in (DESCRIPTION, _ARGUMENTS, INDEX, REJECTED, RELABELLED, UNFINISHED):
            store.remove(name)
        for name in names:
            if name.startswith("shard-") and name.endswith(".parquet"):
                store.remove(name)
        remove_half_written(store)
    elif unfinished is not None:
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
    store.write(_ARGUMENTS, json.dumps({**arguments, "owner": mine.owner}, indent=2).encode())
    return mine


def _unfinished_arguments(store: Folder) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.read(_ARGUMENTS))
    except FileNotFoundError:
        return None
    return found


def outcome_name(shard: int) -> str:
    """Return where a shard's outcomes lie until the store is finished."""
    return f"{_OUTCOMES}/{shard_name(shard)}"


def shards_to_do(store: Folder, shards: int) -> list[int]:
    """Return which shards, or their outcomes, are not there yet."""
    files, outcomes = set(store.names()), set(store.below(_OUTCOMES).names())
    names = [shard_name(shard) for shard in range(shards)]
    return [n for n, name in enumerate(names) if name not in files or name not in outcomes]


def read_outcomes(store: Folder, shards: Sequence[int]) -> pa.Table:
    """Read the outcomes of shards, in order."""

    def read(shard: int) -> pa.Table:
        with store.open(outcome_name(shard)) as file:
            return pq.read_table(file, use_threads=False)

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        # Outcomes of an earlier version lack a column.
        tables = [OUTCOME_SCHEMA.empty_table(), *pool.map(read, shards)]
        return pa.concat_tables(tables, promote_options="default")


def remove_half_written(store: Folder) -> None:
    """Remove what a kill in the middle of a write left; object storage knows no such thing."""
    for name in store.names():
        ours = fnmatch(name, ".*.parquet.*.tmp") or fnmatch(name, f".{DESCRIPTION}.*.tmp")
        if ours:
            store.remove(name)
