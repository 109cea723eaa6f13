"""New labels for a finished record store, without touching a signal."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from enecg.errors import UserError
from enecg.files import sha256_of_file, write_json
from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.finish import index_table
from enecg.records.store import DESCRIPTION, INDEX, RecordStore, write_table


def relabel(source: str, folder: Path, output: Path, labels: Path | None = None) -> RecordStore:
    """Replace subjects, groups, labels and metadata of a store by what the corpus now says.

    Parameters
    ----------
    source : str
        Name of the corpus layout; the one the store was made with.
    folder : Path
        The corpus; only its table of labels and its list of files are read.
    output : Path
        A finished store. Signals stay, and so does ``rr_interval`` where it was measured in them.
    labels : Path, optional
        A table of labels, as the source describes it.

    Raises
    ------
    UserError
        No finished store, another source, or records that the corpus no longer lists.
    """
    layout = sources.get(source)
    store = RecordStore.open(output)
    if store.description["source"] != source:
        raise UserError(
            f"--source {source}: {output} was made with --source {store.description['source']}"
        )
    listing = layout.list_records(Corpus.at(folder), labels)
    table = listing.table.drop_duplicates("record_id").set_index("record_id")
    gone = ~store.index["record_id"].isin(table.index)
    if gone.any():
        first = store.index.loc[gone, "record_id"].iloc[0]
        raise UserError(
            f"{folder}: does not list record {first!r}, which is in {output} "
            f"({int(gone.sum()):,} such records)"
        )
    known = table.loc[store.index["record_id"]].reset_index()
    columns = listing.labels
    if layout.measures_rr:
        known["rr_interval"] = store.index["rr_interval"]
        columns = ("rr_interval", *(name for name in columns if name != "rr_interval"))
    index, described = index_table(
        pq.read_table(store.path / INDEX), known, columns, listing.metadata
    )
    if layout.measures_rr:  # what was impossible when it was measured is no longer there to count
        described["rr_interval"] = store.description["labels"]["rr_interval"]
    write_table(store.path / INDEX, index)
    description = {
        **store.description,
        "counts": {
            **store.description["counts"],
            "subjects": len(set(index["subject_id"].to_pylist())),
            "groups": len(set(index["group_id"].to_pylist())),
        },
        "labels": described,
        "metadata": list(listing.metadata),
        "files": {**store.description["files"], INDEX: sha256_of_file(store.path / INDEX)},
    }
    write_json(store.path / DESCRIPTION, description)
    return RecordStore.open(output)
