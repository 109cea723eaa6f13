"""Stage 1: adapt every expert in its own Ray Train job."""

from __future__ import annotations

import sys

import typer

from enecg.command_line import run
from enecg.errors import exit_code_of
from enecg.pipeline import ConfigOption, PlanOption, SetOption, run_stages, show_plan

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(config: ConfigOption, set: SetOption = None, plan: PlanOption = False) -> None:
    """Stage 1: adapt every expert, side by side; those whose settings did not change are kept.

    Exit code: 0 done; 2 a mistake in the config; 1 anything else.
    """
    if plan:
        sys.exit(exit_code_of(lambda: show_plan(config, set)))
    sys.exit(exit_code_of(lambda: run_stages(config, set, ["experts"])))


if __name__ == "__main__":
    run(app)
