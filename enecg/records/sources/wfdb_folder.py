"""Any folder of WFDB records, with an optional table of labels."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from enecg.errors import UserError
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv


def list_records(folder: Path, labels: Path | None) -> Listing:
    """List every WFDB header in a folder, at any depth, in the order of their paths.

    Parameters
    ----------
    folder : Path
        Where to look. Headers that are segments of a multi-segment record beside them are part
        of that record, not records of their own.
    labels : Path or None
        A CSV table with the column ``record_id`` (a header's name without ``.hea``), perhaps
        ``subject_id``, and label and metadata columns. A record without a row has no labels.

    Raises
    ------
    UserError
        The table is not there, lacks ``record_id``, or has a row twice.
    """
    paths = sorted(_headers(folder))
    listed = pd.DataFrame(
        {"record_id": [path.rpartition("/")[2] for path in paths], "path": paths}, dtype=object
    )
    if labels is None:
        return listing_from(listed.assign(subject_id=listed["record_id"]), folder)
    table = read_csv(labels, ["record_id"], text=("record_id", "subject_id"))
    if "path" in table:
        raise UserError(f"{labels}: column 'path' has a name that the record store fills itself")
    if table["record_id"].isna().any():
        line = int(table["record_id"].isna().to_numpy().argmax()) + 2
        raise UserError(f"{labels}, line {line}: record_id is empty")
    twice = table["record_id"].duplicated()
    if twice.any():
        first = table.loc[twice, "record_id"].iloc[0]
        raise UserError(f"{labels}: record_id {first!r} stands in more than one row")
    without_record = int((~table["record_id"].isin(listed["record_id"])).sum())
    without_row = int((~listed["record_id"].isin(table["record_id"])).sum())
    if len(table) and without_record == len(table) and len(listed):
        raise UserError(
            f"{labels}: no record_id is the name of a header in {folder}; the table has "
            f"{table['record_id'].iloc[0]!r}, the folder {listed['record_id'].iloc[0]!r}"
        )
    notes = []
    if without_record:
        notes.append(f"{labels}: {without_record:,} rows name no record in {folder}")
    if without_row:
        notes.append(f"{labels}: {without_row:,} records have no row, so no labels")
    listed = listed.merge(table, on="record_id", how="left", sort=False)
    subjects = listed["subject_id"] if "subject_id" in listed else listed["record_id"]
    return listing_from(
        listed.assign(subject_id=subjects.fillna(listed["record_id"])), labels, notes
    )


def _headers(folder: Path) -> list[str]:
    """Return all headers, without ``.hea``, relative to the folder, with ``/`` between parts."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        stems = {name[:-4] for name in files if name.endswith(".hea") and not name.startswith(".")}
        # Only a folder with several headers can hold a record with segments.
        if len(stems) > 1:
            stems -= {part for stem in stems for part in _segments(Path(parent, f"{stem}.hea"))}
        found += [Path(parent, stem).relative_to(folder).as_posix() for stem in stems]
    return found


def _segments(header: Path) -> set[str]:
    """Return the segments a multi-segment header names; none for an ordinary or broken one."""
    try:
        with open(header, encoding="utf-8", errors="replace") as lines:
            content = (line for line in lines if line.strip() and not line.startswith("#"))
            first = next(content, "").split()
            if not first or "/" not in first[0]:
                return set()
            return {line.split()[0] for line in content}
    except OSError:
        return set()


SOURCE = Source(
    "wfdb", "any folder of WFDB headers, with --labels FILE.csv keyed by record_id", list_records
)
