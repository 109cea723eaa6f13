"""What a source hands over: which records there are, whose they are, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from enecg.errors import UserError
from enecg.records import wfdb_record
from enecg.records.channel import Channel
from enecg.records.corpus import Corpus
from enecg.storage import Place, open_file
from enecg.tasks import TASKS

KEYS = ("record_id", "subject_id", "path")
MEASURED = (
    "group_id", "shard", "row", "source_path", "sampling_rate_hz", "n_samples", "lead_present",
    "lead_derived", "changed", "signal_sha256", "physical_sha256", "signal", "gain", "baseline",
)  # fmt: skip
"""Column names that the store itself fills; a corpus's own column may not take one of them."""


@dataclass(frozen=True)
class Listing:
    """The records of a corpus in a fixed order.

    Attributes
    ----------
    table : DataFrame
        One row per record: ``record_id``, ``subject_id``, ``path`` (of the WFDB header without
        ``.hea``, relative to the input folder), label columns, metadata columns.
    labels : tuple of str
        Columns that a known task predicts.
    metadata : tuple of str
        Every other column; passed through.
    notes : tuple of str
        What the user should hear about, a line each.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A corpus layout.

    Attributes
    ----------
    name : str
        What ``--source`` calls it.
    summary : str
        One line for ``--help``.
    list_records : callable
        ``(corpus, labels file or None)`` → `Listing`; raises UserError.
    measures_rr : bool
        Whether ``rr_interval`` is measured in the signals, because the corpus has no such label.
    read : callable
        ``(local folder, listed path)`` → the leads that are there, by their place in
        `enecg.signals.LEADS`; raises `enecg.records.channel.Rejected`. WFDB by default.
    files : callable
        ``(listed path, fetch)`` → the files, relative to the input folder, that ``read`` needs;
        ``fetch`` returns the content of one, or raises OSError. Those that are not there are left
        out when a record is brought to a local folder: ``read`` says what is missing.
    """

    name: str
    summary: str
    list_records: Callable[[Corpus, Place | None], Listing]
    measures_rr: bool = False
    read: Callable[[Path, str], dict[int, Channel]] = wfdb_record.read_listed
    files: Callable[[str, Callable[[str], bytes]], list[str]] = wfdb_record.files


def read_csv(path: Place, required: Iterable[str], text: Iterable[str]) -> pd.DataFrame:
    """Read a CSV table, at a path or URI, with the columns ``required``; those in ``text`` stay
    as written.

    Raises
    ------
    UserError
        No such file, no CSV, or a column is missing.
    """
    try:
        with open_file(path) as file:
            table = pd.read_csv(file, dtype=dict.fromkeys(text, str), low_memory=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: not a CSV table in UTF-8: {error}") from error
    missing = [name for name in required if name not in table.columns]
    if missing:
        raise UserError(
            f"{path}: no column {', '.join(missing)}; it has: {', '.join(map(str, table.columns))}"
        )
    return table


def listing_from(table: pd.DataFrame, origin: Place, notes: Iterable[str] = ()) -> Listing:
    """Split a table's columns into keys, labels and metadata.

    Raises
    ------
    UserError
        A column of ``origin`` has a name that the store needs for itself.
    """
    for name in table.columns:
        if name in MEASURED:
            raise UserError(
                f"{origin}: column {name!r} has a name that the record store fills itself; "
                "rename it"
            )
    known = {task.column for task in TASKS.values()}
    others = [name for name in table.columns if name not in KEYS]
    labels = tuple(name for name in others if name in known)
    metadata = tuple(name for name in others if name not in known)
    columns = [*KEYS, *labels, *metadata]
    return Listing(table[columns].reset_index(drop=True), labels, metadata, tuple(notes))
