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
    without_subject : frozenset of str
        The ``record_id`` of records whose subject the corpus does not say.
    """

    table: pd.DataFrame
    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    notes: tuple[str, ...] = ()
    without_subject: frozenset[str] = frozenset()


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


def with_labels(
    listed: pd.DataFrame, labels: Place, key: str, corpus: Corpus
) -> tuple[pd.DataFrame, list[str]]:
    """Join the user's own table to a listing; a record without a row has no labels.

    Parameters
    ----------
    listed : DataFrame
        With the columns ``record_id`` and ``path``.
    labels : path or URI
        A CSV table: ``key``, perhaps ``subject_id``, and label and metadata columns, which take
        the place of columns of the same name.
    key : str
        What the table calls ``record_id``.
    corpus : Corpus
        Named in messages.

    Returns
    -------
    DataFrame
        In the order of ``listed``.
    list of str
        What the user should hear about.

    Raises
    ------
    UserError
        The table is not there, lacks its key, has it twice, or knows no record that is listed.
    """
    table = read_csv(labels, [key], text=(key, "subject_id"))
    for name in ("path", "record_id"):
        if name in table and name != key:
            raise UserError(
                f"{labels}: column {name!r} has a name that the record store fills itself"
            )
    if table[key].isna().any():
        line = int(table[key].isna().to_numpy().argmax()) + 2
        raise UserError(f"{labels}, line {line}: {key} is empty")
    twice = table[key].duplicated()
    if twice.any():
        first = table.loc[twice, key].iloc[0]
        raise UserError(f"{labels}: {key} {first!r} stands in more than one row")
    table = table.rename(columns={key: "record_id"})
    without_record = int((~table["record_id"].isin(listed["record_id"])).sum())
    without_row = int((~listed["record_id"].isin(table["record_id"])).sum())
    if len(table) and without_record == len(table) and len(listed):
        raise UserError(
            f"{labels}: no {key} is the name of a record in {corpus.uri}; the table has "
            f"{table['record_id'].iloc[0]!r}, the folder {listed['record_id'].iloc[0]!r}"
        )
    notes = []
    if without_record:
        notes.append(f"{labels}: {without_record:,} rows name no record in {corpus.uri}")
    if without_row:
        notes.append(f"{labels}: {without_row:,} records have no row, so no labels")
    replaced = [name for name in table if name in listed and name != "record_id"]
    joined = listed.drop(columns=replaced).merge(table, on="record_id", how="left", sort=False)
    if "subject_id" in replaced:  # a row may leave it empty, a record have no row
        joined["subject_id"] = joined["subject_id"].fillna(listed["subject_id"])
    return tidy(joined), notes


SENTINELS = (29999, -29999, 32767, -32768, 65535)
"""What electrocardiographs write where they could not measure."""


def without_sentinels(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which numbers that stand for "not measured" are missing."""
    names = [str(name) for name in table.select_dtypes("number")]
    numbers = [name for name in names if not name.endswith("_id")]
    return table.assign(**{name: table[name].mask(table[name].isin(SENTINELS)) for name in numbers})


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


def listing_from(table: pd.DataFrame, origin: Place, notes: Iterable[str] = ()) -> Listing:
    """Split a table's columns into keys, labels and metadata.

    A record without a subject is its own; one without a path is rejected when it is to be read.

    Raises
    ------
    UserError
        A column of ``origin`` has a name that the store needs for itself, or a row has no
        ``record_id``.
    """
    for name in table.columns:
        if name in MEASURED:
            raise UserError(
                f"{origin}: column {name!r} has a name that the record store fills itself; "
                "rename it"
            )
    nameless = table["record_id"].isna().to_numpy()
    if nameless.any():
        raise UserError(f"{origin}: row {int(nameless.argmax()) + 1} has no record_id")
    subjects = table["subject_id"].astype(object)
    # An empty name is none: it must not make one subject of all who have it.
    unknown = subjects.isna() | (subjects.astype(str).str.strip() == "")
    table = table.assign(
        subject_id=subjects.mask(unknown, table["record_id"]), path=table["path"].fillna("")
    )
    without_subject = frozenset(table["record_id"][unknown].astype(str))
    known = {task.column for task in TASKS.values()}
    others = [name for name in table.columns if name not in KEYS]
    labels = tuple(name for name in others if name in known)
    metadata = tuple(name for name in others if name not in known)
    columns = [*KEYS, *labels, *metadata]
    return Listing(
        table[columns].reset_index(drop=True), labels, metadata, tuple(notes), without_subject
    )
