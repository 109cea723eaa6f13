"""A run's folders of bundles, ``bundle`` and ``folds``: replaced as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from enecg.bundle import Bundle
from enecg.errors import UserError
from enecg.inventory import INVENTORIES, MARK, stranger
from enecg.nested import ALL
from enecg.ownership import aside, check_free, is_bundle, mark, remove_own, restore, swap

PLACES = {"bundle": 1, "folds": 2}
"""Folders of a run that hold bundles, and how many levels below: by task, by fold and task."""


def replace_bundles(run: Path, bundles: Iterable[tuple[str, Bundle]]) -> None:
    """Write ``bundle/<task>`` and ``folds/<fold>/<task>``; those of an earlier run go last.

    Parameters
    ----------
    run : Path
        The run folder.
    bundles : iterable of (str, Bundle)
        With the scope of each: an outer fold's name, or ``all``.

    Raises
    ------
    UserError
        Something else stands in the place of bundles; it stays.
    OSError
        They cannot be written; then the earlier ones are as they were.
    """
    for name in PLACES:
        restore(run / name)
        check_bundles(run / name)
        remove_own(_new(run / name), "bundles")
        mark(_new(run / name), "bundles")
    for scope, bundle in bundles:
        place = _new(run / "bundle") if scope == ALL else _new(run / "folds") / scope
        bundle.save(place / bundle.task.name)
    for name in PLACES:
        swap(_new(run / name), run / name, "bundles")


def check_bundles(folder: Path) -> None:
    """Refuse a folder in the place of a run's bundles that holds anything else.

    Raises
    ------
    UserError
        Names it; nothing is changed.
    """
    for place in (folder, _new(folder), aside(folder)):
        check_free("run_dir", place, "bundles")
    for path in _strange(folder, levels=PLACES[folder.name]) if folder.is_dir() else ():
        raise UserError(
            f"{path}: is no part of a bundle, but stands among those of a run; move it away"
        )


def _strange(folder: Path, levels: int) -> Iterator[Path]:
    """What is no bundle where only bundles should be, so many levels below a folder."""
    for path in sorted(folder.iterdir()):
        if path.name == MARK:
            continue
        if levels == 1 and is_bundle(path):
            if (inside := stranger(path, INVENTORIES["bundle"])) is not None:
                yield inside
            continue
        if levels > 1 and path.is_dir():
            yield from _strange(path, levels - 1)
        else:
            yield path


def _new(folder: Path) -> Path:
    """Where a folder's successor is written."""
    return folder.with_name(f".{folder.name}.building")
