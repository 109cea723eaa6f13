"""How corpora are laid out: one file per layout, each turning a folder into a listing.

To add a layout, write a file with a `SOURCE` in it and name it in `SOURCES`.
"""

from __future__ import annotations

from enecg.errors import UserError, did_you_mean
from enecg.records.sources import (
    challenge,
    code_15,
    manifest,
    mimic_iv_ecg,
    ptb_xl,
    wfdb_folder,
)
from enecg.records.sources.listing import Listing, Source

SOURCES: dict[str, Source] = {
    layout.SOURCE.name: layout.SOURCE
    for layout in (ptb_xl, mimic_iv_ecg, challenge, code_15, manifest, wfdb_folder)
}

__all__ = ["SOURCES", "Listing", "Source", "get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of the corpus layouts that can be converted."""
    return tuple(SOURCES)


def get(name: str) -> Source:
    """Return a corpus layout by its name.

    Raises
    ------
    UserError
        No such layout; the message names the nearest.
    """
    if name not in SOURCES:
        raise UserError(
            f"--source: unknown source {name!r}{did_you_mean(name, SOURCES)}; "
            f"known: {', '.join(SOURCES)}"
        )
    return SOURCES[name]
