"""The PhysioNet/CinC Challenges 2020 and 2021: labels are comments in the headers.

https://physionet.org/content/challenge-2021/; the seven corpora in it are laid out alike.
"""

from __future__ import annotations

import re

import pandas as pd

from enecg.errors import UserError
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, gender_of, listing_from
from enecg.records.sources.rhythms import notes_on_other_rhythms, rhythm_of
from enecg.records.sources.snomed import CLASSES, RHYTHM_OF_CLASS
from enecg.records.sources.wfdb_folder import headers
from enecg.storage import Place

_HEADER_BYTES = 1 << 16
_COMMENT = re.compile(
    r"^#\s*(age|sex|dx|rx|hx|sx)\s*:[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE
)
_UNKNOWN = {"", "nan", "unknown", "n/a", "none"}


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List every header in a folder, at any depth, with what its comments say.

    Parameters
    ----------
    corpus : Corpus
        Any part of the Challenge's training data.
    labels : None
        Labels stand in the headers.

    Raises
    ------
    UserError
        ``labels`` is given.
    """
    if labels is not None:
        raise UserError(
            "--labels: the Challenge's labels stand in its headers; with a table of your own use "
            "--source wfdb"
        )
    paths = headers(corpus)
    names = [f"{path}.hea" for path in paths]
    said = pd.DataFrame(
        [comments_of(content) for _, content in corpus.read_heads(names, _HEADER_BYTES)],
        columns=["age", "sex", "dx", "rx", "hx", "sx"],
        dtype=object,
    )
    codes = said["dx"].map(lambda text: re.findall(r"[0-9]+", text), na_action="ignore")
    # An empty Dx says nothing; codes without a class say that none of the classes holds.
    diagnoses = codes.map(classes_of, na_action="ignore")
    rhythms = diagnoses.dropna().map(_rhythms)
    stems = pd.Series([path.rpartition("/")[2] for path in paths], dtype=object)
    listed = pd.DataFrame({"record_id": stems, "subject_id": None, "path": paths}).assign(
        age=said["age"],
        gender=gender_of(said["sex"]),
        report_label=rhythms.map(rhythm_of).reindex(diagnoses.index).astype(object),
        diagnoses=diagnoses,
        **{name: said[name] for name in ("dx", "rx", "hx", "sx")},
    )
    unknown = codes.dropna().explode().dropna()
    unknown = unknown[~unknown.isin(list(CLASSES))]
    notes = [f"{len(unknown):,} diagnoses have codes without a class, e.g. {unknown.iloc[0]}; they "
             "are kept in the column dx"] if len(unknown) else []  # fmt: skip
    notes += notes_on_other_rhythms(rhythms.tolist())
    return listing_from(listed, corpus.uri, notes)


def comments_of(header: bytes) -> dict[str, str]:
    """Return what a header's comments say, by lower-case name; what is unknown is left out."""
    found = _COMMENT.findall(header.decode("utf-8", "replace").replace("\r", "\n"))
    return {name.lower(): text for name, text in found if text.strip().lower() not in _UNKNOWN}


def classes_of(codes: list[str]) -> list[str]:
    """Return the classes of SNOMED CT codes, each once, in the order of the codes."""
    return list(dict.fromkeys(CLASSES[code] for code in codes if code in CLASSES))


def _rhythms(classes: list[str]) -> set[str]:
    return {RHYTHM_OF_CLASS[name] for name in classes if name in RHYTHM_OF_CLASS}


SOURCE = Source(
    "challenge", "a folder of the PhysioNet/CinC Challenge 2020 or 2021, labels in headers",
    list_records, True,
)  # fmt: skip
