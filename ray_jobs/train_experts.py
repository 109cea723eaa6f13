"""Stage 1: adapt every expert in its own Ray Train job."""

from __future__ import annotations

from enecg import interrupts

if __name__ == "__main__":
    interrupts.install()  # first: a signal may come while the rest is loaded

import sys

import typer

from enecg.command_line import AddressOption, ConfigOption, PlanOption, SetOption, run
from enecg.errors import exit_code_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    config: ConfigOption,
    set: SetOption = None,
    plan: PlanOption = False,
    address: AddressOption = None,
) -> None:
    """Stage 1: adapt every expert, side by side; those whose settings did not change are kept.

    Exit code: 0 done; 2 a mistake in the config; 1 anything else.
    """

    def job() -> None:
        from enecg.pipeline import run_stages, show_plan  # heavy: not for --help

        if plan:
            show_plan(config, set)
        else:
            run_stages(config, set, ["experts"])

    sys.exit(exit_code_of(job))


if __name__ == "__main__":
    run(app)
