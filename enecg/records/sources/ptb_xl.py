"""PTB-XL as PhysioNet publishes it (https://physionet.org/content/ptb-xl/)."""

from __future__ import annotations

import ast

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv
from enecg.storage import Place

TABLE = "ptbxl_database.csv"
RHYTHMS = (
    "AFIB", "AFLT", "SVTAC", "PSVT", "PACE", "BIGU", "TRIGU", "STACH", "SBRAD", "SARRH", "SVARR",
    "SR",
)  # fmt: skip
"""Rhythm statements in order of precedence: the first one present is the record's class."""
_USED = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "filename_lr", "filename_hr")


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List PTB-XL's records.

    Parameters
    ----------
    corpus : Corpus
        Holds ``ptbxl_database.csv`` and ``records500/`` or ``records100/`` or both; a record's
        500 Hz file is taken where it is there.
    labels : path or URI, or None
        Another table of the same form to use instead, such as a subset.

    Raises
    ------
    UserError
        The table is not there, lacks a column, or a row cannot be read.
    """
    path = labels or corpus.uri_of(TABLE)
    table = read_csv(path, _USED, text=("ecg_id",))
    headers = set(corpus.names_ending(".hea"))
    rhythm, gender, subjects, paths = [], [], [], []
    for row in table[list(_USED)].to_dict("records"):
        where = f"{path}, ecg_id {row['ecg_id']}"
        rhythm.append(rhythm_of(_codes(row["scp_codes"], where)))
        gender.append(_gender(row["sex"], where))
        subjects.append(_subject(row["patient_id"], row["ecg_id"], where))
        slow, fast = row["filename_lr"], row["filename_hr"]
        if not (isinstance(slow, str) and isinstance(fast, str)):
            raise UserError(f"{where}: filename_lr and filename_hr must name a file")
        only_slow = f"{fast}.hea" not in headers and f"{slow}.hea" in headers
        paths.append(slow if only_slow else fast)
    listed = table.drop(columns=list(_USED))
    listed = listed.assign(
        record_id=table["ecg_id"],
        subject_id=subjects,
        path=paths,
        # 300 stands for "over 89"; as an impossible age it becomes missing, and is counted.
        age=table["age"],
        gender=pd.Series(gender, dtype=object),
        report_label=pd.Series(rhythm, dtype=object),
        scp_codes=table["scp_codes"],
    )
    return listing_from(listed, path)


def rhythm_of(codes: dict[str, float]) -> str | None:
    """Return the first rhythm of `RHYTHMS` among a record's statements, whatever its likelihood."""
    return next((rhythm for rhythm in RHYTHMS if rhythm in codes), None)


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


def _subject(patient: float | str, record_id: str, where: str) -> str:
    if pd.isna(record_id):
        raise UserError(f"{where}: ecg_id is empty")
    if pd.isna(patient):
        return str(record_id)
    # The published table writes patients as 15709.0.
    return str(patient).removesuffix(".0")


SOURCE = Source(
    "ptb-xl", f"a folder with {TABLE} and records500/ or records100/", list_records, True
)
