"""Any folder of WFDB records, with an optional table of labels."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv
from enecg.storage import Place

_HEADER_BYTES = 1 << 20  # more than any header that names segments has


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List every WFDB header in a folder, at any depth, in the order of their paths.

    Parameters
    ----------
    corpus : Corpus
        Where to look. Headers that are segments of a multi-segment record beside them are part
        of that record, not records of their own.
    labels : path or URI, or None
        A CSV table with the column ``record_id`` (a header's name without ``.hea``), perhaps
        ``subject_id``, and label and metadata columns. A record without a row has no labels.

    Raises
    ------
    UserError
        The table is not there, lacks ``record_id``, or has a row twice.
    """
    paths = sorted(_headers(corpus))
    listed = pd.DataFrame(
        {"record_id": [path.rpartition("/")[2] for path in paths], "path": paths}, dtype=object
    )
    if labels is None:
        return listing_from(listed.assign(subject_id=listed["record_id"]), corpus.uri)
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
            f"{labels}: no record_id is the name of a header in {corpus.uri}; the table has "
            f"{table['record_id'].iloc[0]!r}, the folder {listed['record_id'].iloc[0]!r}"
        )
    notes = []
    if without_record:
        notes.append(f"{labels}: {without_record:,} rows name no record in {corpus.uri}")
    if without_row:
        notes.append(f"{labels}: {without_row:,} records have no row, so no labels")
    listed = listed.merge(table, on="record_id", how="left", sort=False)
    subjects = listed["subject_id"] if "subject_id" in listed else listed["record_id"]
    return listing_from(
        listed.assign(subject_id=subjects.fillna(listed["record_id"])), labels, notes
    )


def _headers(corpus: Corpus) -> list[str]:
    """Return the name of every header, without ``.hea``, that is no other record's segment."""
    stems = [name.removesuffix(".hea") for name in corpus.names_ending(".hea")]
    beside: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        beside[stem.rpartition("/")[0]].append(stem)
    # Only a folder with several headers can hold a record with segments.
    several = [f"{stem}.hea" for stems in beside.values() if len(stems) > 1 for stem in stems]
    parts = {
        f"{name.rpartition('/')[0]}/{part}".lstrip("/")
        for name, content in corpus.read_heads(several, _HEADER_BYTES)
        for part in _segments(content)
    }
    return [stem for stem in stems if stem not in parts]


def _segments(header: bytes) -> set[str]:
    """Return the segments a multi-segment header names; none for an ordinary or broken one."""
    lines = header.decode("utf-8", "replace").splitlines()
    content = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not content or "/" not in content[0][0]:
        return set()
    return {words[0] for words in content[1:]}


SOURCE = Source(
    "wfdb", "any folder of WFDB headers, with --labels FILE.csv keyed by record_id", list_records
)
