"""Runs a command on a terminal of its own, as a person at a keyboard does.

As a script: ``python tests/pty_run.py COLUMNS COMMAND…`` runs the command and shows the end of what
it printed; the exit code is the command's, or 1 where its last line is not ``results: <file>``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[@-Z\\-_=>78]")
"""Sequences by which a program moves the cursor and sets colours."""


class Shown(NamedTuple):
    """What a command left on its terminal.

    Attributes
    ----------
    code : int
        Exit code; negative where a signal ended it.
    raw : str
        Everything that was sent to the terminal.
    """

    code: int
    raw: str

    @property
    def lines(self) -> list[str]:
        """All lines without control sequences; of a line written over, every state of it."""
        text = CONTROL.sub("", self.raw)
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def on_terminal(
    command: Sequence[str],
    columns: int = 80,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 300.0,
) -> Shown:
    """Run a command with a terminal as its standard input, output and error.

    Parameters
    ----------
    command : sequence of str
    columns : int
        Width of the terminal; it has 30 lines.
    environment : mapping of str to str, optional
        Of the command; by default this process's.
    cwd : Path, optional
        Where it runs.
    seconds : float
        After this time the command is killed and `TimeoutError` raised.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True,
        env=None if environment is None else dict(environment),
    )  # fmt: skip
    os.close(theirs)
    sent = bytearray()
    ends = time.monotonic() + seconds
    try:
        while True:
            ready, _, _ = select.select([ours], [], [], 0.2)
            if ready:
                try:
                    part = os.read(ours, 65536)
                except OSError as error:
                    if error.errno != errno.EIO:  # what Linux says once nobody has it open
                        raise
                    break
                if not part:
                    break
                sent += part
            elif process.poll() is not None:  # a process left behind may hold the terminal open
                break
            if time.monotonic() > ends:
                os.killpg(process.pid, signal.SIGKILL)
                raise TimeoutError(f"{command} ran for {seconds:.0f} s:\n{sent[-3000:].decode()}")
    finally:
        os.close(ours)
    return Shown(process.wait(30), sent.decode(errors="replace"))


def main() -> int:
    """Run what the command line says."""
    started = time.monotonic()
    command = sys.argv[2:]
    shown = on_terminal(command, int(sys.argv[1]), seconds=900.0)
    ends_with_results = bool(shown.lines) and re.fullmatch(r"results: \S+", shown.lines[-1])
    good = shown.code == 0 and ends_with_results
    print("\n".join(shown.lines[-6 if good else -60 :]))
    print(
        f"{' '.join(command)} on a terminal of {sys.argv[1]} columns: exit code {shown.code}, "
        f"{time.monotonic() - started:.0f} s"
    )
    return 0 if good else shown.code or 1


if __name__ == "__main__":
    sys.exit(main())
