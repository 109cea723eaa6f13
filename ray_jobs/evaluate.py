"""Validate a bundle on another record store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from enecg.command_line import run
from enecg.errors import exit_code_of
from enecg.validate import evaluate_file

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A run's bundle/ (all tasks) or bundle/<task> (one)."),
    ],
    records: Annotated[
        Path, typer.Option(metavar="STORE", help="A record store with the tasks' labels.")
    ],
    output: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Metrics with 95 % intervals, by task.")
    ],
) -> None:
    """Compare a bundle's predictions with the labels of a record store (external validation).

    Exit code: 0 done; 2 a mistake in the arguments; 1 anything else.
    """
    sys.exit(exit_code_of(lambda: evaluate_file(bundle, records, output)))


if __name__ == "__main__":
    run(app)
