"""What this program made, and so may replace or remove; anything else it leaves alone.

A folder, with all that is below it, is this program's own where a file in it says so, its *mark*:
a finished store, bundle or piece of work has one by its nature; other folders get a file
``.enecg``. Folders of runs made before there was such a file are known by what is in them.

A folder is replaced by writing the new one beside it and renaming both. Whenever that is cut
short, a whole one is left: under its own name, or as ``.<name>.old``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from enecg.errors import UserError, one_line
from enecg.files import write_json
from enecg.inventory import INVENTORIES, MARK, stranger

Kind = Literal["run", "repeat", "features", "cohort", "bundles", "bundle", "records", "work"]
_CALLED: dict[str, str] = {
    "run": "a run folder",
    "repeat": "a repeat of a run",
    "features": "a feature store",
    "cohort": "a simulated cohort",
    "bundles": "a folder of bundles",
    "bundle": "a bundle",
    "records": "a record store",
    "work": "a stage's results",
}


def kind_of(folder: Path) -> str | None:
    """Return what kind of folder of this program's it is; None where nothing in it says so."""
    if (marked := _marked(folder)) is not None:
        return marked
    try:
        return next((kind for kind, was_made in _RECOGNISED if was_made(folder)), None)
    except OSError:  # not ours to read
        return None


def _marked(folder: Path) -> str | None:
    """What kind of folder a file in it says that it is."""
    said = _json(folder / MARK)
    if isinstance(said, dict) and said.get("made_by") == "enecg":
        return str(said.get("kind"))
    return next((kind for name, kind, is_ours in _MARKS if is_ours(_json(folder / name))), None)


def check_free(what: str, folder: Path, kind: Kind) -> None:
    """Refuse a folder that is something else's; nothing is made or changed.

    Parameters
    ----------
    what : str
        The setting or option that names the folder, for the message.
    folder : Path
        May be missing, empty, or one of this kind made before.
    kind : str

    Raises
    ------
    UserError
        It is a file, holds or lies in something else, or cannot be made there.
    """
    where = f"{what} {folder}"
    try:
        if kind in ("run", "features", "cohort"):
            refuse_inside(where, folder)
        if folder.is_dir():
            names = [name for name in os.listdir(folder) if name != "lost+found"]  # an empty disk's
            found = kind_of(folder) if names else None
            if not names or found == kind:
                return
            if found is not None:
                raise UserError(f"{where}: is {_CALLED.get(found, found)}; give another folder")
            raise UserError(
                f"{where}: is not empty, and nothing in it says that it is {_CALLED[kind]} of this "
                f"program's (it holds {_some(names)}); give another folder, or an empty one"
            )
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"{where}: is a link that leads nowhere; give a folder")
        if folder.exists():
            raise UserError(f"{where}: is a file; give a folder")
        above = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
        if not above.is_dir():
            raise UserError(f"{where}: {above} is no folder; give another place")
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise UserError(f"{where}: {above} cannot be written to; give another place")
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {one_line(error)}") from None


def refuse_inside(where: str, folder: Path) -> None:
    """Refuse a place inside a record store, a cohort, a bundle or a stage's results.

    Raises
    ------
    UserError
        Names what it is in.
    """
    for above in folder.resolve().parents:
        if (found := _marked(above)) is not None and found not in ("run", "repeat"):
            raise UserError(
                f"{where}: lies in {above}, which is {_CALLED.get(found, found)}; give another "
                "place"
            )


def claim(what: str, folder: Path, kind: Kind) -> None:
    """Make a folder and mark it as this program's; one that is so marked is left as it is.

    Raises
    ------
    UserError
        As `check_free`, or it cannot be written to.
    """
    check_free(what, folder, kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).exists():
            mark(folder, kind)
    except OSError as error:
        raise UserError(f"{what} {folder}: {one_line(error)}") from None


def mark(folder: Path, kind: Kind) -> None:
    """Say in a folder that it is this program's."""
    write_json(folder / MARK, {"made_by": "enecg", "kind": kind})


