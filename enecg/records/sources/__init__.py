"""How corpora are laid out: one file per layout, each turning a folder into a listing.

To add a layout, put a file with a `SOURCE` here; nothing else registers it.
"""

from __future__ import annotations

import importlib
import pkgutil

from enecg.errors import UserError, did_you_mean
from enecg.records.sources.listing import Listing, Source


def _found() -> dict[str, Source]:
    """Map the name of every layout in this folder to it, in alphabetical order."""
    found: dict[str, Source] = {}
    for file in pkgutil.iter_modules(__path__):
        source = getattr(importlib.import_module(f"{__name__}.{file.name}"), "SOURCE", None)
        if source is not None:
            found[source.name] = source
    return dict(sorted(found.items()))


SOURCES: dict[str, Source] = _found()

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
