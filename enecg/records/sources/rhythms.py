"""One vocabulary of rhythms for every corpus: the statements of SCP-ECG that PTB-XL uses."""

from __future__ import annotations

from collections.abc import Container

RHYTHMS = (
    "AFIB", "AFLT", "SVTAC", "PSVT", "PACE", "BIGU", "TRIGU", "STACH", "SBRAD", "SARRH", "SVARR",
    "SR",
)  # fmt: skip
"""In order of precedence: the first one present is the record's class."""


def rhythm_of(present: Container[str]) -> str | None:
    """Return the first of `RHYTHMS` that is present, or None."""
    return next((rhythm for rhythm in RHYTHMS if rhythm in present), None)