def remove_own(folder: Path, *kinds: Kind) -> None:
    """Remove a folder of this program's with all that is in it; nothing if it is not there.

    What says whose it is goes last: killed half-way, the rest is known for what it is. A link to
    a folder stays, and what it leads to is emptied.

    Raises
    ------
    UserError
        Nothing in it says that it is of one of these kinds, or it holds something that this program
        does not put there; then nothing is removed.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{folder}: {one_line(error)}; it is left as it is") from None
    if names:
        found = kind_of(folder)
        if found not in kinds:
            raise UserError(
                f"{folder}: stands where {_CALLED[kinds[0]]} is to be, and nothing in it says that "
                f"it is one of this program's (it holds {_some(names)}); move it away"
            )
        refuse_strangers(folder, found)
        last = _mark_of(folder)
        if last is None:
            mark(folder, next(kind for kind in kinds if kind == found))
            last = MARK
        last = last.partition("/")[0]
        for name in sorted(set(names) - {last}):
            _remove(folder / name)
        _remove(folder / last)
    if not folder.is_symlink():
        folder.rmdir()


def refuse_strangers(folder: Path, kind: str) -> None:
    """Refuse to remove a folder in which something lies that this program does not put there.

    Raises
    ------
    UserError
        Names it.
    """
    if kind in INVENTORIES and (path := stranger(folder, INVENTORIES[kind])) is not None:
        raise UserError(f"{path}: is no part of {_CALLED[kind]} and would be lost; move it away")


def swap(new: Path, folder: Path, kind: Kind) -> None:
    """Put a finished folder in the place of another, which is removed.

    Parameters
    ----------
    new : Path
        Beside ``folder``, and whole.
    folder : Path
        What is replaced, if it is there.
    kind : str
        What both are.

    Raises
    ------
    UserError
        What is there is not this program's; then it stays, and so does ``new``.
    """
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(f"{folder}: is the working directory, so cannot be replaced from here")
    restore(folder)
    old = aside(folder)
    remove_own(old, kind)
    if folder.exists():
        check_free("to be replaced:", folder, kind)
        folder.rename(old)
    new.rename(folder)
    remove_own(old, kind)
    if old.is_symlink():
        old.unlink()


def restore(folder: Path) -> None:
    """Give a folder its name back where a swap was cut short between its two renames."""
    if not folder.exists() and kind_of(aside(folder)) is not None:
        aside(folder).rename(folder)


def standing(folder: Path) -> Path:
    """Return where a folder is to be read: where a swap was cut short, its earlier self."""
    for here in (folder, folder.parent):
        kept = aside(here)
        if here.name and not here.exists() and kind_of(kept) is not None:
            return kept if here == folder else kept / folder.name
    return folder


def aside(folder: Path) -> Path:
    """Return where a folder is while another one is put in its place."""
    return folder.with_name(f".{folder.name}.old") if folder.name else folder


def _mark_of(folder: Path) -> str | None:
    """The name of the file that says whose folder it is."""
    if (folder / MARK).exists():
        return MARK
    return next((n for n, _, is_ours in _MARKS if is_ours(_json(folder / n))), None)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _some(names: list[str]) -> str:
    first = ", ".join(repr(name) for name in sorted(names)[:3])
    return f"{first}, …" if len(names) > 3 else first


def _json(path: Path) -> Any:
    """A file's content; None where it is not there, not readable or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _of_format(name: str) -> Callable[[Any], bool]:
    return lambda said: isinstance(said, dict) and said.get("format") == name


def _is_begun(said: Any) -> bool:
    return isinstance(said, dict) and set(said) - {"sha256"} == {"fingerprint"}


def _is_done(said: Any) -> bool:
    return isinstance(said, dict) and isinstance(said.get("fingerprint"), str)


def _is_half_a_store(said: Any) -> bool:
    return isinstance(said, dict) and {"owner", "enecg"} <= set(said)


_MARKS: tuple[tuple[str, Kind, Callable[[Any], bool]], ...] = (
    ("bundle.json", "bundle", _of_format("enecg-bundle")),
    ("dataset.json", "records", _of_format("enecg-records")),
    (".unfinished/arguments.json", "records", _is_half_a_store),
    (".replacement/dataset.json", "records", _of_format("enecg-records")),
    ("started.json", "work", _is_begun),
    ("done.json", "work", _is_done),
)
"""Files that are marks by their nature."""


def _was_run(folder: Path) -> bool:
    """A run of a version that wrote no mark: its settings, or the lock that came before them."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if ".lock" not in names:
        return False
    config = _json(folder / "config.json")
    settings = {"records", "run_dir", "tasks", "experts", "stage1", "gate", "ensemble"}
    is_config = isinstance(config, dict) and settings <= set(config)
    return is_config or (names == {".lock"} and (folder / ".lock").stat().st_size == 0)


def _was_features(folder: Path) -> bool:
    """A feature store of a version that wrote no mark: nothing but one folder per expert."""
    return _all_children(
        folder,
        lambda path: (
            "-weights-" in path.name
            and "-prepared-" in path.name
            and (path / "expert.json").is_file()
        ),
    )


def _was_cohort(folder: Path) -> bool:
    """A simulated cohort of a version that wrote no mark: its files by their names."""
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {"records", "labels.csv"}:
        return False
    files = [path.name for path in (folder / "records").iterdir()]
    return bool(files) and all(re.fullmatch(r"syn\d{5,}\.(hea|dat)", name) for name in files)


def _was_bundles(folder: Path) -> bool:
    """Bundles of a version that wrote no mark, by task, or by fold and task."""
    if _all_children(folder, is_bundle):
        return True
    return _all_children(folder, lambda path: _all_children(path, is_bundle))


def is_bundle(path: Path) -> bool:
    """Whether a folder is a bundle, or one that a version that wrote no mark was building."""
    return _was_half_a_bundle(path) or _of_format("enecg-bundle")(_json(path / "bundle.json"))


def _was_half_a_bundle(folder: Path) -> bool:
    """What a version that wrote no mark was killed at."""
    is_named_so = re.fullmatch(r"\..+\.building", folder.name) and folder.is_dir()
    return bool(is_named_so) and {path.name for path in folder.iterdir()} <= _OF_BUNDLES


_OF_BUNDLES = {
    "bundle.json", "experts", "gates.safetensors", "features.safetensors", "model_card.md"
}  # fmt: skip


def _all_children(folder: Path, is_so: Callable[[Path], bool]) -> bool:
    """Whether a folder holds something, and nothing that is not so."""
    if not folder.is_dir() or not (children := list(folder.iterdir())):
        return False
    return all(is_so(path) for path in children)


_RECOGNISED: tuple[tuple[Kind, Callable[[Path], bool]], ...] = (
    ("run", _was_run),
    ("features", _was_features),
    ("cohort", _was_cohort),
    ("bundle", _was_half_a_bundle),
    ("bundles", _was_bundles),
)
