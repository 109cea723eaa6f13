"""The two ways a job ends early: the user's mistake, and work that could not be completed."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

from enecg.printable import printable


class UserError(Exception):
    """A mistake of the user's: one line that says what, where and what is allowed (exit code 2)."""


class JobFailed(Exception):
    """Work that did not succeed for a reason that is not the command line's (exit code 1)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest known word, or an empty string.

    Parameters
    ----------
    word : str
        What was written.
    known : iterable of str
        What is allowed.
    """
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {nearest[0]!r}?" if nearest else ""


def one_line(error: BaseException) -> str:
    """Return an exception's message folded to a single line (its type where it has no message).

    What it quotes may be anybody's text: what cannot be seen is escaped, see `printable`.
    """
    return printable(" ".join(str(error).split())) or type(error).__name__


def last_line(error: BaseException) -> str:
    """Return the last line of an exception's message.

    Ray wraps the traceback of a worker into its message; that line says what happened there.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1]) if lines else type(error).__name__


def exit_code_of(job: Callable[[], int | None]) -> int:
    """Run a job and turn what it raises into the exit codes of the contract.

    Returns
    -------
    int
        0 done, 1 could not be completed, 2 the user's mistake. For 1 and 2 a single line is on
        standard error; unforeseen exceptions keep their traceback.
    """
    try:
        return job() or 0
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except JobFailed as error:
        print(f"failed: {one_line(error)}", file=sys.stderr)
        return 1
