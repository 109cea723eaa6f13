"""The last step of a conversion: one index, one list of rejects, and ``dataset.json`` last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

import enecg
from enecg.files import sha256_of_file, write_json
from enecg.records.groups import group_ids
from enecg.records.labels import Statistics, arrow_column, checked_columns
from enecg.records.shard_task import read_outcomes
from enecg.records.sources import Listing
from enecg.records.store import (
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    REJECTED,
    REMNANT,
    ROW_GROUP,
    UNFINISHED,
    write_table,
)
from enecg.signals import LEADS, N_SAMPLES, SAMPLING_RATE_HZ

# What conversion itself found out about a record, in the order of the index.
_FOUND = (
    "shard", "row", "source_path", "sampling_rate_hz", "n_samples", "lead_present", "lead_derived",
    "changed", "signal_sha256", "physical_sha256",
)  # fmt: skip


def finish(
    output: Path, shards: int, listing: Listing, measured_rr: bool, origin: dict[str, Any]
) -> None:
    """Put the shards' outcomes together and declare the store finished.

    Parameters
    ----------
    output : Path
        The store's folder, with all shards and their outcomes.
    shards : int
        How many.
    listing : Listing
        Every record that was listed, repeated ones too.
    measured_rr : bool
        Whether the outcomes hold ``rr_interval`` as a label.
    origin : dict
        What ``dataset.json`` says on where the records come from.
    """
    outcomes = read_outcomes(output, shards)
    accepted = outcomes.filter(pc.is_null(outcomes["reason"]))
    found = accepted.rename_columns(
        ["source_path" if name == "path" else name for name in accepted.column_names]
    )
    labels = listing.labels
    table = listing.table.drop_duplicates("record_id").set_index("record_id")
    known = table.loc[accepted["record_id"].to_pylist()].reset_index()
    if measured_rr:
        known["rr_interval"] = accepted["rr_interval"].to_pandas()
        labels = ("rr_interval", *(name for name in labels if name != "rr_interval"))
    index, described = index_table(found, known, labels, listing.metadata)
    rejects = _rejects(outcomes, listing)
    write_table(output / INDEX, index)
    write_table(output / REJECTED, rejects)
    digests = dict(
        zip(outcomes["shard"].to_pylist(), outcomes["shard_sha256"].to_pylist(), strict=True)
    )
    remove_half_written(output)
    write_json(
        output / DESCRIPTION,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "enecg": enecg.__version__,
            **origin,
            "sampling_rate_hz": SAMPLING_RATE_HZ,
            "n_samples": N_SAMPLES,
            "leads": list(LEADS),
            "row_group": ROW_GROUP,
            "counts": _counts(index, rejects),
            "labels": described,
            "metadata": list(listing.metadata),
            "files": {**digests, **_digests_of_tables(output)},
        },
    )
    # Renamed first, so that a kill from here on leaves a finished store, not half of the parts.
    (output / UNFINISHED).rename(output / REMNANT)
    shutil.rmtree(output / REMNANT)


def remove_half_written(output: Path) -> None:
    """Remove what a kill in the middle of a write, or of the last tidying up, left in a store."""
    for pattern in (".*.parquet.*.tmp", f".{DESCRIPTION}.*.tmp"):
        for half in output.glob(pattern):
            half.unlink(missing_ok=True)
    shutil.rmtree(output / REMNANT, ignore_errors=True)


def index_table(
    found: pa.Table, known: pd.DataFrame, labels: tuple[str, ...], metadata: tuple[str, ...]
) -> tuple[pa.Table, dict[str, Statistics]]:
    """Return the index, and the statistics of its labels.

    Parameters
    ----------
    found : Table
        What conversion found out, one row per accepted record in file order.
    known : DataFrame
        What the corpus says, of the same records in the same order.
    labels, metadata : tuple of str
        Which columns of ``known`` to take.
    """
    checked, described = checked_columns(known, labels)
    subjects = known["subject_id"].astype(str).tolist()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "record_id": found["record_id"],
        "subject_id": pa.array(subjects, pa.string()),
        "group_id": pa.array(group_ids(subjects, found["signal_sha256"].to_pylist()), pa.string()),
        **{name: found[name] for name in _FOUND},
    }
    for name in (*labels, *metadata):
        columns[name] = arrow_column(checked[name])
    return pa.table(columns), described


def _rejects(outcomes: pa.Table, listing: Listing) -> pa.Table:
    """Return the rejects in listing order: those of the shards, and every repeated record_id."""
    names = ["record_id", "path", "reason", "detail"]
    refused = outcomes.filter(pc.is_valid(outcomes["reason"])).select(names).to_pandas()
    first = listing.table.drop_duplicates("record_id").set_index("record_id")["path"]
    place = {record: number for number, record in enumerate(first.index)}
    refused = refused.sort_values("record_id", key=lambda ids: ids.map(place), kind="stable")
    again = listing.table[listing.table["record_id"].duplicated()][["record_id", "path"]]
    again = again.assign(
        reason="repeated record_id",
        detail=[f"the first is {first[record]}" for record in again["record_id"]],
    )
    rows = [*refused.to_dict("records"), *again.to_dict("records")]
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, pa.string()) for name in names]))


def _counts(index: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    reasons = rejects["reason"].to_pandas().value_counts()
    changes = index["changed"].to_pandas().explode().dropna().value_counts()
    return {
        "listed": index.num_rows + rejects.num_rows,
        "accepted": index.num_rows,
        "rejected": rejects.num_rows,
        "rejected_by_reason": {name: int(reasons[name]) for name in sorted(reasons.index)},
        "changed": {name: int(changes[name]) for name in sorted(changes.index)},
        "subjects": len(set(index["subject_id"].to_pylist())),
        "groups": len(set(index["group_id"].to_pylist())),
    }


def _digests_of_tables(output: Path) -> dict[str, str]:
    return {name: sha256_of_file(output / name) for name in (INDEX, REJECTED)}
