"""A table of the experts, and of which published weights are at hand."""

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
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder below which published weights are looked for, by the names their "
            "authors gave them. What is found is loaded (which takes its memory), so that missing "
            "and unexpected tensors show, and its SHA-256 is compared with the published one where "
            "that is known.",
        ),
    ] = None,
) -> None:
    """Describe every expert: is it installed, are its weights found and verified, how many
    parameters, how wide its features, its licence, and the corpora it was pretrained on.

    Weights: "verified" loads and has the published SHA-256; "loads" means that every tensor fits,
    but that no published SHA-256 is known; "differs" loads, but is not the published file;
    "refused" does not load. Nothing is downloaded, and no code in a weights file is run.

    Exit code: 0 done; 2 a mistake in the arguments; 1 anything else.
    """

    def job() -> None:
        from enecg import describe_experts  # heavy: not for --help
        from enecg.paths import on_disk
        from enecg.progress import screen

        folder = None if weights is None else on_disk("--weights", weights)
        found = list(describe_experts.describe(folder))
        screen(80).print(describe_experts.table(found, searched=weights is not None))
        for line in describe_experts.details(found):
            print(printable(line))

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
