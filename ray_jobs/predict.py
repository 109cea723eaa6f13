"""Predict with a bundle, on a record store or a folder of WFDB files."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys
from pathlib import Path
from typing import Annotated

import typer

from enecg.command_line import AddressOption, run
from enecg.errors import exit_code_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[
        Path,
        typer.Option(metavar="DIR", help="A run's bundle/ (all tasks) or bundle/<task> (one)."),
    ],
    input: Annotated[
        str,
        typer.Option(
            metavar="STORE_OR_WFDB_DIR",
            help="A record store, or a folder with WFDB records: a path or a URI.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE.parquet",
            help="Predictions, one row per record: a .parquet or a .csv file. Earlier predictions "
            "there are replaced, any other file is not.",
        ),
    ],
    address: AddressOption = None,
) -> None:
    """Predict every record: value or class, class probabilities, and the experts' weights.

    Exit code: 0 done; 2 a mistake in the arguments; 1 anything else.
    """

    def job() -> None:
        from enecg.predict import predict_file  # heavy: not for --help

        predict_file(bundle, input, output)

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
