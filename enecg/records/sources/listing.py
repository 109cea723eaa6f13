"""What a source hands over: which records there are, whose they are, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from enecg.errors import UserError
from enecg.label_text import often, texts_of, with_counts
from enecg.records import wfdb_record
from enecg.records.channel import Channel
from enecg.records.columns import typed
from enecg.records.corpus import Corpus
from enecg.records.csv_table import read_csv
from enecg.records.identifiers import identifiers, note_on_words
from enecg.storage import Place
from enecg.tasks import TASKS

__all__ = [
    "KEYS", "MEASURED", "Listing", "Source", "flag_of", "gender_of", "listing_from",
    "notes_on_sentinels", "read_csv", "tidy", "without_sentinels",
]  # fmt: skip

KEYS = ("record_id", "subject_id", "path")
MEASURED = (
    "group_id", "shard", "row", "source_path", "sampling_rate_hz", "n_samples", "lead_present",
    "lead_derived", "changed", "requantisation_error_uv", "signal_sha256", "physical_sha256",
    "signal", "gain", "baseline",
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
    texts : tuple of str
        Columns of metadata that are text by nature (reports, lists of codes): numbers among their
        values do not mean that the others are numbers that cannot be read.
    without_subject : frozenset of str
        The ``record_id`` of records whose subject the corpus does not say.
    not_measured : mapping of str to dict
        By column, which of `SENTINELS` stood there and became missing, with how often.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    without_subject: frozenset[str] = frozenset()
    not_measured: Mapping[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A corpus layout.

    Attributes
    ----------
    name : str
        What ``--source`` calls it.
    summary : str
        One line for ``--help``, which reads it without running the file: plain text.
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


SENTINELS = (29999, -29999, 32767, -32768, 65535)
"""What electrocardiographs write where they could not measure."""
_SENTINEL_TEXTS = tuple(f"{number}{end}" for number in SENTINELS for end in ("", ".0"))


def without_sentinels(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Make numbers that stand for "not measured" missing, and count them.

    Columns of text are numbers where any of their values is one; identifiers are left alone.

    Returns
    -------
    table : DataFrame
    not_measured : dict of str to dict
        By column, each of `SENTINELS` that stood there, with how often.
    """
    columns: dict[str, pd.Series] = {}
    found: dict[str, dict[str, int]] = {}
    missing: float | None
    for name in table:
        if str(name).endswith("_id"):
            continue
        values, missing = table[name], None
        if pd.api.types.is_numeric_dtype(values):
            is_one, missing = values.isin(SENTINELS), np.nan
        elif values.dtype == object:
            if pd.api.types.infer_dtype(values, skipna=True) != "string":  # lists among them
                values = values.map(lambda value: value if isinstance(value, str) else None)
            is_one = values.isin(_SENTINEL_TEXTS)
        else:
            continue
        if is_one.any():
            found[str(name)] = often(texts_of(table[name][is_one]))
            columns[str(name)] = table[name].mask(is_one, missing)
    return table.assign(**columns), found


def notes_on_sentinels(not_measured: Mapping[str, dict[str, int]], origin: Place) -> list[str]:
    """Say which of `SENTINELS` became missing, a line for each column."""
    return [
        f"{origin}: {name}: {with_counts(found)} stand for 'not measured'; they become missing"
        for name, found in not_measured.items()
    ]


def gender_of(values: pd.Series) -> pd.Series:
    """Return ``male`` or ``female`` for any usual spelling; others stay, to be counted."""
    spelled = values.astype("string").str.strip().str.lower()
    known = {"m": "male", "male": "male", "f": "female", "female": "female"}
    return spelled.map(known).astype(object).where(spelled.isin(known), values)


def flag_of(values: pd.Series) -> pd.Series:
    """Return ``abnormal`` or ``normal`` for a flag that is raised or not; others stay."""
    spelled = values.astype("string").str.strip().str.lower()
    known = dict.fromkeys(("abnormal", "1", "1.0", "true"), "abnormal")
    known |= dict.fromkeys(("normal", "0", "0.0", "false"), "normal")
    return spelled.map(known).astype(object).where(spelled.isin(known), values)


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with `gender` and `flag` in the store's words."""
    words = (("gender", gender_of), ("flag", flag_of))
    return table.assign(**{name: said(table[name]) for name, said in words if name in table})


def _place(origin: Place, key: str, row: int) -> str:
    return f"{origin}, row {row + 1}: {key}"


def listing_from(
    table: pd.DataFrame,
    origin: Place,
    notes: Iterable[str] = (),
    texts: Iterable[str] = (),
    not_measured: Mapping[str, dict[str, int]] | None = None,
) -> Listing:
    """Split a table's columns into keys, labels and metadata.

    Identifiers get their normal form. A record without a subject is its own; one without a path is
    rejected when it is to be read. Other columns of text become numbers where nothing of how they
    are written is lost.

    Raises
    ------
    UserError
        A column of ``origin`` has a name that the store needs for itself, a row has no
        ``record_id``, or an identifier is none.
    """
    for name in table.columns:
        if name in MEASURED:
            raise UserError(
                f"{origin}: column {name!r} has a name that the record store fills itself; "
                "rename it"
            )
    ids = {
        key: identifiers(table[key], partial(_place, origin, key))
        for key in ("record_id", "subject_id")
    }
    nameless = ids["record_id"].isna().to_numpy()
    if nameless.any():
        raise UserError(f"{origin}: row {int(nameless.argmax()) + 1} has no record_id")
    unknown = ids["subject_id"].isna().to_numpy()
    without_subject = frozenset(ids["record_id"][unknown])
    known = {task.column for task in TASKS.values()}
    others = [name for name in table.columns if name not in KEYS]
    table = table.assign(
        record_id=ids["record_id"],
        subject_id=ids["subject_id"].fillna(ids["record_id"]),
        path=table["path"].fillna(""),
        **{name: typed(table[name]) for name in others},
    )
    notes = [*notes, *note_on_words(table["subject_id"], origin)]
    labels = tuple(name for name in others if name in known)
    metadata = tuple(name for name in others if name not in known)
    columns = [*KEYS, *labels, *metadata]
    return Listing(
        table[columns].reset_index(drop=True),
        labels,
        metadata,
        tuple(notes),
        tuple(texts),
        without_subject,
        not_measured or {},
    )
