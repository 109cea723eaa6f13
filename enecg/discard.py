"""Removing what this program made, and nothing else: ``python -m enecg.discard FOLDER…``.

``make demo`` begins with it, so that each demo is a fresh run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from enecg.errors import UserError, exit_code_of
from enecg.ownership import Kind, check_free, remove_own


def discard(folders: dict[Path, Kind]) -> None:
    """Remove folders, each of its kind; those that are not there are passed over.

    Raises
    ------
    UserError
        One of them is something else; then none is removed.
    """
    for folder, kind in folders.items():
        check_free("not removed:", folder, kind)
    for folder, kind in folders.items():
        remove_own(folder, kind)


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
