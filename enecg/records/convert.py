"""WFDB to record store: one Ray task per shard; stopped at any moment, it goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray

import enecg
from enecg import interrupts
from enecg.cluster import connect
from enecg.errors import JobFailed, UserError, one_line
from enecg.progress import counting, say
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.finish import finish
from enecg.records.options import MAX_REJECTED, SEED
from enecg.records.parts import Claim, claim, held, read_outcomes, shards_to_do
from enecg.records.shard_file import shard_name
from enecg.records.shard_task import convert_shard
from enecg.records.store import DESCRIPTION, REJECTED, RecordStore
from enecg.records.wfdb_record import read_listed
from enecg.storage import Folder, Place

RECORDS_PER_SHARD = 256
"""About 12 MB a file, and less than two seconds of work to repeat after a crash."""


def convert(
    source: str,
    folder: Place,
    output: Place,
    labels: Place | None = None,
    workers: int | None = None,
    limit: int | None = None,
    max_rejected: float = MAX_REJECTED,
    overwrite: bool = False,
    seed: int | None = SEED,
    lead_names: Mapping[str, str] | None = None,
) -> RecordStore:
    """Convert a corpus of WFDB records into a record store.

    Parameters
    ----------
    source : str
        Name of the corpus layout, of `enecg.records.sources.names`.
    folder : path or URI
        The corpus.
    output : path or URI
        The store's folder; on a cluster of several machines, one that all of them see.
    labels : path or URI, optional
        A table of labels, as the source describes it.
    workers : int, optional
        One-CPU tasks at a time; by default as many as the cluster has CPUs.
    limit : int, optional
        Only the first so many records in listing order.
    max_rejected : float
        Share of the listed records above which the conversion counts as failed.
    overwrite : bool
        Replace a store that is there, once the new one is whole; other files in its folder stay.
    seed : int
        Decides which record stands in which shard; None: all stand in listing order, which is no
        order to train in.
    lead_names : mapping of str to str, optional
        Own names of signals and the leads that they are; see
        `enecg.records.leads.read_lead_names`.

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
    _check_arguments(workers, limit, max_rejected, seed)
    if lead_names and layout.read is not read_listed:
        raise UserError(f"--lead-names: the records of --source {source} have no names of signals")
    corpus = Corpus.at(folder)
    listing = layout.list_records(corpus, labels)
    for note in listing.notes:
        say(note)
    if limit is not None:
        listing = replace(listing, table=listing.table.head(limit))
    if listing.table.empty:
        raise UserError(f"{folder}: no records found (looked for what {layout.name!r} means)")
    say(f"{len(listing.table):,} records listed")
    store = Folder.at(output)
    arguments = {
        "source": source,
        "input": corpus.uri,
        "limit": limit,
        "seed": seed,
        "listing": _listing_fingerprint(listing.table),
        "records per shard": RECORDS_PER_SHARD,
        "enecg": enecg.__version__,
        "lead names": dict(lead_names) if lead_names else None,
    }
    with ExitStack() as until_made:
        try:
            until_made.enter_context(held(store))
            mine = claim(store, arguments, overwrite)
        except OSError as error:
            raise UserError(f"--output {output}: {one_line(error)}") from None
        if mine.old is not None:
            interrupts.keeps(f"the old store in {output} and the new one's shards are kept")
        if mine.store.exists(DESCRIPTION):
            mine.release()  # a kill came when only this was left to do
        else:
            origin: dict[str, Any] = {"source": source, "seed": seed, "limit": limit}
            if lead_names:
                origin["lead_names"] = dict(lead_names)
            _make(mine, corpus, listing, workers, origin)
    made = RecordStore.open(store)
    counts = made.description["counts"]
    share = counts["rejected"] / counts["listed"]
    if share > max_rejected:
        raise JobFailed(
            f"{counts['rejected']:,} of {counts['listed']:,} records ({share:.1%}) were rejected, "
            f"more than --max-rejected {max_rejected:g}; the store is complete, "
            f"{store.uri_of(REJECTED)} says why"
        )
    return made


