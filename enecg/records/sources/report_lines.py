"""The rhythm that an electrocardiograph's report lines state; the rules are in `report_rules`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from enecg.records.sources.report_rules import (
    AFTER_PARTED_BY,
    ALTERNATIVE,
    BARE,
    COMPARED,
    CONTINUES,
    LISTS,
    MODIFIERS,
    NEW_AFTER,
    NEW_BEFORE,
    RULES,
    UNSURE_REPORT,
    Cues,
    Rule,
)

_MOST_WORDS_BETWEEN = 6
_ANY_RHYTHM = "|".join(rule.pattern for rule in RULES)


class Reading(NamedTuple):
    """What one line says.

    Attributes
    ----------
    rhythm : str or None
        The class; None where no rhythm is stated.
    named : bool
        Whether the line names some rhythm, be it doubted or denied.
    """

    rhythm: str | None
    named: bool


class _Mention(NamedTuple):
    start: int
    end: int
    rule: Rule


def rhythm_of_line(line: str) -> str | None:
    """Return the class of the rhythm that a line states, or None.

    A rhythm that is denied, doubted, one of two, or of another recording is not stated; denial or
    doubt about something else in the line leaves it.
    """
    return read_line(line).rhythm


@lru_cache(maxsize=1 << 16)
def read_line(line: str) -> Reading:
    """Return what a line says on the rhythm."""
    text = tidy_line(line)
    mentions = _mentions(text)
    stated = [
        mention.rule
        for place, mention in enumerate(mentions)
        if mention.rule.rhythm is not None and _is_stated(text, mentions, place)
    ]
    first = min(stated, key=lambda rule: rule.priority, default=None)
    named = any(mention.rule.rhythm is not None for mention in mentions)
    return Reading(first.rhythm if first else None, named)


def rhythms_of_reports(lines: pd.DataFrame) -> pd.Series:
    """Return the class of every report.

    Of the rhythms that the lines of a report state, the one that comes first by priority. A line
    such as "or atrial flutter" goes on with the line before it; a line that puts the rhythm in
    doubt counts for all lines of its report.

    Parameters
    ----------
    lines : DataFrame, shape (N, number of lines)
        A report's lines, in their order; missing ones null.

    Returns
    -------
    Series of str, length N
        None where no line states a rhythm.
    """
    rank = {rule.rhythm: rule.priority for rule in RULES if rule.rhythm is not None}
    nothing = max(rank.values()) + 1
    best = np.full(len(lines), nothing)
    unsure = np.zeros(len(lines), dtype=bool)
    for column in _joined(lines):
        # Machines have a limited vocabulary: far fewer different lines than records.
        number, different = pd.factorize(column)
        ranks = [rank.get(rhythm_of_line(line) or "", nothing) for line in different]
        best = np.minimum(best, np.array([*ranks, nothing])[number])  # -1, a missing line: last
        doubts = [bool(re.search(UNSURE_REPORT, tidy_line(line))) for line in different]
        unsure |= np.array([*doubts, False])[number]
    best[unsure] = nothing
    names = np.full(nothing + 1, None, dtype=object)
    for name, place in rank.items():
        names[place] = name
    return pd.Series(names[best], index=lines.index, dtype=object)


def reports_without_a_sure_rhythm(lines: pd.DataFrame) -> int:
    """Count the reports that name a rhythm and state none: they doubt or deny it."""
    named = np.zeros(len(lines), dtype=bool)
    for column in lines:
        number, different = pd.factorize(lines[column])
        named |= np.array([*(read_line(str(line)).named for line in different), False])[number]
    return int((named & rhythms_of_reports(lines).isna().to_numpy()).sum())


def tidy_line(line: str) -> str:
    """Return a line in lower case with single blanks, plain dashes and no decoration around it."""
    text = re.sub(r"[\u2010-\u2015\u2212]", "-", str(line).lower()).replace("\u2019", "'")
    text = re.sub(r"\bcan ?not\b|\bcan't\b|\bcould not\b", "cannot", text)
    text = re.sub(r"\bw/(?!o\b)\s*", "with ", text)
    text = re.sub(r"\bvs\b\.?|(?<=\s)v\.?(?=\s[a-z])", " versus ", text)
    text = re.sub(r"\b(poss|prob)\b\.?", r"\1ible", text).replace("probible", "probable")
    text = re.sub(r"\s+", " ", text)
    return text.strip(" *-.#>=_\"'")


def _joined(lines: pd.DataFrame) -> list[pd.Series]:
    """Return the columns as text, in which lines that go on stand with the line before them."""
    columns: list[pd.Series] = []
    for name in lines:
        column = lines[name].map(str, na_action="ignore").astype(object)
        number, different = pd.factorize(column)
        goes_on = [bool(re.search(CONTINUES, tidy_line(line))) for line in different]
        joins = np.array([*goes_on, False])[number]
        if columns and joins.any():
            before = columns[-1].where(columns[-1].notna(), "")
            columns[-1] = columns[-1].mask(joins, before + " " + column)
            column = column.mask(joins, None)
        columns.append(column)
    return columns


def _mentions(text: str) -> list[_Mention]:
    """Return the rhythms that a tidy line names, in its order, without those inside longer ones."""
    found = [
        _Mention(match.start(), match.end(), rule)
        for rule in RULES
        for match in re.finditer(rule.pattern, text)
    ]
    longest: list[_Mention] = []
    for one in sorted(found, key=lambda mention: (mention.start, -mention.end)):
        if not longest or one.end > longest[-1].end:
            longest.append(one)
    return longest


def _is_stated(text: str, mentions: list[_Mention], place: int) -> bool:
    mention = mentions[place]
    before, after = text[: mention.start], text[mention.end :]
    if re.search(COMPARED, before) and not (
        re.search(NEW_BEFORE, before) or re.search(NEW_AFTER, after)
    ):
        return False
    cues = (mention.rule.negation, mention.rule.doubt)
    if any(_reaches(before, one) or _follows(after, one) for one in cues):
        return False
    return not _is_one_of_two(text, mentions, place)


def _reaches(before: str, cues: Cues) -> bool:
    """Whether a cue before the rhythm is about it."""
    for cue in re.finditer(cues.before, before):
        # "Possible, atrial flutter": only at a line's start is such a comma the cue's own.
        between = before[cue.end() :].lstrip(" :()\"'-" if cue.start() else " :()\"'-,")
        if len(between.split()) <= _MOST_WORDS_BETWEEN and not re.search(cues.parted_by, between):
            return True
        listed = re.sub(rf"{_ANY_RHYTHM}|[\s,]|\b(or|and|atrial)\b", "", between)
        if re.search(LISTS, cue.group()) and not listed:
            return True
    return False


def _follows(after: str, cues: Cues) -> bool:
    """Whether a cue after the rhythm is about it."""
    for cue in re.finditer(cues.after, after):
        between = re.sub(MODIFIERS, "", after[: cue.start()])
        if re.search(r"[.;](\s|$)", between):
            continue
        between = between.strip(" ,:(-")
        if not re.search(AFTER_PARTED_BY, between) and not re.search(_ANY_RHYTHM, between):
            return True
    return False


def _is_one_of_two(text: str, mentions: list[_Mention], place: int) -> bool:
    """Whether the line leaves it open if it is this rhythm or something else."""
    mention = mentions[place]
    last = mentions[place - 1] if place else None
    following = mentions[place + 1] if place + 1 < len(mentions) else None
    rest = text[mention.end :]
    if re.match(rf"[\s,]*(rhythm\s*)?(\([^)]*\)\s*)?{ALTERNATIVE}\s", f"{rest} "):
        return following is None or not _are_the_same(text, mention, following)
    if following is not None and _is_alternative_to(text, mention, following):
        return True
    if last is not None and _is_alternative_to(text, last, mention):
        return True
    if re.match(rf"\s*/\s*{BARE}", rest):
        return following is None or not _are_the_same(text, mention, following)
    lead = text[last.end if last else 0 : mention.start]
    if re.search(rf"\b{BARE}\s*/\s*$", lead):
        return True
    either = re.search(rf"\b{ALTERNATIVE}\s+((?:[\w-]+\s+){{0,2}})$", lead)
    if either is None or re.search(mention.rule.doubt.parted_by, either.group(2)):
        return False
    return last is None or not _are_the_same(text, last, mention)


def _is_alternative_to(text: str, one: _Mention, other: _Mention) -> bool:
    """Whether two rhythms in sequence stand as "one (so and so) or other"."""
    between = text[one.end : other.start]
    if re.fullmatch(r"\s*/\s*((?!and\b|with\b)[\w-]+\s+){0,2}", between):
        return one.rule.rhythm != other.rule.rhythm
    said = re.fullmatch(rf"(.*?)[\s,]*\b{ALTERNATIVE}\s+([\w-]+\s+){{0,3}}", between)
    if said is None or re.search(AFTER_PARTED_BY, said.group(1).strip(" ,")):
        return False
    return not _are_the_same(text, one, other)


def _are_the_same(text: str, one: _Mention, other: _Mention) -> bool:
    """Whether two rhythms with only an "or" between them are of one class."""
    between = text[one.end : other.start]
    plain = re.fullmatch(rf"[\s,]*(rhythm\s*)?({ALTERNATIVE}|/)\s*([\w-]+\s+){{0,3}}", between)
    return plain is not None and one.rule.rhythm == other.rule.rhythm
