"""The work on one shard: read its records, write its file, say what became of each record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from enecg.files import sha256_of_file
from enecg.records import sources
from enecg.records.canonical import CanonicalRecord, canonical
from enecg.records.channel import Rejected
from enecg.records.rr import rr_interval_ms
from enecg.records.store import UNFINISHED, shard_name, write_shard, write_table
from enecg.signals import LEADS

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
        ("lead_present", pa.list_(pa.bool_())),
        ("lead_derived", pa.list_(pa.bool_())),
        ("changed", pa.list_(pa.string())),
        ("signal_sha256", pa.string()),
        ("physical_sha256", pa.string()),
        ("shard_sha256", pa.string()),
        ("rr_interval", pa.float64()),
    ]
)
"""One row per record of a shard, accepted or not."""


def outcome_path(store: Path, shard: int) -> Path:
    """Return where a shard's outcomes lie until the store is finished."""
    return store / UNFINISHED / shard_name(shard)


def convert_shard(
    store: Path, shard: int, folder: Path, records: Sequence[tuple[str, str]], source: str
) -> tuple[int, int]:
    """Convert the records of one shard; the file of outcomes, written last, says it is done.

    Parameters
    ----------
    store : Path
        The store that is being made.
    shard : int
        The shard's number.
    folder : Path
        The input folder.
    records : sequence of (record_id, path)
        What to read, in the shard's order; paths relative to ``folder``.
    source : str
        Name of the corpus layout: how a record is read, whether ``rr_interval`` is measured.

    Returns
    -------
    accepted, rejected : int
    """
    layout = sources.get(source)
    accepted_ids: list[str] = []
    accepted: list[CanonicalRecord] = []
    rows: list[dict[str, object]] = []
    for record_id, path in records:
        row: dict[str, object] = {"record_id": record_id, "path": path, "shard": shard_name(shard)}
        rows.append(row)
        try:
            channels = layout.read(folder, path)
            record = canonical(channels)
        except Rejected as refusal:
            row.update(reason=refusal.reason, detail=refusal.detail)
            continue
        first = channels[min(channels)]
        row.update(
            row=len(accepted),
            sampling_rate_hz=first.rate_hz,
            n_samples=first.n_samples,
            lead_present=record.present_L.tolist(),
            lead_derived=[False] * len(LEADS),
            changed=list(record.changed),
            signal_sha256=record.signal_sha256(),
            physical_sha256=record.physical_sha256(),
            rr_interval=rr_interval_ms(channels) if layout.measures_rr else None,
        )
        accepted_ids.append(record_id)
        accepted.append(record)
    if not (store / UNFINISHED).is_dir():
        # The job that asked for this was killed, and its successor is finished already.
        raise RuntimeError(f"{store} is not being made any more")
    file = store / shard_name(shard)
    write_shard(file, accepted_ids, accepted)
    digest = sha256_of_file(file)
    outcomes = [{**row, "shard_sha256": digest} for row in rows]
    write_table(outcome_path(store, shard), pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA))
    return len(accepted), len(rows) - len(accepted)


def is_done(store: Path, shard: int) -> bool:
    """Whether a shard and its outcomes are there."""
    return os.path.isfile(outcome_path(store, shard)) and os.path.isfile(store / shard_name(shard))


def read_outcomes(store: Path, shards: int) -> pa.Table:
    """Read the outcomes of all shards, in order."""
    tables = [pq.read_table(outcome_path(store, shard)) for shard in range(shards)]
    return pa.concat_tables(tables) if tables else OUTCOME_SCHEMA.empty_table()
