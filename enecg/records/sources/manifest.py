"""The manifest of EnECG's authors: a JSON object a line, with labels (arXiv 2511.22935)."""

from __future__ import annotations

import json
import os
from pathlib import PurePath
from typing import Any

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import (
    Listing,
    Source,
    listing_from,
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
        field per label; 29999 is a missing number.

    Raises
    ------
    UserError
        No manifest, or a line of it that cannot be read.
    """
    place = labels or _only_manifest(corpus)
    table = pd.DataFrame(_rows(place))
    if table.empty:
        table = pd.DataFrame(columns=["ecg_path", "subject_id"])
    paths = [_relative(path, corpus) for path in table.pop("ecg_path")]
    stems = pd.Series([path.rpartition("/")[2] for path in paths], dtype=object)
    for key in ("record_id", "study_id"):
        if key in table:
            stems = _text(table.pop(key)).fillna(stems)
            break
    table = tidy(without_sentinels(table.assign(subject_id=_text(table["subject_id"]))))
    if "report_label" in table:
        table["report_label"] = _rhythm(table["report_label"])
    return listing_from(table.assign(record_id=stems, path=paths), place)


def _only_manifest(corpus: Corpus) -> str:
    found = corpus.names_ending(".jsonl")
    if len(found) != 1:
        raise UserError(
            f"{corpus.uri}: {len(found)} files *.jsonl; give --labels FILE.jsonl: a line is "
            '{"subject_id": …, "ecg_path": …, "age": …}'
        )
    return corpus.uri_of(found[0])


def _rows(place: Place) -> list[dict[str, Any]]:
    rows = []
    with open_file(place) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{place}, line {number}: no JSON: {error}") from None
            path = row.get("ecg_path") if isinstance(row, dict) else None
            if not isinstance(path, str) or not path.strip() or "subject_id" not in row:
                raise UserError(f"{place}, line {number}: needs subject_id and ecg_path")
            rows.append(row)
    return rows


def _relative(path: str, corpus: Corpus) -> str:
    """Return a record's path in the corpus; one that leads out stays as it is, to be rejected."""
    stem = os.path.splitext(path)[0] if path.endswith((".hea", ".dat", ".mat")) else path
    if os.path.isabs(stem) and PurePath(stem).is_relative_to(corpus.uri):
        stem = os.path.relpath(stem, corpus.uri)
    return stem.removeprefix("./")


def _text(values: pd.Series) -> pd.Series:
    return values.map(lambda value: str(value).removesuffix(".0"), na_action="ignore")


def _rhythm(values: pd.Series) -> pd.Series:
    """Return rhythm codes; a line of a machine's report becomes the rhythm that it states.

    One that only doubts or denies a rhythm becomes missing; what names none stays.
    """

    def code(value: object) -> object:
        reading = read_line(str(value))
        return value if value in RHYTHMS or not reading.named else reading.rhythm

    return values.map(code, na_action="ignore")


SOURCE = Source(
    "enecg",
    "the authors' JSON lines (subject_id, ecg_path, a field per label), alone in the folder or "
    "given as --labels",
    list_records,
)
