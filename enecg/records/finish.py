"""The last step of a conversion: one index, one list of rejects, and ``dataset.json`` last."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

import enecg
from enecg.checked_files import sealed_json
from enecg.records import sources
from enecg.records.groups import group_ids
from enecg.records.labels import arrow_column, checked_columns, unreadable_numbers
from enecg.records.parts import Claim
from enecg.records.shard_file import ROW_GROUP
from enecg.records.store import (
    DESCRIPTION,
    FORMAT,
    FORMAT_VERSION,
    INDEX,
    REJECTED,
    write_table,
)
from enecg.records.subjects import subjects_state
from enecg.signals import LEADS, N_SAMPLES, SAMPLING_RATE_HZ
from enecg.storage import Folder

# What conversion itself found out about a record, in the order of the index.
_FOUND = (
    "shard", "row", "source_path", "sampling_rate_hz", "n_samples", "lead_present", "lead_derived",
    "changed", "requantisation_error_uv", "signal_sha256", "physical_sha256",
)  # fmt: skip


def finish(
    claim: Claim,
    outcomes: pa.Table,
    listing: sources.Listing,
    dealt: npt.NDArray[np.int64],
    origin: dict[str, Any],
) -> None:
    """Put the shards' outcomes together and declare the store finished.

    Parameters
    ----------
    claim : Claim
        The store that is being made.
    outcomes : Table
        Of all shards, in order.
    listing : Listing
        Every record that was listed, repeated ones too.
    dealt : int array
        Which row of the listing each row of ``outcomes`` is.
    origin : dict
        What ``dataset.json`` says on where the records come from: ``source`` and more.
    """
    claim.check()
    is_accepted = outcomes["reason"].is_null()
    accepted = outcomes.filter(is_accepted)
    found = accepted.rename_columns(
        ["source_path" if name == "path" else name for name in accepted.column_names]
    )
    labels = listing.labels
    known = listing.table.take(dealt[is_accepted.to_numpy()]).reset_index(drop=True)
    if sources.get(origin["source"]).measures_rr:
        known["rr_interval"] = accepted["rr_interval"].to_pandas()
        labels = ("rr_interval", *(name for name in labels if name != "rr_interval"))
    index, described = index_table(found, known, labels, listing)
    rejects = _rejects(outcomes, listing, dealt)
    tables = {
        name: write_table(claim.store, name, table)
        for name, table in ((INDEX, index), (REJECTED, rejects))
    }
    digests = outcomes.select(["shard", "shard_sha256"]).group_by("shard", use_threads=False)
    shards = digests.aggregate([("shard_sha256", "first")]).sort_by("shard").to_pydict()
    claim.check()
    write_description(
        claim.store,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "enecg": enecg.__version__,
            **origin,
            "sampling_rate_hz": SAMPLING_RATE_HZ,
            "n_samples": N_SAMPLES,
            "leads": list(LEADS),
            "row_group": ROW_GROUP,
            "counts": _counts(index, rejects, listing),
            "subjects": subjects_state(without_subject(index, listing), index.num_rows),
            **described,
            "not_measured": listing.not_measured,
            "signals_left_out": _how_often(pc.list_flatten(outcomes["left_out"])),
            "files": {
                **dict(zip(shards["shard"], shards["shard_sha256_first"], strict=True)),
                **tables,
            },
        },
    )
    claim.release()


def write_description(folder: Folder, description: dict[str, Any]) -> None:
    """Write ``dataset.json``, with its own checksum."""
    folder.write(DESCRIPTION, sealed_json(description))


def index_table(
    found: pa.Table, known: pd.DataFrame, labels: tuple[str, ...], listing: sources.Listing
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the index, and what ``dataset.json`` says on its columns.

    Parameters
    ----------
    found : Table
        What conversion found out, one row per accepted record in file order.
    known : DataFrame
        What the corpus says, of the same records in the same order.
    labels : tuple of str
        Which columns of ``known`` are labels.
    listing : Listing
        Names the columns of metadata to take, and which of them are text.

    Returns
    -------
    index : Table
    described : dict
        ``labels`` (statistics), ``metadata`` (names), ``unreadable_numbers``.
    """
    metadata = listing.metadata
    checked, statistics = checked_columns(known, labels, metadata)
    described = {
        "labels": statistics,
        "metadata": list(metadata),
        "unreadable_numbers": unreadable_numbers(
            known, [name for name in metadata if name not in listing.texts]
        ),
    }
    subjects = known["subject_id"].astype(str).to_numpy(object)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "record_id": found["record_id"],
        "subject_id": pa.array(subjects, pa.string()),
        "group_id": pa.array(group_ids(subjects, found["signal_sha256"].to_numpy()), pa.string()),
        **{name: found[name] for name in _FOUND},
    }
    for name in (*labels, *metadata):
        columns[name] = arrow_column(checked[name])
    return pa.table(columns), described


def who_is_counted(index: pa.Table, listing: sources.Listing) -> dict[str, int]:
    """Return how many subjects and groups an index has, and how many records without a subject."""
    return {
        "subjects": pc.count_distinct(index["subject_id"]).as_py(),
        "groups": pc.count_distinct(index["group_id"]).as_py(),
        "without_subject": without_subject(index, listing),
    }


def without_subject(index: pa.Table, listing: sources.Listing) -> int:
    """Return how many records of an index have no subject in the corpus."""
    return sum(name in listing.without_subject for name in index["record_id"].to_pylist())


def _rejects(
    outcomes: pa.Table, listing: sources.Listing, dealt: npt.NDArray[np.int64]
) -> pa.Table:
    """Return the rejects in listing order: those of the shards, and every repeated record_id."""
    names = ["record_id", "path", "reason", "detail"]
    place = pa.array(dealt)
    refused = outcomes.select(names).append_column("place", place)
    refused = refused.filter(refused["reason"].is_valid()).sort_by("place").select(names)
    ids = listing.table["record_id"]
    repeated = ids.duplicated()
    again = listing.table.loc[repeated, ["record_id", "path"]]
    first = listing.table.loc[~repeated & ids.isin(again["record_id"])]
    paths = again["record_id"].map(first.set_index("record_id")["path"])
    again = again.assign(reason="repeated record_id", detail="the first is " + paths.astype(str))
    schema = pa.schema([(name, pa.string()) for name in names])
    return pa.concat_tables(
        [refused.cast(schema), pa.Table.from_pandas(again, schema, preserve_index=False)]
    )


def _counts(index: pa.Table, rejects: pa.Table, listing: sources.Listing) -> dict[str, Any]:
    return {
        "listed": index.num_rows + rejects.num_rows,
        "accepted": index.num_rows,
        "rejected": rejects.num_rows,
        "rejected_by_reason": _how_often(rejects["reason"]),
        "changed": _how_often(pc.list_flatten(index["changed"])),
        **who_is_counted(index, listing),
    }


def _how_often(values: pa.ChunkedArray) -> dict[str, int]:
    counts = {
        str(pair["values"]): int(pair["counts"]) for pair in values.value_counts().to_pylist()
    }
    return dict(sorted(counts.items()))
