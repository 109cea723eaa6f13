"""Names of the twelve leads as devices write them: one table, which a user's own may extend."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from enecg.errors import UserError, did_you_mean
from enecg.signals import LEADS
from enecg.yaml_file import read_yaml

_LIMB_LEADS = range(6)
_II = LEADS.index("II")

# What may stand in front of a lead's name, and behind it, without making it another signal.
_BEFORE = re.compile(
    r"(mdc[ _]ecg[ _](lead|elec[ _]potl)|ecg|ekg|ecg lead|ekg lead|lead|einthoven|goldberger|"
    r"wilson|ableitung|derivation|dérivation|derivación|derivação|derivazione)"
    r"(?:[_:.]|-(?=\S))?\s*"  # "lead -aVR" has a sign, "lead-aVR" a dash
)
_BEHIND = re.compile(
    r"\s*(\((einthoven|goldberger|wilson|limb|chest|precordial|lead)\)|"
    r"[(\[]\s*(mv|uv|µv|μv|nv|v)\s*[)\]]|"
    r", augmented voltage, (right|left|foot))$"
)
_LEAD = re.compile(
    r"(?:d[ _-]?)?(?P<roman>i{1,3})|d[ _-]?(?P<number>[1-3])|a[ _-]?v[ _-]?(?P<augmented>[rlf])|"
    r"[vc][ _-]?(?P<chest>[1-6])|ml[ _-]?(?P<modified>ii|2)"
)
# A lead that a longer name speaks of, however it goes on: "aVRraw", "LEADII raw", "LII", "VR".
_MENTIONED = re.compile(
    r"(?:(?<![a-z])|(?<=lead)|(?<=ecg)|(?<=ekg))(?:"
    r"(?:[dl][ _-]?)?(?P<roman>i{1,3})(?![a-z0-9])|(?:[dl]|lead)[ _-]?(?P<number>[1-3])(?![0-9])|"
    r"v[ _-]?(?P<augmented>[rlf])(?![a-z])|[vc][ _-]?(?P<chest>[1-6])(?![0-9]))"
)
_AUGMENTED = re.compile(r"a[ _-]?v[ _-]?(?P<augmented>[rlf])")  # anywhere: "mAVR", "invaVR"
_BARE_C = re.compile(r"c[ _-]?[1-6]")
_EEG = re.compile(r"(eeg|eog)\b.*|fp[12z]|[fcpo]z|f[3478]|p[34]|o1|t[3-6]")
_EASI = {"e", "a", "s", "i"}
_AGAIN = re.compile(r" #\s*(?!0*1$)[0-9]+$")
"""``V1 #2`` is a second signal beside V1; ``V1 #1`` is V1."""
_SIGN = re.compile(r"(\(\s*([+-])\s*\)|[+-]|(?:minus|negative|neg|inverted|inverse|inv)\b\.?)[ _]*")
# A bare "-" behind a name ("V1-") may be the mark of a reference: not taken for a sign.
_SIGN_BEHIND = re.compile(
    r"[ _]*(\(\s*([+-])\s*\)|[+]|\(?(?:minus|neg|negative|inv|inverted|inverse)\)?)$"
)


class LeadName(NamedTuple):
    """What a signal's name says.

    Attributes
    ----------
    lead : int
        Place in `enecg.signals.LEADS`.
    inverted : bool
        The signal is the lead turned over: ``-aVR``.
    modified : bool
        Near to the lead, but with electrodes elsewhere: ``MLII``.
    """

    lead: int
    inverted: bool = False
    modified: bool = False


@lru_cache(maxsize=4096)
def lead_of(name: str) -> LeadName | None:
    """Return which lead a signal is by its name, or None for any other signal.

    Any case; blanks, ``_`` and ``-`` inside do not count; known words in front, a unit or a known
    word in brackets behind: ``AVR``, ``V 1``, ``C1``, ``DII``, ``Lead I (Einthoven)``,
    ``ECG V1``, ``I (mV)``, ``MDC_ECG_LEAD_V1``. A sign or a word such as ``inverted`` turns the
    lead over. What else stands in the name makes it another signal: ``V1 (filtered)``, ``V4R``.
    """
    text = unicodedata.normalize("NFKC", name).replace("−", "-").replace("–", "-")
    if _AGAIN.search(text):
        return None
    text = text.partition(" #")[0].strip(" \t,.;:\"'").lower()
    turned = 0
    for _ in range(4):  # words, units and signs may stand in any order
        before = text
        text = _BEHIND.sub("", text).strip()
        if sign := _SIGN.match(text):
            turned += (sign[2] or sign[1]) != "+"
            text = text[sign.end() :].strip()
        if sign := _SIGN_BEHIND.search(text):
            turned += (sign[2] or sign[1]) != "+"
            text = text[: sign.start()].strip()
        if word := _BEFORE.match(text):
            text = text[word.end() :].strip()
            if text.startswith("- "):  # "lead - aVR": a dash or a sign
                return None
        if text == before:
            break
    said = _LEAD.fullmatch(text)
    if said is None or turned > 1:  # "-aVR (inverted)": turned over once, or twice?
        return None
    return LeadName(_place(said), turned == 1, bool(said["modified"]))


