"""PTB-XL as PhysioNet publishes it (https://physionet.org/content/ptb-xl/)."""

from __future__ import annotations

import ast

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv
from enecg.records.sources.rhythms import RHYTHMS, notes_on_other_rhythms, rhythm_of
from enecg.storage import Place

TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_SAME_RHYTHM = {"PVT": "VTAC"}
"""Other names of statements in `enecg.records.sources.rhythms.RHYTHMS`."""
_USED = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "filename_lr", "filename_hr")


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List PTB-XL's records.

    Parameters
    ----------
    corpus : Corpus
        Holds ``ptbxl_database.csv`` and ``records500/`` or ``records100/`` or both; a record's
        500 Hz file is taken where it is there. With ``scp_statements.csv`` there are diagnostic
        super-classes.
    labels : path or URI, or None
        Another table of the same form to use instead, such as a subset.

    Raises
    ------
    UserError
        A table is not there, lacks a column, or a row cannot be read.
    """
    path = labels or corpus.uri_of(TABLE)
    table = read_csv(path, _USED, text=("ecg_id",))
    codes, genders, subjects = [], [], []
    for row in table[list(_USED)].to_dict("records"):
        where = f"{path}, ecg_id {row['ecg_id']}"
        codes.append(_codes(row["scp_codes"], where))
        genders.append(_gender(row["sex"], where))
        subjects.append(_subject(row["patient_id"], row["ecg_id"], where))
    statements = _statements(corpus)
    others = _other_rhythms(statements)
    rhythms = [{_SAME_RHYTHM.get(code, code) for code in found} for found in codes]
    notes = notes_on_other_rhythms(rhythms, others)
    listed = table.drop(columns=list(_USED)).assign(
        record_id=table["ecg_id"],
        subject_id=pd.Series(subjects, dtype=object),
        path=_paths(table, corpus, path),
        # 300 stands for "over 89"; as an impossible age it becomes missing, and is counted.
        age=table["age"],
        gender=pd.Series(genders, dtype=object),
        report_label=pd.Series([rhythm_of(found, others) for found in rhythms], dtype=object),
        scp_codes=table["scp_codes"],
        # Of both, presence counts, whatever the likelihood.
        statements=pd.Series([list(found) for found in codes], dtype=object),
    )
    if statements is None:
        notes.append(f"{corpus.uri}: no {STATEMENTS}, so no column superclasses")
        return listing_from(listed, path, notes)
    superclass = _superclass_of(statements)
    found = [{superclass.get(code) for code in record} for record in codes]
    listed["superclasses"] = pd.Series(
        [[name for name in SUPERCLASSES if name in record] for record in found], dtype=object
    )
    return listing_from(listed, path, notes)


def _paths(table: pd.DataFrame, corpus: Corpus, origin: Place) -> pd.Series:
    """Return each record's 500 Hz file where it is there, else its 100 Hz file where that is."""
    slow, fast = table["filename_lr"], table["filename_hr"]
    unnamed = ~(slow.map(_is_text) & fast.map(_is_text))
    if unnamed.any():
        where = f"{origin}, ecg_id {table['ecg_id'][unnamed].iloc[0]}"
        raise UserError(f"{where}: filename_lr and filename_hr must name a file")
    there = set(corpus.names_ending(".hea"))

    def is_there(name: str) -> bool:
        # Folders that are links to elsewhere are not walked, but may be read.
        return f"{name}.hea" in there or (not corpus.remote and corpus.exists(f"{name}.hea"))

    return pd.Series(
        [hr if is_there(hr) or not is_there(lr) else lr for lr, hr in zip(slow, fast, strict=True)],
        dtype=object,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _statements(corpus: Corpus) -> pd.DataFrame | None:
    """Return the table of statements, the first column their codes; None where it is not there."""
    if not corpus.exists(STATEMENTS):
        return None
    return read_csv(corpus.uri_of(STATEMENTS), ("diagnostic", "diagnostic_class"), text=())


def _other_rhythms(statements: pd.DataFrame | None) -> list[str]:
    """Return the rhythm statements of the table that `RHYTHMS` does not have, in its order."""
    if statements is None or "rhythm" not in statements:
        return []
    codes = statements.iloc[:, 0][statements["rhythm"] == 1].astype(str)
    return [code for code in codes if code not in RHYTHMS and code not in _SAME_RHYTHM]


def _superclass_of(statements: pd.DataFrame) -> dict[str, str]:
    """Return the super-class of every diagnostic statement."""
    diagnostic = statements[statements["diagnostic"] == 1]
    return dict(zip(diagnostic.iloc[:, 0], diagnostic["diagnostic_class"], strict=True))


def _codes(text: str, where: str) -> dict[str, float]:
    try:
        codes = ast.literal_eval(str(text))
    except (ValueError, SyntaxError):
        codes = None
    if not isinstance(codes, dict):
        raise UserError(f"{where}: scp_codes {text!r} is not of the form {{'SR': 0.0, …}}")
    return codes


def _gender(sex: float, where: str) -> str | None:
    if pd.isna(sex):
        return None
    if sex not in (0, 1):
        raise UserError(f"{where}: sex is {sex!r}; allowed: 0 (male), 1 (female), empty")
    return "male" if sex == 0 else "female"


def _subject(patient: float | str, record_id: str, where: str) -> str | None:
    if pd.isna(record_id):
        raise UserError(f"{where}: ecg_id is empty")
    if pd.isna(patient):
        return None
    # The published table writes patients as 15709.0.
    return str(patient).removesuffix(".0")


SOURCE = Source(
    "ptb-xl", f"a folder with {TABLE} and records500/ or records100/", list_records, True
)
