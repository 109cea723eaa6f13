"""Recordings: reading corpora, and the record store that everything else works on."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enecg.records.store import RecordStore, decode

__all__ = ["RecordStore", "decode"]


def __getattr__(name: str) -> Any:
    """Load the record store when it is first asked for: a page of help does not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from enecg.records import store

    return getattr(store, name)
