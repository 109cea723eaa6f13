"""Leaving on SIGINT, SIGTERM, SIGHUP or SIGQUIT: one line, exit code 128 + its number.

The job runs in a child of the process that was started. The parent only waits, so it can act at
any moment: while libraries are loaded, while Ray starts (which takes signals for itself), while
C++ code holds the child. It ends the child first: a driver that outlives its cluster, even for a
moment, ends in Ray's own way, with a stack trace and another exit code.

Jobs call `install` before they load anything slow, so this file imports only what loads fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from enecg.printable import printable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_KILLING_SECONDS = 20.0
_SLOT = 1 << 15  # bytes
_OVER_A_BAR = "\r\x1b[2K\x1b[?25h"  # clears the line, shows the cursor


class _Told:
    """What the job last told its parent: memory that both see, and that outlives the job.

    There are two slots; the first byte says which one counts, so that a job which ends while it
    tells something has told what it did before.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1 + 2 * _SLOT)
        self._lock = threading.Lock()
        self.facts: dict[str, Any] = {
            "kept": "nothing has been written yet",
            "go_on": "run the same command again",
            "temporary": [],
        }
        self.tell()

    def tell(self, **facts: Any) -> None:
        with self._lock:
            self.facts |= facts
            text = json.dumps(self.facts).encode()
            if len(text) <= _SLOT:
                slot = 1 - self._shared[0]
                start = 1 + slot * _SLOT
                self._shared[start : start + _SLOT] = text.ljust(_SLOT)
                self._shared[0] = slot

    def heard(self) -> dict[str, Any]:
        start = 1 + self._shared[0] * _SLOT
        facts: dict[str, Any] = json.loads(self._shared[start : start + _SLOT])
        return facts


_told: _Told | None = None


def install() -> None:
    """Go on in a child process, which alone returns from here; once per job, before all else.

    The parent exits as the child does. On a signal it kills the child and every process that came
    of it (a local Ray cluster, not one that was joined) and prints one line; further signals
    change nothing. The child has a process group of its own, so Ctrl-C reaches the parent only.
    If the parent is killed, so is the child. On systems other than Linux this does nothing.
    """
    global _told
    if _told is not None or not sys.platform.startswith("linux"):
        return
    _told = _Told()
    # From here on signals wait for `_wait_for`. What nohup has set stays.
    ending = {n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*ending, signal.SIGCHLD, signal.SIGTSTP})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become this process's: none is overlooked
    parent = os.getpid()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(child, child)
        os._exit(_wait_for(child, ending, _told))
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)
    take_back()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # may write to a terminal set to `tostop`
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_back() -> None:
    """Hand signals that are sent to the child itself (by name, say) to the parent.

    To be called again after others have taken them; does nothing without `install`.
    """
    if _told is None or threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, _: os.kill(os.getppid(), number))


def keeps(what: str, go_on: str = "run the same command again") -> None:
    """Say what an interruption leaves behind, and how to go on.

    Parameters
    ----------
    what : str
        For example ``finished experts and trials in runs/x are kept``.
    go_on : str
        What to do then.
    """
    if _told is not None:
        _told.tell(kept=what, go_on=go_on)


def give_up(line: str, code: int) -> NoReturn:
    """End the job at once, from any thread, with one line and an exit code."""
    if _told is not None:
        _told.tell(last_line=line, code=code)
        os.kill(os.getpid(), signal.SIGKILL)  # the parent does the rest
    _say(line)
    os._exit(code)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a temporary folder that is gone after the block, and after an interruption, too."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    if _told is not None:
        _told.tell(temporary=[*_told.facts["temporary"], str(path)])
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if _told is not None:
            _told.tell(temporary=[one for one in _told.facts["temporary"] if one != str(path)])


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _wait_for(child: int, ending: set[signal.Signals], told: _Told) -> int:
    """Wait until the job ends or a signal comes; return this process's exit code."""
    while True:
        number = signal.sigwait({*ending, signal.SIGCHLD, signal.SIGTSTP})
        code = _reap(child)
        if number == signal.SIGTSTP and code is None:  # Ctrl-Z: it goes on with `fg` or `bg`
            os.killpg(child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.killpg(child, signal.SIGCONT)
            continue
        if number not in ending and code is None:
            continue
        _end_descendants()
        facts = told.heard()
        for folder in facts["temporary"]:
            shutil.rmtree(folder, ignore_errors=True)
        left = f"{facts['kept']}; {facts['go_on']}"
        if number in ending and (code is None or code < 0):
            _say(f"interrupted ({signal.Signals(number).name}): {left}")
            return 128 + number
        if code is None or code >= 0:
            return code or 0
        if "last_line" in facts:
            _say(facts["last_line"])
            return int(facts["code"])
        why = " (out of memory?)" if -code == signal.SIGKILL else ""
        _say(f"failed: the job was ended by {signal.Signals(-code).name}{why}: {left}")
        return 1


def _reap(child: int) -> int | None:
    """Take note of ended children; return the job's exit code, or minus the signal that ended it;
    None while it runs."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def _say(line: str) -> None:
    """Print a line on standard error; not at the price of hanging where nobody reads it."""
    # A progress bar may stand in this line, with the cursor hidden.
    bar = os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"
    text = f"{_OVER_A_BAR if bar else ''}{printable(line)}\n"
    with contextlib.suppress(OSError, ValueError):
        if select.select([], [2], [], 1.0)[1]:
            os.write(2, text.encode("utf-8", "backslashreplace"))


def _end_descendants() -> None:
    """Kill every process that this one started, directly or not, and wait until all are gone."""
    until = time.monotonic() + _KILLING_SECONDS
    with contextlib.suppress(ChildProcessError):  # no children are left, so nothing below them
        while time.monotonic() < until:
            end(descendants(os.getpid()))  # the next round finds one that starts meanwhile
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


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
    """Return the processes that one started, directly or not: its children first, no zombies."""
    below: dict[int, list[int]] = {}
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
            below.setdefault(int(parent), []).append(int(entry))
    found, level = [], below.get(root, [])
    while level:
        found += level
        level = [process for above in level for process in below.get(above, [])]
    return found
