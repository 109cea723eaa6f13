"""Optuna's journal of a search, checked before a search goes on with it.

The journal only grows. Whenever a trial has ended, its length and SHA-256 are kept beside it. What
was written later is about trials that had not ended: it is cut off, and others are tried instead.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from enecg.checked_files import DamagedFile, read_sealed_json, write_sealed_json
from enecg.files import replacing
from enecg.progress import say

STUDIES = "optuna.log"
_KNOWN = "optuna.json"


def note_studies(folder: Path) -> None:
    """Keep the length and the SHA-256 of a search's journal."""
    content = (folder / STUDIES).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    write_sealed_json(folder / _KNOWN, {"bytes": len(content), "journal": digest})


def drop_damaged_studies(folder: Path) -> None:
    """Leave of a journal what is known to be right.

    One that is not what it was, or of which nothing is known, is removed; a line says so.
    """
    journal = folder / STUDIES
    if not journal.exists():
        return
    try:
        known = read_sealed_json(folder / _KNOWN)
        content = journal.read_bytes()[: known["bytes"]]
        if hashlib.sha256(content).hexdigest() == known["journal"]:
            with replacing(journal) as temporary:
                temporary.write_bytes(content)
            return
        problem = f"is damaged (its SHA-256 is not that in {_KNOWN})"
    except FileNotFoundError:
        problem = "holds no trial that ended, or an earlier version wrote it without a checksum"
    except DamagedFile as error:
        problem = f"cannot be checked: {_KNOWN} {error.problem}"
    say(f"{journal} {problem}; it is removed, and the studies begin anew")
    journal.unlink()
    (folder / _KNOWN).unlink(missing_ok=True)
