"""The PhysioNet/CinC Challenges 2020 and 2021: labels are comments in the headers.

https://physionet.org/content/challenge-2021/; the seven corpora in it are laid out alike.
"""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd

from enecg.errors import UserError
from enecg.label_text import with_counts
from enecg.records.corpus import Corpus
from enecg.records.sources.listing import Listing, Source, gender_of, listing_from
from enecg.records.sources.rhythms import notes_on_other_rhythms, rhythm_of
from enecg.records.sources.snomed import BY_WORD, CLASSES, RHYTHM_OF_CLASS
from enecg.records.sources.wfdb_folder import headers
from enecg.storage import Place

_HEADER_BYTES = 1 << 16
_COMMENT = re.compile(
    r"^#\s*(age|sex|dx|rx|hx|sx)\s*:[ \t]*(.*?)\s*$", re.IGNORECASE | re.MULTILINE
)
_CODE = re.compile(r"[0-9]+(\.0)?")
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
    found = headers(corpus)
    paths, names = list(found), list(found.values())
    said = pd.DataFrame(
        [comments_of(content) for _, content in corpus.read_heads(names, _HEADER_BYTES)],
        columns=["age", "sex", "dx", "rx", "hx", "sx"],
        dtype=object,
    )
    terms = said["dx"].map(terms_of, na_action="ignore")
    diagnoses = terms.map(classes_of, na_action="ignore")
    rhythms = diagnoses.dropna().map(_rhythms)
    stems = pd.Series([path.rpartition("/")[2] for path in paths], dtype=object)
    listed = pd.DataFrame({"record_id": stems, "subject_id": None, "path": paths}).assign(
        age=said["age"],
        gender=gender_of(said["sex"]),
        report_label=rhythms.map(rhythm_of).reindex(diagnoses.index).astype(object),
        diagnoses=diagnoses,
        **{name: said[name] for name in ("dx", "rx", "hx", "sx")},
    )
    notes = [*_notes(terms), *notes_on_other_rhythms(rhythms.tolist())]
    return listing_from(listed, corpus.uri, notes, texts=("dx", "rx", "hx", "sx"))


def _notes(terms: pd.Series) -> list[str]:
    """Say which diagnoses have no class, and which are words, with counts and examples."""
    every = Counter(terms.dropna().explode().dropna())
    codes = {term: count for term, count in every.items() if _CODE.fullmatch(term)}
    words = {term: count for term, count in every.items() if term not in codes}
    read = {term: count for term, count in words.items() if _word(term) in BY_WORD}
    unread = {term: count for term, count in words.items() if term not in read}
    unknown = {term: count for term, count in codes.items() if term not in CLASSES}
    notes = []
    if unknown:
        notes.append(
            f"{sum(unknown.values()):,} diagnoses have codes without a class, e.g. "
            f"{next(iter(unknown))}; they are kept in the column dx"
        )
    if read:
        notes.append(
            f"{sum(read.values()):,} diagnoses are words, not SNOMED CT codes, taken as the "
            f"Challenge's abbreviations or names: {with_counts(read)}"
        )
    if unread:
        notes.append(
            f"{sum(unread.values()):,} diagnoses are neither codes nor known words: "
            f"{with_counts(unread)}; they are kept in the column dx, and a record with nothing "
            "else has no diagnoses"
        )
    return notes


def comments_of(header: bytes) -> dict[str, str]:
    """Return what a header's comments say, by lower-case name; what is unknown is left out.

    Lines of one name are joined by commas, each text once: diagnoses add up, two ages are none.
    """
    said: dict[str, list[str]] = {}
    for name, text in _COMMENT.findall(header.decode("utf-8", "replace").replace("\r", "\n")):
        texts = said.setdefault(name.lower(), [])
        if text.lower() not in _UNKNOWN and text not in texts:
            texts.append(text)
    return {name: ", ".join(texts) for name, texts in said.items() if texts}


def terms_of(text: str) -> list[str]:
    """Return the diagnoses in a Dx: codes, abbreviations or names, between ``,`` ``;`` or ``|``."""
    terms: list[str] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;|]", text))):
        words = part.split()
        spaced = all(_CODE.fullmatch(word) or _word(word) in BY_WORD for word in words)
        terms += words if spaced and _word(part) not in BY_WORD else [part]
    return [term.removesuffix(".0") if _CODE.fullmatch(term) else term for term in terms]


def _word(term: str) -> str:
    return " ".join(re.sub(r"[-_]", " ", term.lower()).split())


def classes_of(terms: list[str]) -> list[str] | None:
    """Return the classes of diagnoses, each once, in their order.

    Codes without a class say that none of the classes holds. Words that are not known say nothing:
    with nothing but such words, or none at all, the answer is None.
    """
    found = [CLASSES.get(term) or BY_WORD.get(_word(term)) for term in terms]
    unread = [
        term
        for term, name in zip(terms, found, strict=True)
        if name is None and not _CODE.fullmatch(term)
    ]
    classes = list(dict.fromkeys(name for name in found if name is not None))
    return classes if classes or (terms and not unread) else None


def _rhythms(classes: list[str]) -> set[str]:
    return {RHYTHM_OF_CLASS[name] for name in classes if name in RHYTHM_OF_CLASS}


SOURCE = Source(
    "challenge", "a folder of the PhysioNet/CinC Challenge 2020 or 2021, labels in headers",
    list_records, True,
)  # fmt: skip
