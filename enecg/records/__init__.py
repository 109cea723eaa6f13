"""Recordings: reading corpora, and the record store that everything else works on."""

from enecg.records.store import RecordStore, decode

__all__ = ["RecordStore", "decode"]
