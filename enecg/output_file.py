"""Files that a job writes where somebody says: what may be replaced there, and what not."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from enecg.errors import UserError, one_line
from enecg.evaluation.paper import DRAWN_BY
from enecg.names import IDENTIFIERS
from enecg.paths import on_disk


def output_file(
    given: Path,
    endings: Sequence[str],
    is_earlier: Callable[[Path], bool],
    what: str,
    option: str = "--output",
) -> Path:
    """Return where an output is to be written, or refuse it before any work.

    Parameters
    ----------
    given : Path
        As it stands on the command line; ``~`` is a home.
    endings : sequence of str
        Which are allowed, in any case.
    is_earlier : callable
        Whether a file that is there is an earlier output of this kind, so that it may be replaced.
    what : str
        What is written, for the message.
    option : str
        The option that names it, for the message.

    Raises
    ------
    UserError
        Another ending, a folder, a file of another kind, or a place where none can be.
    """
    path = on_disk(option, given)
    if path.suffix.lower() not in endings:
        raise UserError(
            f"{option} {path}: the ending must be one of {', '.join(e[1:] for e in endings)}"
        )
    try:
        if path.is_dir():
            raise UserError(f"{option} {path}: is a folder; give a file in it")
        if os.path.lexists(path) and (not path.is_file() or not is_earlier(path)):
            raise UserError(
                f"{option} {path}: is there, and holds no {what} of this program's; give "
                "another name, or move it away"
            )
        above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not above.is_dir():
            raise UserError(f"{option} {path}: {above} is no folder; give another place")
        if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
            raise UserError(f"{option} {path}: {above} cannot be written to; give another place")
    except OSError as error:
        raise UserError(f"{option} {path}: {one_line(error)}") from None
    return path


def holds_predictions(path: Path) -> bool:
    """Whether a Parquet or CSV file is one that predict.py wrote, by its columns."""
    try:
        if path.suffix.lower() == ".csv":
            with open(path, encoding="utf-8", newline="") as file:
                columns = next(csv.reader(file), [])
        else:
            columns = pq.read_schema(path).names
    except (OSError, ValueError, csv.Error, pa.ArrowException):
        return False
    tasks = {name.partition("__w__")[0] for name in columns if "__w__" in name}
    return (
        tuple(columns[:2]) == IDENTIFIERS
        and bool(tasks)
        and all(name.partition("__")[0] in tasks for name in columns[2:])
    )


def holds_drawing(path: Path) -> bool:
    """Whether an image is one that draw.py wrote: it says so in the file."""
    return DRAWN_BY.encode() in path.read_bytes()


def holds_evaluation(path: Path) -> bool:
    """Whether a JSON file is one that evaluate.py wrote, by its keys."""
    return {"bundle", "records", "tasks"} <= _keys(path)


def holds_comparison(path: Path) -> bool:
    """Whether a JSON file is one that compare.py wrote, by its keys."""
    return _keys(path) == {"runs", "tasks"}


def _keys(path: Path) -> set[str]:
    """The keys of a JSON file; none where it holds anything else."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(said) if isinstance(said, dict) else set()
