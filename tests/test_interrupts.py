"""How a job ends by a signal, in processes without Ray: whatever the job is doing meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from enecg.interrupts import descendants

JOB = "from enecg import interrupts; interrupts.install()\nimport os, sys, signal, time\n"
READY = "interrupts.keeps('all is kept', 'go on'); print('ready', flush=True)\n"
SLEEP = "time.sleep(600)\n"
DOING = {
    "python": SLEEP,
    "C code that holds the interpreter": "import ctypes; ctypes.PyDLL(None).sleep(600)\n",
    "swallowing everything": "while True:\n  try: time.sleep(600)\n  except BaseException: pass\n",
}
OTHERS_HANDLERS = (
    "for n in (2, 15): signal.signal(n, lambda *_: sys.exit(15))\n"
    "signal.set_wakeup_fd(-1)\n"
)  # fmt: skip


def start(code: str, before: str = "") -> subprocess.Popen[str]:
    """A job that has said that it is ready."""
    job = subprocess.Popen(
        [sys.executable, "-c", before + JOB + code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Also where the tests run under nohup, which has SIGHUP ignored in all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


def ended(job: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a job that ends by itself now, and what it said on standard error."""
    _, said = job.communicate(timeout=60)
    return job.returncode, said


@pytest.mark.parametrize("doing", DOING)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_one_line_and_the_exit_code_whatever_the_job_does(
    doing: str, number: signal.Signals
) -> None:
    """Also with handlers such as Ray's, which it installs when it starts."""
    child = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    job = start(OTHERS_HANDLERS + child + READY + DOING[doing])
    below = descendants(job.pid)
    assert len(below) == 2
    job.send_signal(number)
    job.send_signal(number)  # whoever is impatient
    assert ended(job) == (128 + number, f"interrupted ({number.name}): all is kept; go on\n")
    assert not any(Path(f"/proc/{one}").exists() for one in below)


def test_a_signal_to_the_job_itself_is_the_parents() -> None:
    """``pkill -f`` strikes both; a group's signal may strike either."""
    job = start(READY + SLEEP)
    [child] = descendants(job.pid)
    os.kill(child, signal.SIGTERM)
    assert ended(job) == (143, "interrupted (SIGTERM): all is kept; go on\n")


def test_the_line_is_one_line_whatever_a_path_holds() -> None:
    job = start("interrupts.keeps('a\\x1b[2J\\nb\\udcff'); print('ready', flush=True)\n" + SLEEP)
    job.terminate()
    told = "a\\x1b[2J\\nb\\udcff; run the same command again"
    assert ended(job) == (143, f"interrupted (SIGTERM): {told}\n")


def test_orphans_of_the_job_are_ended() -> None:
    orphan = "import subprocess; subprocess.run('sleep 600 >/dev/null 2>&1 &', shell=True)\n"
    job = start(orphan + READY + SLEEP)
    below = descendants(job.pid)
    assert len(below) == 2
    job.terminate()
    assert ended(job)[0] == 143
    assert not any(Path(f"/proc/{one}").exists() for one in below)


@pytest.mark.parametrize(("leaving", "code"), [("sys.exit(2)", 2), ("1 / 0", 1), ("", 0)])
def test_otherwise_the_jobs_own_exit_code_counts(leaving: str, code: int) -> None:
    returned, said = ended(start(READY + leaving))
    assert returned == code and "interrupted" not in said


def test_a_job_that_something_kills_is_told_in_one_line() -> None:
    job = start(READY + SLEEP)
    [child] = descendants(job.pid)
    os.kill(child, signal.SIGKILL)
    assert ended(job) == (
        1,
        "failed: the job was ended by SIGKILL (out of memory?): all is kept; go on\n",
    )


def test_the_job_ends_with_its_parent() -> None:
    job = start(READY + SLEEP)
    [child] = descendants(job.pid)
    job.kill()
    assert ended(job)[0] == -signal.SIGKILL
    end = time.monotonic() + 20
    while runs(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def runs(process: int) -> bool:
    """Whether a process still runs; one that nobody has taken note of does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_temporary_folders_go() -> None:
    inside = (
        "folder = interrupts.temporary_folder('enecg-test-'); path = folder.__enter__()\n"
        "(path / 'file').touch(); print('ready', flush=True); print(path, flush=True)\n"
    )
    job = start(inside + SLEEP)
    assert job.stdout is not None
    path = Path(job.stdout.readline().strip())
    assert (path / "file").exists()
    job.terminate()
    assert ended(job)[0] == 143
    assert not path.exists()


def test_giving_up_ends_a_job_that_hangs() -> None:
    hanging = "import threading; give_up = ['error: it hangs', 2]\n"
    after = "threading.Timer(0.2, interrupts.give_up, give_up).start()\n"
    hung = DOING["swallowing everything"]
    assert ended(start(hanging + READY + after + hung)) == (2, "error: it hangs\n")


def test_nohup_stays_in_force() -> None:
    job = start(
        READY + "time.sleep(1)\nsys.exit(7)\n", "import signal; signal.signal(1, signal.SIG_IGN)\n"
    )
    job.send_signal(signal.SIGHUP)
    assert ended(job) == (7, "")


def test_a_stopped_terminal_job_goes_on() -> None:
    """Ctrl-Z stops the job, ``fg`` goes on."""
    job = start(READY + "while True: print('tick', flush=True); time.sleep(0.05)\n")
    [child] = descendants(job.pid)
    job.send_signal(signal.SIGTSTP)
    wait_for_state(child, "T")
    wait_for_state(job.pid, "T")  # a shell says "Stopped" and gives its prompt
    job.send_signal(signal.SIGCONT)
    wait_for_state(child, "SR")
    job.terminate()
    assert ended(job)[0] == 143


def test_ctrl_c_on_a_terminal() -> None:
    """It reaches the parent only; the line stands in place of a progress bar."""
    ours, theirs = pty.openpty()
    bar = "sys.stderr.write('\\x1b[?25l 50 %'); sys.stderr.flush()\n"
    job = subprocess.Popen(
        [sys.executable, "-c", JOB + bar + READY + SLEEP],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
        env=os.environ | {"TERM": "xterm"}, text=True,
    )  # fmt: skip
    os.close(theirs)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    os.write(ours, b"\x03")
    assert job.wait(60) == 130
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal shows
        while part := os.read(ours, 1000):
            shown += part
    job.stdout.close()
    os.close(ours)
    assert shown.endswith(b"\r\x1b[2K\x1b[?25hinterrupted (SIGINT): all is kept; go on\r\n"), shown


def wait_for_state(process: int, states: str) -> None:
    end = time.monotonic() + 20
    while True:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        if state in states:
            return
        assert time.monotonic() < end, state
        time.sleep(0.02)
