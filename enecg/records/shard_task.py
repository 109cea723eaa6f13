"""The work on one shard: read its records, write its file, say what became of each record."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from enecg.files import sha256_of_file
from enecg.records import sources
from enecg.records.canonical import CanonicalRecord, canonical
from enecg.records.channel import Rejected
from enecg.records.corpus import Corpus
from enecg.records.parts import OUTCOME_SCHEMA, Claim, write_outcomes
from enecg.records.rr import rr_interval_ms
from enecg.records.shard_file import shard_name, write_shard
from enecg.records.wfdb_record import read_listed

_FETCHED_AT_ONCE = 16  # headers, from object storage
_LONGEST_NAME = 60


def convert_shard(
    claim: Claim,
    shard: int,
    corpus: Corpus,
    records: Sequence[tuple[str, str]],
    source: str,
    lead_names: Mapping[str, str] | None = None,
) -> tuple[int, int]:
    """Convert the records of one shard; the file of outcomes, written last, says it is done.

    Parameters
    ----------
    claim : Claim
        The store that is being made.
    shard : int
        The shard's number.
    corpus : Corpus
        Where the records are.
    records : sequence of (record_id, path)
        What to read, in the shard's order; paths relative to ``corpus``.
    source : str
        Name of the corpus layout: how a record is read, whether ``rr_interval`` is measured.
    lead_names : mapping of str to str, optional
        Own names of leads, for layouts whose records are WFDB.

    Returns
    -------
    accepted, rejected : int
    """
    layout = sources.get(source)
    # Only WFDB has names of signals; `convert` sees to it.
    read = partial(read_listed, lead_names=lead_names) if lead_names else layout.read
    accepted_ids: list[str] = []
    accepted: list[CanonicalRecord] = []
    rows: list[dict[str, object]] = []
    with _on_disk(corpus, layout, [path for _, path in records]) as folder:
        for record_id, path in records:
            row: dict[str, object] = {"record_id": record_id, "path": path}
            rows.append(row)
            try:
                channels = read(folder, path)
                row["left_out"] = [
                    name[:_LONGEST_NAME] for name in getattr(channels, "left_out", ())
                ]
                record = canonical(channels)
            except Rejected as refusal:
                row.update(reason=refusal.reason, detail=refusal.detail)
                continue
            first = channels[min(channels)]
            signal_sha256, physical_sha256 = record.sha256s()
            row.update(
                row=len(accepted),
                sampling_rate_hz=first.rate_hz,
                n_samples=first.n_samples,
                lead_present=record.present_L.tolist(),
                lead_derived=record.derived_L.tolist(),
                changed=list(record.changed),
                requantisation_error_uv=record.requantisation_error_uv,
                signal_sha256=signal_sha256,
                physical_sha256=physical_sha256,
                rr_interval=rr_interval_ms(channels) if layout.measures_rr else None,
            )
            accepted_ids.append(record_id)
            accepted.append(record)
    claim.check()
    with claim.store.replacing(shard_name(shard)) as file:
        write_shard(file, accepted_ids, accepted)
        digest = sha256_of_file(file)
    outcomes = [{**row, "shard": shard_name(shard), "shard_sha256": digest} for row in rows]
    write_outcomes(claim.store, shard, pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA))
    return len(accepted), len(rows) - len(accepted)


@contextmanager
def _on_disk(corpus: Corpus, layout: sources.Source, paths: Sequence[str]) -> Iterator[Path]:
    """Give a local folder that holds the files of some records as long as the block runs."""
    if not corpus.remote:
        yield corpus.path
        return

    def files(path: str) -> list[str]:
        return layout.files(path, corpus.read)

    with tempfile.TemporaryDirectory(prefix="enecg-shard-") as folder:
        with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
            names = [name for found in pool.map(files, paths) for name in found]
        corpus.fetch(names, Path(folder))
        yield Path(folder)
