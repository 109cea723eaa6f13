"""Compare two runs on the same records and folds."""

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

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    runs: Annotated[
        tuple[Path, Path],
        typer.Option(metavar="A B", help="The run folders of two finished runs."),
    ],
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was found as JSON, too.")
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which predictor of each run, as in results.json.  [default: deployed]",
        ),
    ] = None,
) -> None:
    """Compare two runs, paired: every record is predicted by both, in the same outer fold.

    The differences are A minus B, with an interval for the procedure and a verdict on A.

    Exit code: 0 done; 2 runs that cannot be compared; 1 anything else.
    """

    def job() -> None:
        from enecg.compare_runs import show_comparison

        show_comparison(*runs, json, predictor)

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
