"""The run folder: which stages are done, for which settings, and who is at work in it.

A finished piece of work is a folder with a ``done.json`` that carries the fingerprint of all it
depends on, and the SHA-256 of what it left. The same fingerprint: the work is kept. Another one, or
a file that is not what it was: it is redone, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enecg.checked_files import (
    DamagedFile,
    first_damaged,
    read_sealed_json,
    sha256_once,
    write_sealed_json,
)
from enecg.errors import UserError
from enecg.ownership import check_free, claim, refuse_strangers, remove_own
from enecg.progress import say

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
    """Whether a piece of work with this fingerprint is finished in the folder, and whole.

    If a file is not what it was, a line says so, and the work counts as not done.
    """
    try:
        facts = read_sealed_json(folder / DONE)
    except FileNotFoundError:
        return False
    except DamagedFile as error:
        say(f"{error.place} {error.problem}: this work is done again")
        return False
    if facts["fingerprint"] != fingerprint:
        return False
    if (name := first_damaged(folder, facts["files"])) is not None:
        place = os.path.normpath(folder / name)
        say(f"{place} is damaged or gone (its SHA-256 is in {DONE}): this work is done again")
    return name is None


def begin(folder: Path, fingerprint: str) -> None:
    """Make the folder ready for work; what another fingerprint left there is removed.

    Raises
    ------
    UserError
        Something stands there that is not a stage's results; it stays.
    """
    started = folder / STARTED
    to_be_removed = {"fingerprint": "to be removed"}  # says whose it is until the end
    try:
        same = read_sealed_json(started)["fingerprint"] == fingerprint
    except FileNotFoundError:
        same = False
    except DamagedFile as error:
        say(f"{error.place} {error.problem}: this work is begun anew")
        write_sealed_json(started, to_be_removed)
        same = False
    if not same:
        check_free("run_dir", folder, "work")
        if folder.exists():
            refuse_strangers(folder, "work")
        if (folder / DONE).exists():
            write_sealed_json(started, to_be_removed)
            (folder / DONE).unlink()  # first: half removed, it must not pass for done
        remove_own(folder, "work")
        write_sealed_json(started, {"fingerprint": fingerprint})


def finish(folder: Path, fingerprint: str, files: Iterable[str] = (), **facts: Any) -> None:
    """Mark the work in the folder as finished, with facts about it (seconds, memory, …).

    Parameters
    ----------
    folder : Path
    fingerprint : str
    files : iterable of str
        Names, relative to the folder, of what the work has left: their SHA-256 is kept, and
        `is_done` compares.
    """
    digests = {name: sha256_once(folder / name) for name in files}
    write_sealed_json(folder / DONE, {"fingerprint": fingerprint, "files": digests, **facts})


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts that `finish` wrote."""
    facts = read_sealed_json(folder / DONE)
    del facts["files"]
    return facts
