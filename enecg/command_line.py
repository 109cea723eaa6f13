"""The jobs' command lines: options they share, and how a mistake or a failure is told."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from enecg.printable import printable

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The experiment, as YAML.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting, for example --set stage1.epochs=5; values are YAML. May repeat.",
    ),
]


def _name_cluster(address: str | None) -> str | None:
    """Let ``--address`` say what ``RAY_ADDRESS`` says otherwise."""
    if address is not None:
        os.environ["RAY_ADDRESS"] = address
    return address


AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster to join, instead of RAY_ADDRESS; `local`: start one of its own.  "
        "[default: the cluster the job was submitted to, else one of its own]",
        callback=_name_cluster,
    ),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Print what stage 1 would do, and with what; start nothing.")
]


class _OneLine(logging.Formatter):
    """Log messages may quote anybody's text as well."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def run(app: typer.Typer) -> NoReturn:
    """Run a Typer application as a script, and exit.

    A usage mistake is one line on standard error and exit code 2; an unforeseen exception keeps
    its traceback, and the exit code is 1.
    """
    # Every character can be written, on a terminal of any encoding: as an escape if need be.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if not sys.warnoptions:
        # What libraries' next versions will do differently is their users' concern: this program.
        for kind in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", kind)
    if logging.lastResort is not None:  # what prints warnings that no library has a place for
        logging.lastResort.setFormatter(_OneLine())
    # Without a home to write to, matplotlib says that it uses a temporary folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        status = app(standalone_mode=False)
    except Exception as error:
        # Usage errors are told by what they can do: Typer brings a private copy of click's classes.
        message = getattr(error, "format_message", None)
        if message is None:
            # What a traceback quotes may be anybody's text.
            for line in traceback.format_exc().splitlines():
                print(printable(line), file=sys.stderr)
            sys.exit(1)
        told = printable(" ".join(str(message()).split()))
        print(f"error: {told} (see --help)", file=sys.stderr)
        sys.exit(2)
    finally:
        # Ray's colours would be switched off last thing, also on a terminal that has none.
        if (colours := sys.modules.get("colorama.initialise")) is not None:
            atexit.unregister(colours.reset_all)
    sys.exit(status or 0)
