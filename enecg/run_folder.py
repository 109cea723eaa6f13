"""The run folder: which stages are done, for which settings, and who is at work in it.

A finished piece of work is a folder with a ``done.json`` that carries the fingerprint of all it
depends on. The same fingerprint: the work is kept. Another one: it is redone, and nothing else.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enecg.errors import UserError
from enecg.files import read_json, write_json
from enecg.ownership import check_free, claim, remove_own

DONE, STARTED = "done.json", "started.json"


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock ends with the process, however that ends.

    Raises
    ------
    UserError
        Another process works in the folder, or it is something else's.
    """
    claim("run_dir", run_dir, "run")
    with open(run_dir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"run_dir {run_dir}: another job works in this folder; wait for it or give another"
            ) from None
        yield


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether a piece of work with this fingerprint is finished in the folder."""
    return _fingerprint_in(folder / DONE) == fingerprint


def begin(folder: Path, fingerprint: str) -> None:
    """Make the folder ready for work; what another fingerprint left there is removed.

    Raises
    ------
    UserError
        Something stands there that is not a stage's results; it stays.
    """
    if _fingerprint_in(folder / STARTED) != fingerprint:
        check_free("run_dir", folder, "work")
        if (folder / DONE).exists():
            write_json(folder / STARTED, {"fingerprint": "to be removed"})  # whose it is
            (folder / DONE).unlink()  # first: half removed, it must not pass for done
        remove_own(folder, "work")
        write_json(folder / STARTED, {"fingerprint": fingerprint})


def _fingerprint_in(path: Path) -> str | None:
    """The fingerprint that `begin` or `finish` wrote; None where there is none."""
    try:
        said = read_json(path)
    except (OSError, ValueError, RecursionError):
        return None
    return said.get("fingerprint") if isinstance(said, dict) else None


def finish(folder: Path, fingerprint: str, **facts: Any) -> None:
    """Mark the work in the folder as finished, with facts about it (seconds, memory, …)."""
    write_json(folder / DONE, {"fingerprint": fingerprint, **facts})


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts that `finish` wrote."""
    facts: dict[str, Any] = read_json(folder / DONE)
    return facts
