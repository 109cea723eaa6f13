"""One vocabulary of rhythms for every corpus: the statements of SCP-ECG that PTB-XL uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Sequence

PTB_XL_RHYTHMS = (
    "AFIB", "AFLT", "SVTAC", "PSVT", "PACE", "BIGU", "TRIGU", "STACH", "SBRAD", "SARRH", "SVARR",
    "SR",
)  # fmt: skip
"""PTB-XL's twelve rhythm statements, in order of precedence."""
OTHER_RHYTHMS = ("VFIB", "VTAC", "JUNC", "EAR")
"""Rhythms that other corpora state, after PTB-XL's: ventricular fibrillation or flutter;
ventricular tachycardia or another ventricular rhythm; junctional rhythm; ectopic atrial rhythm."""
RHYTHMS = (*PTB_XL_RHYTHMS, *OTHER_RHYTHMS)
"""In order of precedence: the first one present is the record's class."""


def rhythm_of(present: Container[str], others: Collection[str] = ()) -> str | None:
    """Return the first of `RHYTHMS` that is present, else the first of ``others``, or None."""
    return next((rhythm for rhythm in (*RHYTHMS, *others) if rhythm in present), None)


def notes_on_other_rhythms(
    present: Sequence[Container[str]], others: Collection[str] = ()
) -> list[str]:
    """Say how many records state a rhythm that is none of PTB-XL's twelve, and what became of it.

    Parameters
    ----------
    present : sequence of containers of str
        What each record states.
    others : collection of str
        Further rhythms, beside `OTHER_RHYTHMS`.

    Returns
    -------
    list of str
        One line, or none where no record states such a rhythm.
    """
    names = (*OTHER_RHYTHMS, *others)
    stated = [[name for name in names if name in record] for record in present]
    counts = Counter(name for found in stated for name in found)
    if not counts:
        return []
    beside = sum(
        bool(found) and rhythm_of(record) in PTB_XL_RHYTHMS
        for found, record in zip(stated, present, strict=True)
    )
    named = ", ".join(f"{name} {counts[name]:,}" for name in names if counts[name])
    total = sum(map(bool, stated))
    return [
        f"{total:,} records state a rhythm beyond PTB-XL's twelve ({named}): it is their "
        f"report_label, which a task without that class takes as other"
        + (f", except for {beside:,} that state one of the twelve as well" if beside else "")
    ]
