"""PTB-XL as PhysioNet publishes it (https://physionet.org/content/ptb-xl/)."""

from __future__ import annotations

import ast
from collections import Counter

import pandas as pd

from enecg.errors import UserError
from enecg.label_text import with_counts
from enecg.records.corpus import Corpus
from enecg.records.label_table import check_own_subjects, with_identifiers, without_repeats
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv
from enecg.records.sources.rhythms import RHYTHMS, notes_on_other_rhythms, rhythm_of
from enecg.storage import Place

TABLE, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_YES = ("1", "1.0")
_GENDERS = {"0": "male", "0.0": "male", "1": "female", "1.0": "female"}
_TEXTS = (
    "device", "recording_date", "report", "scp_codes", "heart_axis", "infarction_stadium1",
    "infarction_stadium2", "baseline_drift", "static_noise", "burst_noise", "electrodes_problems",
    "extra_beats", "pacemaker",
)  # fmt: skip
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
    table = with_identifiers(read_csv(path, _USED), ("ecg_id", "patient_id"), path)
    notes: list[str] = []
    if labels is not None:
        table, notes = without_repeats(table, ["ecg_id"], path)
        if corpus.exists(TABLE):
            check_own_subjects(table, corpus, TABLE, ("ecg_id", "patient_id"), path)
    codes, genders = [], []
    for row in table[["ecg_id", "scp_codes", "sex"]].to_dict("records"):
        where = f"{path}, ecg_id {row['ecg_id']}"
        if pd.isna(row["ecg_id"]):
            raise UserError(f"{where}: ecg_id is empty")
        codes.append(_codes(row["scp_codes"], where))
        genders.append(_gender(row["sex"], where))
    statements = _statements(corpus)
    others = _other_rhythms(statements)
    rhythms = [{_SAME_RHYTHM.get(code, code) for code in found} for found in codes]
    notes += notes_on_other_rhythms(rhythms, others)
    listed = table.drop(columns=list(_USED)).assign(
        record_id=table["ecg_id"],
        subject_id=table["patient_id"],
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
        note = f"{corpus.uri}: no {STATEMENTS}, so no column superclasses"
        return listing_from(listed, path, [*notes, note], _TEXTS)
    listed["superclasses"] = _superclasses(codes, statements)
    notes += _notes_on_unknown(codes, statements)
    return listing_from(listed, path, notes, _TEXTS)


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
    return read_csv(corpus.uri_of(STATEMENTS), ("diagnostic", "diagnostic_class"))


def _other_rhythms(statements: pd.DataFrame | None) -> list[str]:
    """Return the rhythm statements of the table that `RHYTHMS` does not have, in its order."""
    if statements is None or "rhythm" not in statements:
        return []
    codes = statements.iloc[:, 0][statements["rhythm"].isin(_YES)]
    return [code for code in codes if code not in RHYTHMS and code not in _SAME_RHYTHM]


def _superclasses(codes: list[dict[str, float]], statements: pd.DataFrame) -> pd.Series:
    """Return the diagnostic super-classes of records, in the order of `SUPERCLASSES`.

    A record with none but codes that the table does not list has no label.
    """
    diagnostic = statements[statements["diagnostic"].isin(_YES)]
    class_of = dict(zip(diagnostic.iloc[:, 0], diagnostic["diagnostic_class"], strict=True))
    known = set(statements.iloc[:, 0])
    found: list[list[str] | None] = []
    for record in codes:
        present = {class_of.get(code) for code in record}
        listed = [name for name in SUPERCLASSES if name in present]
        found.append(listed if known & set(record) else None)
    return pd.Series(found, dtype=object)


def _notes_on_unknown(codes: list[dict[str, float]], statements: pd.DataFrame) -> list[str]:
    """Say which codes the table of statements does not list, and how often they occur."""
    known = set(statements.iloc[:, 0])
    unknown = Counter(str(code) for record in codes for code in record if code not in known)
    if not unknown:
        return []
    return [
        f"SCP codes that {STATEMENTS} does not list: {with_counts(unknown)}; a record with nothing "
        "else has no superclasses"
    ]


def _codes(text: str, where: str) -> dict[str, float]:
    try:
        codes = ast.literal_eval(str(text))
    except (ValueError, SyntaxError):
        codes = None
    if not isinstance(codes, dict):
        raise UserError(f"{where}: scp_codes {text!r} is not of the form {{'SR': 0.0, …}}")
    return codes


def _gender(sex: str | float, where: str) -> str | None:
    if pd.isna(sex):
        return None
    if sex not in _GENDERS:
        raise UserError(f"{where}: sex is {sex!r}; allowed: 0 (male), 1 (female), empty")
    return _GENDERS[str(sex)]


SOURCE = Source(
    "ptb-xl", "a folder with ptbxl_database.csv and records500/ or records100/", list_records, True
)
