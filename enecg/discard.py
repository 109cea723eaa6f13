"""Removing what an earlier ``make demo`` made, and nothing else, so that each demo is a fresh run.

``python -m enecg.discard records=FOLDER features=FOLDER run=FOLDER [cohort=FOLDER]``. The folders
belong together: the run reads that record store, and where there is a cohort, the store holds
nothing but simulated records. A run or a store of one's own that got the same name is refused.
"""

from __future__ import annotations

import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from enecg.errors import UserError, exit_code_of, one_line
from enecg.ownership import Kind, check_free, refuse_strangers, remove_own
from enecg.records.description import INDEX
from enecg.records.store import UNFINISHED

_SIMULATED = re.compile(r"syn[0-9]{5,}")


def discard(folders: dict[Path, Kind]) -> None:
    """Remove folders, each of its kind; those that are not there are passed over.

    Raises
    ------
    UserError
        One of them is something else; then none is removed.
    """
    of_kind = {kind: folder for folder, kind in folders.items()}
    for folder, kind in folders.items():
        if folder.is_symlink():
            raise UserError(
                f"not removed: {folder}: is a link to {folder.resolve()}; move the link away"
            )
        check_free("not removed:", folder, kind)
        if folder.exists():
            refuse_strangers(folder, kind)
    if "records" in of_kind and "cohort" in of_kind:
        _check_simulated(of_kind["records"], of_kind["cohort"])
    if "records" in of_kind and "run" in of_kind:
        _check_reads(of_kind["run"], of_kind["records"])
    for folder, kind in folders.items():
        remove_own(folder, kind)


def _check_simulated(store: Path, cohort: Path) -> None:
    """Refuse a record store with records that ``make_synthetic.py`` did not make."""
    try:
        names = pq.read_table(store / INDEX, columns=["record_id"])["record_id"].to_pylist()
        others = [name for name in names if not _SIMULATED.fullmatch(name)]
    except FileNotFoundError:  # none, or an unfinished one
        others = []
        with suppress(OSError, ValueError, TypeError, KeyError):
            made_from = json.loads((store / UNFINISHED / "arguments.json").read_text("utf-8"))
            others = [made_from["input"]] * (Path(made_from["input"]) != cohort.absolute())
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"not removed: {store}: {one_line(error)}; move it away") from None
    if others:
        raise UserError(
            f"not removed: {store}: holds recordings of yours ({others[0]!r}); move it away"
        )


def _check_reads(run: Path, store: Path) -> None:
    """Refuse a run of other records than those of the demo."""
    try:
        records = json.loads((run / "config.json").read_text(encoding="utf-8"))["records"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        records = None
    if not isinstance(records, str) or Path(records).absolute() != store.absolute():
        raise UserError(
            f"not removed: {run}: is a run on other records ({records}) than the demo's; move it "
            "away"
        )


def main(arguments: list[str]) -> None:
    """Remove the folders that ``kind=folder`` arguments name."""
    folders: dict[Path, Kind] = {}
    for argument in arguments:
        said, _, folder = argument.partition("=")
        kind = next((kind for kind in get_args(Kind) if kind == said), None)
        if kind is None or not folder:
            raise UserError(f"{argument}: write kind=folder; kinds: {', '.join(get_args(Kind))}")
        folders[Path(folder)] = kind
    discard(folders)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(sys.argv[1:])))
