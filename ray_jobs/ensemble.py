"""Ensemble the best trials, evaluate, and write bundles and report."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys

import typer

from enecg.command_line import AddressOption, ConfigOption, SetOption, run
from enecg.errors import exit_code_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(config: ConfigOption, set: SetOption = None, address: AddressOption = None) -> None:
    """Ensemble the best trials; write results.json, report.html and the bundles.

    Exit code: 0 done; 2 a mistake in the config; 1 anything else.
    """

    def job() -> None:
        from enecg.pipeline import run_stages  # heavy: not for --help

        run_stages(config, set, ["ensemble"])

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
