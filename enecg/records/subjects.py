"""Whether a corpus says whose records they are; where it does not, folds are by record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

State = Literal["known", "partly", "record"]
"""``known``: every record has a subject; ``record``: none has, each record stands for one."""


def subjects_state(without_subject: int, records: int) -> State:
    """Return what ``dataset.json`` says under ``subjects``."""
    if not without_subject:
        return "known"
    return "record" if without_subject == records else "partly"


def subjects_note(description: Mapping[str, Any]) -> str | None:
    """Say which records have no subject, and what that may do to results.

    Parameters
    ----------
    description : mapping
        A store's ``dataset.json``. One of an earlier version does not know: then there is no note.

    Returns
    -------
    str or None
        One sentence; None where every record has a subject.
    """
    state = description.get("subjects", "known")
    if state == "known":
        return None
    if state == "record":
        which = "no record has a subject"
    else:
        counts = description["counts"]
        which = f"{counts['without_subject']:,} of {counts['accepted']:,} records have no subject"
    return (
        f"{which}, so folds are by record there: the same patient can be in training and in test, "
        "and results may be optimistic"
    )
