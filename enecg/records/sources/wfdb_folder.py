"""Any folder of WFDB records, with an optional table of labels."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd

from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, listing_from, with_labels
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
    paths = sorted(headers(corpus))
    listed = pd.DataFrame(
        {"record_id": [path.rpartition("/")[2] for path in paths], "path": paths}, dtype=object
    )
    listed["subject_id"] = None
    if labels is None:
        return listing_from(listed, corpus.uri)
    listed, notes = with_labels(listed, labels, "record_id", corpus)
    return listing_from(listed, labels, notes)


def headers(corpus: Corpus) -> list[str]:
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
