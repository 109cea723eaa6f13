"""Validate a bundle on another record store."""

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
    records: Annotated[
        str,
        typer.Option(metavar="STORE", help="A record store with the tasks' labels: folder or URI."),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Metrics with 95 % intervals, by task.")
    ],
    include_seen: Annotated[
        bool,
        typer.Option(
            "--include-seen",
            help="Judge also records that the bundle learned from, or whose subject it learned "
            "from; without this they are counted and left out.",
        ),
    ] = False,
    address: AddressOption = None,
) -> None:
    """Judge a bundle on a record store that has labels (external validation).

    The ensemble, and beside it each expert, the plain baselines and the paired differences.

    Exit code: 0 done; 2 a mistake in the arguments; 1 anything else.
    """

    def job() -> None:
        from enecg.validate import evaluate_file  # heavy: not for --help

        evaluate_file(bundle, records, output, include_seen)

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
