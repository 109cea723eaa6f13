"""WFDB to record store: one Ray task per shard; stopped at any moment, it goes on from there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray

import enecg
from enecg.cluster import connect
from enecg.errors import JobFailed, UserError, one_line
from enecg.files import fingerprint, read_json, write_json
from enecg.progress import counting, say
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.finish import finish, remove_half_written
from enecg.records.shard_task import convert_shard, is_done
from enecg.records.store import DESCRIPTION, INDEX, REJECTED, UNFINISHED, RecordStore, shard_name

RECORDS_PER_SHARD = 256
"""About 12 MB a file, and less than two seconds of work to repeat after a crash."""
_ARGUMENTS = "arguments.json"


def convert(
    source: str,
    folder: Path,
    output: Path,
    labels: Path | None = None,
    workers: int | None = None,
    limit: int | None = None,
    max_rejected: float = 0.05,
    overwrite: bool = False,
    seed: int = 42,
) -> RecordStore:
    """Convert a corpus of WFDB records into a record store.

    Parameters
    ----------
    source : str
        Name of the corpus layout, of `enecg.records.sources.names`.
    folder : Path
        The corpus.
    output : Path
        The store's folder; on a cluster of several machines, one that all of them see.
    labels : Path, optional
        A table of labels, as the source describes it.
    workers : int, optional
        One-CPU tasks at a time; by default as many as the cluster has CPUs.
    limit : int, optional
        Only the first so many records in listing order.
    max_rejected : float
        Share of the listed records above which the conversion counts as failed.
    overwrite : bool
        Start afresh where a store is; only a store's own files are removed.
    seed : int
        Decides which record stands in which shard.

    Returns
    -------
    RecordStore
        The finished store.

    Raises
    ------
    UserError
        Arguments that make no sense, a corpus that is not there, or a store that is.
    JobFailed
        A shard could not be written, or too many records were rejected; in the second case the
        store is complete.
    """
    layout = sources.get(source)
    output = Path(output)
    _check_arguments(workers, limit, max_rejected)
    corpus = Corpus.at(folder)
    listing = layout.list_records(corpus, labels)
    for note in listing.notes:
        say(note)
    if limit is not None:
        listing = sources.Listing(listing.table.head(limit), listing.labels, listing.metadata)
    if listing.table.empty:
        raise UserError(f"{folder}: no records found (looked for what {layout.name!r} means)")
    arguments = {
        "source": source,
        "input": corpus.uri,
        "limit": limit,
        "seed": seed,
        "listing": _listing_fingerprint(listing.table),
        "records per shard": RECORDS_PER_SHARD,
        "enecg": enecg.__version__,
    }
    _prepare(output, arguments, overwrite)
    repeated = listing.table["record_id"].duplicated()
    shards = _shards(listing.table[~repeated], seed)
    _run(output.resolve(), corpus.path, shards, source, workers)
    origin = {"source": source, "seed": seed, "limit": limit}
    finish(output, len(shards), listing, layout.measures_rr, origin)
    store = RecordStore.open(output)
    counts = store.description["counts"]
    share = counts["rejected"] / counts["listed"]
    if share > max_rejected:
        raise JobFailed(
            f"{counts['rejected']:,} of {counts['listed']:,} records ({share:.1%}) were rejected, "
            f"more than --max-rejected {max_rejected:g}; the store is complete, "
            f"{output / REJECTED} says why"
        )
    return store


def _check_arguments(workers: int | None, limit: int | None, max_rejected: float) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give at least 1")
    if not 0 <= max_rejected <= 1:
        raise UserError(f"--max-rejected {max_rejected:g}: give a share between 0 and 1")


def _listing_fingerprint(table: pd.DataFrame) -> str:
    """Return what changes with any record, path or label of the listing."""
    rows = pd.util.hash_pandas_object(table.astype(str), index=False)
    return fingerprint([list(table.columns), [f"{row:x}" for row in rows]])


def _prepare(output: Path, arguments: dict[str, Any], overwrite: bool) -> None:
    """Make the output folder ready: empty, or holding part of the very same store."""
    unfinished = output / UNFINISHED
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give a folder")
    if overwrite:
        # dataset.json goes first: without it nothing takes the rest for a store.
        for name in (DESCRIPTION, INDEX, REJECTED):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in output.glob("shard-*.parquet"):
            path.unlink()
        remove_half_written(output)
    elif (output / DESCRIPTION).exists() and not (unfinished / _ARGUMENTS).is_file():
        remove_half_written(output)
        raise UserError(
            f"--output {output}: holds a finished record store; add --overwrite to replace it"
        )
    elif (unfinished / _ARGUMENTS).is_file():
        before = read_json(unfinished / _ARGUMENTS)
        if before != arguments:
            differing = [key for key in arguments if before.get(key) != arguments[key]]
            said = ", ".join(
                "the records or labels found"
                if key == "listing"
                else f"{key} {before.get(key)!r}, now {arguments[key]!r}"
                for key in differing
            )
            raise UserError(
                f"--output {output}: holds an unfinished store made with other arguments ({said}); "
                "repeat those, or add --overwrite to start afresh"
            )
        say(f"{output}: going on with an unfinished conversion")
    elif output.is_dir() and any(
        path.name != UNFINISHED and not path.name.endswith(".tmp") for path in output.iterdir()
    ):
        raise UserError(
            f"--output {output}: is not empty and holds no record store; give another folder, or "
            "add --overwrite to put one there (other files in it stay)"
        )
    write_json(unfinished / _ARGUMENTS, arguments)


def _shards(table: pd.DataFrame, seed: int) -> list[list[tuple[str, str]]]:
    """Deal the records out to shards at random: reading files in any order is then a shuffle."""
    order = np.random.default_rng(seed).permutation(len(table))
    records = list(zip(table["record_id"], table["path"], strict=True))
    return [
        [records[place] for place in order[start : start + RECORDS_PER_SHARD]]
        for start in range(0, len(order), RECORDS_PER_SHARD)
    ]


def _run(
    output: Path,
    folder: Path,
    shards: Sequence[Sequence[tuple[str, str]]],
    source: str,
    workers: int | None,
) -> None:
    """Convert the shards that are not done yet, ``workers`` at a time."""
    waiting = [number for number in range(len(shards)) if not is_done(output, number)]
    total = sum(map(len, shards))
    with counting("convert", total) as progress:
        if not waiting:
            progress.advance(total, "all done before")
            return
        connect()
        limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1)(convert_shard)
        progress.advance(total - sum(len(shards[number]) for number in waiting))
        rejected = 0
        running: dict[Any, int] = {}
        waiting.reverse()
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    number = waiting.pop()
                    reference = task.remote(output, number, folder, shards[number], source)
                    running[reference] = number
                finished, _ = ray.wait(list(running), num_returns=1)
                number = running.pop(finished[0])
                rejected += _outcome(finished[0], number)
                progress.advance(len(shards[number]), f"{rejected:,} rejected")
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _outcome(reference: Any, number: int) -> int:
    """Return how many records of a finished shard were rejected."""
    try:
        _, rejected = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):  # a full disk, a lost mount
            raise JobFailed(f"{shard_name(number)}: {one_line(error.cause)}") from error
        raise
    except ray.exceptions.RayError as error:  # the worker died, more often than Ray retries
        raise JobFailed(
            f"{shard_name(number)}: {one_line(error)[:300]}; the same command goes on from here"
        ) from error
    return int(rejected)
