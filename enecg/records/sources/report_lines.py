"""What the report lines of an electrocardiograph say on the rhythm: one table of rules."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pandas as pd

HEDGED = (
    r"^\W*(consider|possible|possibly|probable|cannot|can't|no\b|not\b|rule out|r/o)"
    r"|\?|\b(prior|previous|compared|replaced|no longer|or)\b"
)
"""Lines that say nothing on the rhythm: what is doubted, denied, or was so another time."""
DOUBTED = r"\b(consider|possible|possibly|probable|probably|suspect) $"
"""What stands right before a rhythm that does not count, in a line that may name another."""
RULES = (
    ("AFIB", r"atrial fibrillation|\ba-?fib\b"),
    ("AFLT", r"atrial flutter"),
    ("SVTAC", r"(?<!paroxysmal )supraventricular tachycardia|\bsvt\b|^\W*atrial tachycardia"),
    ("PSVT", r"paroxysmal supraventricular tachycardia|\bpsvt\b"),
    ("PACE", r"\bpaced\b|(?<!wandering atrial )pacemaker|pacing"),
    ("BIGU", r"bigemin"),
    ("TRIGU", r"trigemin"),
    ("STACH", r"sinus tachycardia"),
    ("SBRAD", r"sinus bradycardia"),
    ("SARRH", r"sinus arr?hythmia"),
    ("SVARR", r"supraventricular arr?hythmia"),
    ("JUNC", r"junctional (rhythm|tachycardia|bradycardia)"),
    ("EAR", r"ectopic atrial (rhythm|tachycardia|bradycardia)"),
    ("VTAC", r"\bventricular (tachycardia|rhythm)|idioventricular"),
    ("SR", r"sinus rhythm|normal sinus"),
)
"""(class, pattern), in order of precedence; case does not matter. The first rule that any line of
a report matches is the record's class; no rule, no label."""


@lru_cache(maxsize=1 << 16)
def rhythm_of_line(line: str) -> str | None:
    """Return the class of the first of `RULES` that a line matches, or None."""
    if re.search(HEDGED, line, re.IGNORECASE):
        return None
    for name, said in RULES:
        found = re.search(said, line, re.IGNORECASE)
        if found and not re.search(DOUBTED, line[: found.start()], re.IGNORECASE):
            return name
    return None


def rhythms_of_reports(lines: pd.DataFrame) -> pd.Series:
    """Return the class of every report.

    Parameters
    ----------
    lines : DataFrame, shape (N, number of lines)
        A report's lines; missing ones null.

    Returns
    -------
    Series of str, length N
        None where no line matches a rule.
    """
    rank = {name: place for place, (name, _) in enumerate(RULES)}
    nothing = len(RULES)
    best = np.full(len(lines), nothing)
    for column in lines:
        # Machines have a limited vocabulary: far fewer different lines than records.
        number, different = pd.factorize(lines[column])
        ranks = [rank.get(rhythm_of_line(str(line)) or "", nothing) for line in different]
        best = np.minimum(best, np.array([*ranks, nothing])[number])  # -1, a missing line: last
    names = np.array([*(name for name, _ in RULES), None], dtype=object)
    return pd.Series(names[best], index=lines.index, dtype=object)
