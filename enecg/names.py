"""Names that become folders, files and columns: what they may look like, and which are taken.

A task's name is a folder of its bundle and the beginning of its columns
(``<task>__p__<class>``), an expert's name a folder of the run, a fold's name a folder of bundles.
Each is checked where it is read: in a config, in a bundle (which anybody may have written) and in
a record store.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from enecg.errors import UserError

LONGEST = 64
"""Most characters of a name."""
ALLOWED = (
    f"plain letters, digits, - and _ (not - first, no __), a . inside, at most {LONGEST} characters"
)
IDENTIFIERS = ("record_id", "subject_id")
"""Columns that stand beside those of tasks."""

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?")
_FOLD = re.compile(r"[A-Za-z0-9_-]([A-Za-z0-9_ .-]*[A-Za-z0-9_-])?")
STORE_FILE = r"shard-[0-9]{5,}\.parquet|index\.parquet|rejected\.parquet"
"""What files of a record store are called, beside its description."""


def check_name(what: str, name: object, taken: Collection[str] = ()) -> None:
    """Refuse the name of a task or an expert that is no name, or that means something else.

    Parameters
    ----------
    what : str
        What it is to name, for the message: ``a task`` or ``an expert``.
    name : object
        As it was read; anything but text is refused.
    taken : collection of str
        Names that mean something else, in any case.

    Raises
    ------
    UserError
        Says what is allowed.
    """
    known = isinstance(name, str) and len(name) <= LONGEST and _NAME.fullmatch(name)
    if not known or "__" in str(name):
        raise UserError(f"{shown(name)} is no name for {what}; allowed: {ALLOWED}")
    if str(name).lower() in {word.lower() for word in taken}:
        raise UserError(
            f"{shown(name)} is no name for {what}: results use it otherwise; give another"
        )


def check_task_name(name: object) -> None:
    """Refuse a task's name as `check_name` does; ``record_id`` and ``subject_id`` are taken."""
    check_name("a task", name, IDENTIFIERS)


def check_class_name(task: str, name: object) -> None:
    """Refuse a class's name that is not printable text of at most 64 characters.

    Raises
    ------
    UserError
        Also for numbers and truth values: in YAML ``no`` and ``1`` are no text without quotes.
    """
    if not isinstance(name, str) or not name.strip() or not is_printable(name):
        raise UserError(
            f"task {task}: {shown(name)} is no name for a class; allowed: printable text of 1 to "
            f"{LONGEST} characters (in YAML in quotes, where it looks like a number or a yes)"
        )


def is_printable(text: str) -> bool:
    """Whether text has no line breaks, control characters or halves of characters in it."""
    return len(text) <= LONGEST and text.isprintable()


def check_fold_name(column: str, name: object) -> None:
    """Refuse the name of a published fold that cannot be the name of a folder.

    Raises
    ------
    UserError
        Says what is allowed.
    """
    if not isinstance(name, str) or len(name) > LONGEST or not _FOLD.fullmatch(name):
        raise UserError(
            f"fold_column {column}: a fold is called {shown(name)}; folders are called by folds: "
            f"plain letters, digits, _, - and, inside, blanks and dots, at most {LONGEST} "
            "characters; give that fold another name"
        )


def check_different(what: str, names: Iterable[str]) -> None:
    """Refuse names that differ only in upper and lower case: on some disks they are one folder.

    Raises
    ------
    UserError
        Names both.
    """
    first: dict[str, str] = {}
    for name in names:
        before = first.setdefault(name.lower(), name)
        if before != name:
            raise UserError(
                f"{what}: {shown(before)} and {shown(name)} differ only in upper and lower case, "
                "and on some disks are one folder; rename one"
            )


def is_store_file(name: object) -> bool:
    """Whether a record store's description may list a file of this name: it leads nowhere else."""
    return isinstance(name, str) and re.fullmatch(STORE_FILE, name) is not None


def shown(name: object) -> str:
    """Return a name for a message: quoted, what cannot be printed escaped, cut if it is long."""
    text = repr(name)
    return text if len(text) <= LONGEST + 10 else text[:LONGEST] + "…"
