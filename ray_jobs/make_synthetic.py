"""Write a made-up cohort of ECGs as WFDB files, to try the whole pipeline on."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys
from pathlib import Path
from typing import Annotated

import typer

from enecg.command_line import run
from enecg.errors import exit_code_of
from enecg.printable import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Gets records/ and labels.csv.")],
    records: Annotated[
        int, typer.Option(metavar="N", help="How many recordings, a few of them damaged.")
    ] = 200,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same bytes.")
    ] = 42,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cohort that is in the folder.")
    ] = False,
) -> None:
    """Write simulated twelve-lead ECGs (10 s, 500 Hz) as WFDB files, with labels.csv.

    Convert them with: convert.py --source wfdb --input FOLDER --labels FOLDER/labels.csv …
    """

    def job() -> None:
        from enecg.records.synthetic import write_synthetic_cohort  # heavy: not for --help

        interrupts.keeps(f"{folder} is unfinished", "give --overwrite to make it anew")
        labels = write_synthetic_cohort(folder, records, seed, overwrite)
        print(printable(f"{records:,} simulated records in {folder}; labels: {labels}"))

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
