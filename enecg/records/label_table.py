"""The user's own table of labels: joined to a listing, checked against it and itself."""

from __future__ import annotations

from functools import partial

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.csv_table import line_of, read_csv
from enecg.records.identifiers import identifiers
from enecg.records.sources.listing import tidy
from enecg.storage import Place


def with_labels(
    listed: pd.DataFrame, labels: Place, key: str, corpus: Corpus
) -> tuple[pd.DataFrame, list[str]]:
    """Join a table of labels to a listing; a record without a row has no labels.

    Parameters
    ----------
    listed : DataFrame
        With the columns ``record_id`` and ``path``; ``subject_id`` where the corpus says whose
        record it is, else null.
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
        In the order of ``listed``; identifiers in their normal form.
    list of str
        What the user should hear about.

    Raises
    ------
    UserError
        The table is not there, lacks its key, has a record twice with different values, knows no
        record that is listed, or gives a record to another subject than the corpus does.
    """
    table = read_csv(labels, [key])
    for name in ("path", "record_id"):
        if name in table and name != key:
            raise UserError(
                f"{labels}: column {name!r} has a name that the record store fills itself"
            )
    table = with_identifiers(table, (key, "subject_id"), labels)
    nameless = table[key].isna().to_numpy()
    if nameless.any():
        line = line_of(table, int(nameless.argmax()))
        raise UserError(f"{labels}, line {line}: {key} is empty")
    table, notes = without_repeats(table, [key], labels)
    table = table.rename(columns={key: "record_id"})
    listed = with_identifiers(listed, ("record_id", "subject_id"), corpus.uri)
    without_record = int((~table["record_id"].isin(listed["record_id"])).sum())
    without_row = int((~listed["record_id"].isin(table["record_id"])).sum())
    if len(table) and without_record == len(table) and len(listed):
        raise UserError(
            f"{labels}: no {key} is the name of a record in {corpus.uri}; the table has "
            f"{table['record_id'].iloc[0]!r}, the folder {listed['record_id'].iloc[0]!r}"
        )
    if without_record:
        notes.append(f"{labels}: {without_record:,} rows name no record in {corpus.uri}")
    if without_row:
        notes.append(f"{labels}: {without_row:,} records have no row, so no labels")
    if "subject_id" in table and "subject_id" in listed:
        check_subjects(table, listed, labels, corpus)
    replaced = [name for name in table if name in listed and name != "record_id"]
    joined = listed.drop(columns=replaced).merge(table, on="record_id", how="left", sort=False)
    if "subject_id" in replaced:  # a row may leave it empty, a record have no row
        joined["subject_id"] = joined["subject_id"].fillna(listed["subject_id"])
    return tidy(joined), notes


def with_identifiers(table: pd.DataFrame, names: tuple[str, ...], origin: Place) -> pd.DataFrame:
    """Return a table with the identifiers of some columns in their normal form.

    Raises
    ------
    UserError
        A cell that is no identifier; named by its line.
    """

    def place(name: str, row: int) -> str:
        return f"{origin}, line {line_of(table, row)}: {name}"

    columns = {
        name: identifiers(table[name], partial(place, name)) for name in names if name in table
    }
    return table.assign(**columns)


def without_repeats(
    table: pd.DataFrame, key: list[str], origin: Place
) -> tuple[pd.DataFrame, list[str]]:
    """Return a table without rows that say the same again, and a note on how many there were.

    Parameters
    ----------
    table : DataFrame
        What `read_csv` gives.
    key : list of str
        The columns that name a record; the first is its identifier.

    Raises
    ------
    UserError
        A record stands in several rows with different values; the message names it and them.
    """
    again = table.duplicated(key, keep=False).to_numpy()
    if not again.any():
        return table, []
    several = table[again]
    texts = several.astype(object).fillna("\0").map(str)
    first = texts.groupby(key, sort=False).transform("first")
    for name in first:
        differs = (texts[name] != first[name]).to_numpy()
        if differs.any():
            row = int(several.index[differs][0])
            record = table.loc[row, key[0]]
            earlier = several.index[(several[key] == several.loc[row, key]).all(axis=1)][0]
            raise UserError(
                f"{origin}: {key[0]} {record!r} stands in more than one row, with {name} "
                f"{_shown(table[name][earlier])} in line {line_of(table, earlier)} and "
                f"{_shown(table[name][row])} in line {line_of(table, row)}"
            )
    repeated = table.duplicated(key).to_numpy()
    lines = [line_of(table, row) for row in range(len(table)) if not repeated[row]]
    kept = table[~repeated].reset_index(drop=True)
    kept.attrs["lines"] = lines
    return kept, [f"{origin}: {int(repeated.sum()):,} rows repeat another one word for word"]


def check_subjects(
    table: pd.DataFrame, listed: pd.DataFrame, origin: Place, corpus: Corpus
) -> None:
    """Refuse a table that gives a record to another subject than the corpus does.

    Parameters
    ----------
    table, listed : DataFrame
        With ``record_id`` and ``subject_id`` in normal form, null where not known.

    Raises
    ------
    UserError
        The message names the first such record, both subjects, and how many there are.
    """
    own = listed.drop_duplicates("record_id").set_index("record_id")["subject_id"]
    theirs = table["record_id"].map(own)
    both = theirs.notna() & table["subject_id"].notna()
    differs = (both & (theirs != table["subject_id"])).to_numpy()
    if differs.any():
        row = int(differs.argmax())
        count = int(differs.sum())
        raise UserError(
            f"{origin}, line {line_of(table, row)}: record {table['record_id'].iloc[row]!r} has "
            f"the subject {table['subject_id'].iloc[row]!r}, but {theirs.iloc[row]!r} in "
            f"{corpus.uri}" + (f"; so do {count - 1:,} more records" if count > 1 else "")
        )


def check_own_subjects(
    table: pd.DataFrame, corpus: Corpus, own: str, names: tuple[str, str], origin: Place
) -> None:
    """Refuse a table that stands in for the corpus's own one but gives records to other subjects.

    Parameters
    ----------
    table : DataFrame
        With identifiers in normal form.
    corpus : Corpus
    own : str
        The corpus's own table, in its folder.
    names : (str, str)
        What both call ``record_id`` and ``subject_id``.
    origin : path or URI
        Where ``table`` comes from.

    Raises
    ------
    UserError
        As `check_subjects`.
    """
    place = corpus.uri_of(own)
    as_ours = dict(zip(names, ("record_id", "subject_id"), strict=True))
    listed = with_identifiers(read_csv(place, names)[list(names)], names, place)
    check_subjects(
        table[list(names)].rename(columns=as_ours), listed.rename(columns=as_ours), origin, corpus
    )


def _shown(value: object) -> str:
    return "nothing" if value is None or value != value else repr(str(value)[:60])
