"""The two ways a job ends early: the user's mistake, and work that could not be completed."""

from __future__ import annotations

import difflib
import errno
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterable

from enecg.printable import printable


class UserError(Exception):
    """A mistake of the user's: one line that says what, where and what is allowed (exit code 2)."""


class JobFailed(Exception):
    """Work that did not succeed for a reason that is not the command line's (exit code 1)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the nearest known word, or an empty string.

    Upper and lower case count as the same.

    Parameters
    ----------
    word : str
        What was written.
    known : iterable of str
        What is allowed.
    """
    spelled = {str(one).casefold(): str(one) for one in known}
    nearest = difflib.get_close_matches(str(word).casefold(), spelled, n=1, cutoff=0.5)
    return f", did you mean {spelled[nearest[0]]!r}?" if nearest else ""


def brief(value: object, quoted: bool = True, length: int = 200) -> str:
    """Return what a message shows of a value that a person wrote: its start, on one line.

    Parameters
    ----------
    value : object
        Anything; only its beginning is turned into text.
    quoted : bool
        As Python writes it (text in quotes); else text and paths as they are.
    length : int
        Most characters of it; the end of a longer one is shown as ``…``.
    """
    if isinstance(value, os.PathLike) or not quoted:
        text = str(value)[: 2 * length]
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    else:
        limits = reprlib.Repr()
        limits.maxdict = limits.maxlist = limits.maxtuple = limits.maxset = 20
        limits.maxstring = limits.maxother = limits.maxlong = length
        try:
            text = limits.repr(value)
        except ValueError:  # Python does not write a whole number of more than 4,300 digits
            text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= length else f"{text[: length - 1]}…"


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


_AGAIN = "and run the same command again"
_REMEDIES = {
    errno.ENOSPC: f"free space {_AGAIN}", errno.EDQUOT: f"free space {_AGAIN}",
    errno.EROFS: f"make it writable {_AGAIN}", errno.EACCES: f"allow it {_AGAIN}",
    errno.EPERM: f"allow it {_AGAIN}", errno.EIO: f"look at the disk {_AGAIN}",
    errno.ESTALE: f"look at the mount {_AGAIN}", errno.EFBIG: f"allow larger files {_AGAIN}",
    errno.EMFILE: f"allow more open files (ulimit -n) {_AGAIN}",
    errno.ENFILE: f"close other programs {_AGAIN}", errno.ENOTDIR: "give another path",
    errno.EISDIR: "give another path", errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "give another path",
}  # fmt: skip
"""What to do about a file that cannot be read or written, by the error's number."""
_SAID = {
    "disk is full|file write failed|requested and [0-9]+ written": errno.ENOSPC,
    **{os.strerror(number).lower(): number for number in
       (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)},
}  # fmt: skip
"""How libraries that raise errors of their own (safetensors, torch, NumPy, SQLite) say the same."""


def file_trouble(error: BaseException) -> str | None:
    """Say in one line which file could not be read or written, why, and what to do.

    Parameters
    ----------
    error : exception
        Whatever a job raised; also one that Ray brought from another process, and one that was
        raised from what is meant.

    Returns
    -------
    str or None
        None where it is not about a disk, a file system's rights or a path.
    """
    chain = _chain(error)
    for one in chain:
        if isinstance(one, OSError) and one.errno in _REMEDIES:
            place = "" if one.filename is None else f"{brief(os.fsdecode(one.filename), False)}: "
            return f"{place}{os.strerror(one.errno)}; {_REMEDIES[one.errno]}"
    for one in chain:
        for words, number in _SAID.items():
            if re.search(words, str(one).lower()):
                return f"{brief(last_line(one), False)}; {_REMEDIES[number]}"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """An exception, and those that it stands for: Ray's causes, then Python's."""
    chain: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if any(one is other for other in chain):
            continue
        chain.append(one)
        of_workers = getattr(one, "worker_failures", None)  # of Ray Train
        inner = [*of_workers.values()] if isinstance(of_workers, dict) else []
        inner += [getattr(one, "cause", None), one.__cause__, one.__context__]
        waiting += [each for each in inner if isinstance(each, BaseException)]
    return chain


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
    except Exception as error:
        if (said := file_trouble(error)) is None:
            raise
        print(f"failed: {said}", file=sys.stderr)
        return 1
