"""Running a job's command line so that a usage mistake, too, is one line and exit code 2."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer


def run(app: typer.Typer) -> NoReturn:
    """Run a Typer application as a script, and exit."""
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # Usage errors are told by what they can do: Typer brings a private copy of click's classes.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        print(f"error: {' '.join(str(message()).split())} (see --help)", file=sys.stderr)
        sys.exit(2)
    sys.exit(status or 0)
