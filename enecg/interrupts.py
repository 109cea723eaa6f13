"""Leaving on SIGINT, SIGTERM or SIGHUP: one line, no process left behind, exit code 128 + signal.

Only the standard library is imported: jobs call `install` before anything that takes time to load.

A thread does the work. Python runs signal handlers in the main thread, and that one may be deep
inside Ray or torch for as long as a training takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_CHILD_SUBREAPER = 36
_KILLING_SECONDS = 8.0

_kept = "nothing has been written yet"
_go_on = "run the same command again"
_temporary: list[Path] = []
_pipe: tuple[int, int] | None = None
_stderr = 2


def install() -> None:
    """Take over the signals, from now on; only the main thread can."""
    global _pipe, _stderr
    if threading.current_thread() is not threading.main_thread():
        return
    if _pipe is None:
        _stderr = os.dup(2)  # what stands for 2 may be a file for a while
        # Processes whose parent is gone become children of this one, so that none is overlooked.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        threading.Thread(target=_wait_and_leave, daemon=True, name="signals").start()
    signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _hold)


def take_back() -> None:
    """Take the signals back from who has taken them since; nothing where they never were ours."""
    if _pipe is not None:
        install()


def keeps(what: str, go_on: str = "run the same command again") -> None:
    """Say what an interruption leaves behind, and how to go on.

    Parameters
    ----------
    what : str
        For example ``finished experts and trials in runs/x are kept``.
    go_on : str
        What to do then.
    """
    global _kept, _go_on
    _kept, _go_on = what, go_on


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder that is gone after the block, and after an interruption, too."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    _temporary.append(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _temporary.remove(path)


def _hold(number: int, frame: object) -> None:
    """Keep the main thread from doing anything more; the other thread ends the process."""
    while True:
        time.sleep(60)


def _wait_and_leave() -> None:
    assert _pipe is not None
    number = 0
    while number not in SIGNALS:  # other signals with a handler wake it as well
        number = os.read(_pipe[0], 1)[0]
    leave(number)


def leave(number: int) -> None:
    """End this process and all that it started; called by the thread that waits for signals."""
    name = signal.Signals(number).name
    # A progress bar may stand in this line, with the cursor hidden.
    before = "\r\x1b[2K\x1b[?25h" if os.isatty(_stderr) else ""
    line = f"{before}interrupted ({name}): {_kept}; {_go_on}\n"
    with contextlib.suppress(OSError):
        os.write(_stderr, line.encode("utf-8", "backslashreplace"))
    with contextlib.suppress(OSError):  # what others say of their end helps nobody
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    with contextlib.suppress(Exception):
        end_descendants()
    for folder in _temporary:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + number)


def end_descendants() -> None:
    """Kill every process that this one started, directly or not, and wait until all are gone."""
    until = time.monotonic() + _KILLING_SECONDS
    while (found := descendants(os.getpid())) and time.monotonic() < until:
        end(found)


def end(processes: Iterable[int]) -> None:
    """Kill some processes, and take note of the end of those that are children of this one."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    time.sleep(0.02)
    for process in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, os.WNOHANG)


def descendants(root: int) -> list[int]:
    """Return the processes below one that have not ended; those that ended but are not taken
    note of do not count."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                # The name, in parentheses, may hold anything.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has just ended
        if state != b"Z":
            parents[int(entry)] = int(parent)
    found, waiting = [], [root]
    while waiting:
        above = waiting.pop()
        below = [process for process, parent in parents.items() if parent == above]
        found += below
        waiting += below
    return found