def _place(said: re.Match[str]) -> int:
    """Return the place of the lead that `_LEAD` has found."""
    parts = said.groupdict()
    if parts.get("modified"):
        return _II
    if parts.get("roman"):
        return len(parts["roman"]) - 1
    if parts.get("number"):
        return int(parts["number"]) - 1
    if parts.get("augmented"):
        return 3 + "rlf".index(parts["augmented"])
    return 5 + int(parts["chest"])


class Assignment(NamedTuple):
    """Which of a record's signals are which leads.

    Attributes
    ----------
    leads : dict of int to LeadName
        By the place of the signal among those of the record.
    left_out : tuple of str
        Names of the signals that are none of the twelve.
    """

    leads: dict[int, LeadName]
    left_out: tuple[str, ...]


def assign(names: Iterable[str], own: Mapping[str, str] | None = None) -> Assignment:
    """Find the twelve leads among a record's signals.

    ``MLII`` stands for II only where the record has other limb leads, but not II: alone, as in
    ambulatory recordings, it is a lead of its own. A signal that is turned over gives way to the
    lead itself where both are there. Electrodes of an EEG, or of EASI, are no leads.

    Parameters
    ----------
    names : iterable of str
        Of the record's signals, in order.
    own : mapping of str to str, optional
        What `read_lead_names` gives: names of one's own, which go before the table.

    Returns
    -------
    Assignment
        A lead may be there twice: which one counts is not for this function to choose.
    """
    names = list(names)
    found = {place: lead for place, name in enumerate(names) if (lead := _named(name, own))}
    for place in _electrodes(names, own, found):
        del found[place]
    limbs = {n.lead for n in found.values() if n.lead in _LIMB_LEADS and not n.modified}
    straight = {n.lead for n in found.values() if not n.inverted and not n.modified}
    for place, one in list(found.items()):
        stands_in = bool(limbs) and _II not in limbs
        if (one.modified and not stands_in) or (one.inverted and one.lead in straight):
            del found[place]
    left_out = tuple(name for place, name in enumerate(names) if place not in found)
    return Assignment(found, left_out)


def _named(name: str, own: Mapping[str, str] | None) -> LeadName | None:
    if own and (said := own.get(_plain(name))) is not None:
        return lead_of(said) if said else None
    return lead_of(name)


def _electrodes(
    names: list[str], own: Mapping[str, str] | None, found: Mapping[int, LeadName]
) -> set[int]:
    """Return the places of signals that are called like leads, but are electrodes elsewhere.

    C3 and C4 are on the head where other electrodes of an EEG are recorded, or alone without limb
    leads; I is one of the four electrodes E, A, S, I.
    """
    plain = {n: _plain(name) for n, name in enumerate(names) if not own or _plain(name) not in own}
    bare = {place for place, name in plain.items() if place in found and _BARE_C.fullmatch(name)}
    on_head = any(_EEG.fullmatch(name) for name in plain.values())
    limbs = any(one.lead in _LIMB_LEADS for one in found.values())
    alone = {plain[place][-1] for place in bare} <= {"3", "4"} and not limbs
    places = bare if on_head or alone else set()
    if set(plain.values()) >= _EASI:
        places |= {place for place, name in plain.items() if name == "i"}
    return places


def mentioned(names: Iterable[str]) -> set[int]:
    """Return the leads that names of signals speak of, such as ``aVR`` in ``aVR (filtered)``.

    Such a lead was recorded in some way: it must not be computed from others.
    """
    texts = {unicodedata.normalize("NFKC", name).lower() for name in names}
    return {
        _place(said)
        for text in texts
        for pattern in (_MENTIONED, _AUGMENTED)
        for said in pattern.finditer(text)
    }


def read_lead_names(path: Path) -> dict[str, str]:
    """Read a user's own names of signals: a YAML mapping such as ``{E1: V1, aVR_neg: -aVR}``.

    Parameters
    ----------
    path : Path
        A standard name, with ``-`` in front where the signal is turned over, or ``none`` for a
        signal that is to be left out, under each own name. Case and blanks around do not count.

    Raises
    ------
    UserError
        No such file, no mapping, or a name on the right side that is no lead.
    """
    content = read_yaml(Path(path), "--lead-names")
    if not isinstance(content, dict) or not content:
        raise UserError(f"--lead-names: {path} must hold lines such as 'E1: V1'")
    table: dict[str, str] = {}
    for name, lead in content.items():
        allowed = f"allowed: {', '.join(LEADS)}, each perhaps with - in front, or none"
        if not isinstance(lead, str) or _standard(lead) is None:
            raise UserError(
                f"--lead-names: {path}: {name}: {lead!r} is no lead"
                f"{did_you_mean(str(lead), LEADS)}; {allowed}"
            )
        if _plain(str(name)) in table:
            raise UserError(f"--lead-names: {path}: {name} is there more than once")
        table[_plain(str(name))] = _standard(lead) or ""
    return table


def _standard(lead: str) -> str | None:
    """Return a lead as `read_lead_names` takes it, empty for ``none``; None where it is no lead."""
    text = lead.strip()
    if text.lower() == "none":
        return ""
    by_name = {name.lower(): name for name in LEADS}
    sign = "-" if text.startswith("-") else ""
    name = by_name.get(text.removeprefix("-").strip().lower())
    return None if name is None else sign + name


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).lower().split())
