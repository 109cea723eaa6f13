"""The manifest of EnECG's authors: a JSON object a line, with labels (arXiv 2511.22935)."""

from __future__ import annotations

import json
import os
from pathlib import PurePath
from typing import Any

import pandas as pd

from enecg.errors import UserError, one_line
from enecg.records.corpus import Corpus
from enecg.records.label_table import with_identifiers, without_repeats
from enecg.records.sources.listing import (
    Listing,
    Source,
    listing_from,
    notes_on_sentinels,
    tidy,
    without_sentinels,
)
from enecg.records.sources.report_lines import read_line
from enecg.records.sources.rhythms import RHYTHMS
from enecg.storage import Place, open_file


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List every row of a manifest.

    Unlike the authors' loader it keeps every record of a subject, and every record whose other
    labels are there when one is missing.

    Parameters
    ----------
    corpus : Corpus
        The folder that ``ecg_path`` starts from.
    labels : path or URI, or None
        The manifest; by default the only ``.jsonl`` file in the folder. A line has ``ecg_path``
        (with or without ``.hea``), ``subject_id``, perhaps ``record_id`` or ``study_id``, and a
        field per label: a number, a text, null, or a list of names; 29999 is a missing number.

    Raises
    ------
    UserError
        No manifest, a line of it that cannot be read, or a record that is there twice with
        different values.
    """
    place = labels or _only_manifest(corpus)
    rows, lines = _rows(place)
    # Cells stay as the file has them: pandas would make 1 and null floats.
    table = pd.DataFrame(rows, dtype=object)
    if table.empty:
        table = pd.DataFrame(columns=["ecg_path", "subject_id"], dtype=object)
    table.attrs["lines"] = lines
    table = with_identifiers(table, ("subject_id", "record_id", "study_id"), place)
    paths = [_relative(path, corpus) for path in table.pop("ecg_path")]
    stems = pd.Series([path.rpartition("/")[2] for path in paths], dtype=object)
    for key in ("record_id", "study_id"):
        if key in table:
            stems = table.pop(key).fillna(stems)
            break
    # Records of one name in different places are another matter: they are rejected one by one.
    table = table.assign(record_id=stems, path=paths)
    table, notes = without_repeats(table, ["record_id", "path"], place)
    table, not_measured = without_sentinels(table)
    notes += notes_on_sentinels(not_measured, place)
    table = tidy(table)
    if "report_label" in table:
        table["report_label"] = _rhythm(table["report_label"])
    return listing_from(table, place, notes, not_measured=not_measured)


def _only_manifest(corpus: Corpus) -> str:
    found = corpus.names_ending(".jsonl")
    if len(found) != 1:
        raise UserError(
            f"{corpus.uri}: {len(found)} files *.jsonl; give --labels FILE.jsonl: a line is "
            '{"subject_id": …, "ecg_path": …, "age": …}'
        )
    return corpus.uri_of(found[0])


def _rows(place: Place) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the manifest's objects, and the lines that they stand in."""
    rows, lines = [], []
    with open_file(place) as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            where = f"{place}, line {number}"
            try:
                # Numbers stay text: no digit is lost, and 7.0 is not yet 7.
                row = json.loads(
                    text.decode("utf-8"), parse_float=_decimal, parse_int=str,
                    parse_constant=_constant, object_pairs_hook=_object,
                )  # fmt: skip
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: no JSON: {one_line(error)[:200]}") from None
            path = row.get("ecg_path") if isinstance(row, dict) else None
            if not isinstance(path, str) or not path.strip() or "subject_id" not in row:
                raise UserError(f"{where}: needs subject_id and ecg_path")
            rows.append({name: _value(value, f"{where}: {name}") for name, value in row.items()})
            lines.append(number)
    return rows, lines


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is there more than once")
    return dict(pairs)


def _decimal(text: str) -> str:
    """Return a decimal number as written, so that no identifier is made of ``1e7``."""
    return text if "." in text else text.lower().replace("e", ".0e")


def _constant(text: str) -> str | None:
    """Return NaN, which Python writes for a missing number, as missing; infinity as it stands."""
    return None if text == "NaN" else text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(value: Any, where: str) -> Any:
    """Return a field as a cell: text, a list of names, a truth value for identifiers to refuse."""
    name = where.rpartition(" ")[2]
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str) and not _is_text(one):
            raise UserError(f"{where}: {one[:60]!r} is no text (half of a surrogate pair)")
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return value if name in ("subject_id", "record_id", "study_id") else str(value).lower()
    if isinstance(value, list):
        for one in value:
            if isinstance(one, list | dict | bool):
                raise UserError(f"{where}: {one!r}"[:300] + " is in a list; only names may be")
        return [one.strip() for one in value if one is not None and one.strip()]
    return value


def _relative(path: str, corpus: Corpus) -> str:
    """Return a record's path in the corpus; one that leads out stays as it is, to be rejected."""
    stem = os.path.splitext(path)[0] if path.lower().endswith((".hea", ".dat", ".mat")) else path
    if os.path.isabs(stem) and PurePath(stem).is_relative_to(corpus.uri):
        stem = os.path.relpath(stem, corpus.uri)
    return stem.removeprefix("./")


def _rhythm(values: pd.Series) -> pd.Series:
    """Return rhythm codes; a line of a machine's report becomes the rhythm that it states.

    One that only doubts or denies a rhythm becomes missing; what names none stays.
    """

    def code(value: object) -> object:
        if not isinstance(value, str) or value in RHYTHMS:
            return value
        reading = read_line(value)
        return reading.rhythm if reading.named else value

    return values.map(code, na_action="ignore")


SOURCE = Source(
    "enecg",
    "the authors' JSON lines (subject_id, ecg_path, a field per label), alone in the folder or "
    "given as --labels",
    list_records,
)