def _check_arguments(
    workers: int | None, limit: int | None, max_rejected: float, seed: int | None
) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: give at least 1")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give at least 1")
    if not 0 <= max_rejected <= 1:
        raise UserError(f"--max-rejected {max_rejected:g}: give a share between 0 and 1")
    if seed is not None and seed < 0:
        raise UserError(f"--seed {seed}: give at least 0")


def _listing_fingerprint(table: pd.DataFrame) -> str:
    """Return what changes with any record, path or label of the listing."""
    digest = hashlib.sha256(json.dumps(list(table.columns)).encode())
    for name in table:  # column by column: all of them as text at once would not be small
        rows = pd.util.hash_pandas_object(table[name].astype(str), index=False)
        digest.update(rows.to_numpy().tobytes())
    return digest.hexdigest()


def _dealt(table: pd.DataFrame, seed: int | None) -> npt.NDArray[np.int64]:
    """Return the rows of a listing in the order of shards: every record, the first of its name.

    They are dealt at random, so that reading files in any order is a shuffle; without a seed they
    keep their order.
    """
    first = np.flatnonzero(~table["record_id"].duplicated().to_numpy())
    if seed is None:
        return first
    return first[np.random.default_rng(seed).permutation(len(first))]


def _n_shards(dealt: npt.NDArray[np.int64]) -> int:
    return -(-len(dealt) // RECORDS_PER_SHARD)


def _make(
    mine: Claim,
    corpus: Corpus,
    listing: sources.Listing,
    workers: int | None,
    origin: dict[str, Any],
) -> None:
    """Convert all shards that are not done yet, then write what is about all of them."""
    dealt = _dealt(listing.table, origin["seed"])
    _run(mine, corpus, listing.table, dealt, origin, workers)
    say("writing the index")
    try:
        outcomes = read_outcomes(mine.store, range(_n_shards(dealt)))
        finish(mine, outcomes, listing, dealt, origin)
    except OSError as error:  # a full disk, a lost mount
        raise JobFailed(
            f"{mine.store.uri}: {one_line(error)}; the same command goes on from here"
        ) from error


def _run(
    mine: Claim,
    corpus: Corpus,
    table: pd.DataFrame,
    dealt: npt.NDArray[np.int64],
    origin: dict[str, Any],
    workers: int | None,
) -> None:
    """Convert the shards that are not done yet, ``workers`` at a time."""

    def of_shard(number: int) -> npt.NDArray[np.int64]:
        return dealt[number * RECORDS_PER_SHARD : (number + 1) * RECORDS_PER_SHARD]

    waiting = shards_to_do(mine.store, _n_shards(dealt))
    done = read_outcomes(mine.store, sorted(set(range(_n_shards(dealt))) - set(waiting)))
    rejected = len(done) - done["reason"].null_count
    with counting("convert", len(dealt), done_before=len(done)) as progress:
        progress.advance(0, f"{rejected:,} rejected")
        if not waiting:
            return
        connect()
        limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task: Any = ray.remote(num_cpus=1)(convert_shard)
        running: dict[Any, int] = {}
        waiting.reverse()
        try:
            while waiting or running:
                while waiting and len(running) < limit:
                    number = waiting.pop()
                    rows = table.take(of_shard(number))
                    records = list(zip(rows["record_id"], rows["path"], strict=True))
                    reference = task.remote(
                        mine, number, corpus, records, origin["source"], origin.get("lead_names")
                    )
                    running[reference] = number
                finished, _ = ray.wait(list(running), num_returns=1)
                number = running.pop(finished[0])
                rejected += _outcome(finished[0], number)
                progress.advance(len(of_shard(number)), f"{rejected:,} rejected")
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _outcome(reference: Any, number: int) -> int:
    """Return how many records of a finished shard were rejected."""
    try:
        _, rejected = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, JobFailed):
            raise error.cause from None
        if isinstance(error.cause, OSError):  # a full disk, a lost mount
            raise JobFailed(
                f"{shard_name(number)}: {one_line(error.cause)}; the same command goes on from here"
            ) from error
        raise
    except ray.exceptions.RayError as error:  # the worker died, more often than Ray retries
        raise JobFailed(
            f"{shard_name(number)}: {one_line(error)[:300]}; the same command goes on from here"
        ) from error
    return int(rejected)
