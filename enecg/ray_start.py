"""Which Ray cluster a job uses, and in one line why it cannot.

Whatever goes wrong is told in one line: what, where, and what to do; within 30 seconds, but for a
local cluster whose start hangs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.utils import read_ray_address

from enecg import interrupts
from enecg.errors import JobFailed, UserError, last_line, one_line
from enecg.progress import say
from enecg.ray_probe import check_cluster
from enecg.ray_token import provide_token

JOIN_SECONDS = 60.0
"""For Ray's own client, once the cluster has answered; it takes a few."""
START_SECONDS = 75.0
"""For a local cluster's start; 5 s as a rule, 30 s on a machine with ten times its work."""
_SOCKETS = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
_LONGEST_SOCKET = 107
"""Bytes of a socket's path, in Linux."""
_LEAST_SPACE = 1 << 20
"""Bytes for the first logs of a cluster."""
_TOO_SLOW = "timed out during startup"
_SLOW_SECONDS = 20.0
"""A start that fails sooner does not fail because the machine is busy."""
LOOPBACK = "127.0.0.1"


def named_address() -> str | None:
    """Return the ``host:port`` of the cluster that ``RAY_ADDRESS`` names; None where it names none.

    ``auto`` stands for the cluster that ``ray start`` started on this machine.

    Raises
    ------
    UserError
        Something that is no such address.
    """
    text = os.environ.get("RAY_ADDRESS", "").strip()
    if text in ("", "local"):
        return None
    if text == "auto":
        found: str | None = read_ray_address()
        if not found:
            raise UserError(
                "RAY_ADDRESS=auto: `ray start` has left no address on this machine; give host:port"
            )
        return found
    if text.startswith("ray://"):
        raise UserError(
            f"RAY_ADDRESS={text}: Ray Client cannot run training jobs; give the host:port that "
            "`ray start --head` printed, or use `ray job submit`"
        )
    if text.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={text}: this is a dashboard's address, for `ray job submit`; give the "
            "host:port that `ray start --head` printed"
        )
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise UserError(f"RAY_ADDRESS={text}: write host:port, for example 127.0.0.1:6379")
    return text


def join(address: str) -> Any:
    """Join the cluster at ``host:port``.

    Raises
    ------
    UserError
        Nobody answers there, or one that does not let this process in: see `enecg.ray_probe`.
    """
    try:
        with _stderr_kept():  # gRPC and Ray's core, which are not Python, say more than is of use
            check_cluster(address)
            hangs = f"error: the Ray cluster at {address} does not answer"
            with _timed((JOIN_SECONDS, lambda: interrupts.give_up(hangs, 2))):
                return ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except UserError:
        raise
    except Exception as error:
        ray.shutdown()
        raise UserError(
            f"the Ray cluster at {address} cannot be joined: {last_line(error)}"
        ) from None


def start_local(cpus: int) -> Any:
    """Start a cluster of this process's own; tried twice where the machine is too slow.

    Raises
    ------
    UserError
        There is no place for its files, or a variable of Ray's names something impossible.
    JobFailed
        It does not start.
    """
    _check_port()
    provide_token()
    place = _place_of_sockets()
    before = set(interrupts.descendants(os.getpid()))

    def end_its_processes() -> None:
        interrupts.end(set(interrupts.descendants(os.getpid())) - before)

    hangs = "failed: cannot start a local Ray cluster: it hangs; try again later"
    limits = (
        (START_SECONDS, end_its_processes),  # Ray's own client then fails, as a rule
        (START_SECONDS + 30, lambda: interrupts.give_up(hangs, 1)),
    )
    for attempt in range(2):
        began = time.monotonic()
        said = ""
        try:
            with _stderr_kept() as kept, _on_loopback(), _timed(*limits):
                try:
                    return ray.init(
                        address="local",
                        num_cpus=cpus,
                        log_to_driver=False,
                        logging_level=logging.WARNING,
                        _temp_dir=place,
                        _node_ip_address=LOOPBACK,
                    )
                finally:
                    said = kept()
        except Exception as error:
            ray.shutdown()
            end_its_processes()
            seconds = time.monotonic() - began
            slow = _TOO_SLOW in f"{error} {said}" or seconds > _SLOW_SECONDS
            if slow and attempt == 0:
                say("the local Ray cluster took too long to start (a busy machine?); once more")
                continue
            why = "the machine is too busy; try again later" if slow else last_line(error)
            raise JobFailed(f"cannot start a local Ray cluster: {why}") from None
    raise AssertionError


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster that starts meanwhile listen on loopback only.

    On Linux, Ray replaces 127.0.0.1 by the machine's network address, so that other machines can
    join, and listens on every interface. Where Ray supports clusters of one machine only (macOS,
    Windows), it keeps 127.0.0.1. During the start, this setting makes Ray do the same here.
    """
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _check_port() -> None:
    """Make sure that the port which ``RAY_GCS_SERVER_PORT`` gives a cluster's head is free.

    Raises
    ------
    UserError
        It is in use, or no port.
    """
    if not (text := os.environ.get("RAY_GCS_SERVER_PORT")):
        return  # Ray takes a free one
    try:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, int(text)))
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"RAY_GCS_SERVER_PORT={text}: the local Ray cluster cannot listen there "
            f"({one_line(error)}); leave the variable out, and a free port is taken"
        ) from None


@contextlib.contextmanager
def _timed(*later: tuple[float, Callable[[], object]]) -> Iterator[None]:
    """Do something after so many seconds, unless the block has ended by then."""
    timers = [threading.Timer(seconds, do) for seconds, do in later]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _place_of_sockets() -> str | None:
    """Return where Ray's files go; None for Ray's own choice, which TMPDIR may have made too long.

    Raises
    ------
    UserError
        Neither there nor in /tmp can anything be written.
    """
    default = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    refused = []
    for place in dict.fromkeys((default, "/tmp")):
        if len(os.fsencode(place)) + _SOCKETS > _LONGEST_SOCKET:
            refused.append(f"{place}: too long for the paths of sockets")
            continue
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
            rays = Path(place, "ray")  # another user's, perhaps
            with tempfile.TemporaryFile(dir=rays if rays.exists() else place) as file:
                file.write(b"\0" * _LEAST_SPACE)
        except OSError as error:
            refused.append(one_line(error))
            continue
        if place != default:
            say(f"Ray's files go to {place}/ray: {refused[0]}")
        return None if place == default else f"{place}/ray"
    raise UserError(
        f"no place for Ray's files: {'; '.join(refused)}; set RAY_TMPDIR to a short path that can "
        "be written to"
    )


@contextlib.contextmanager
def _stderr_kept() -> Iterator[Any]:
    """Keep what anything in this process writes to file 2, Ray's C++ core too; yield a reader."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        real = os.dup(2)
        os.dup2(kept.fileno(), 2)
        text = ""

        def read() -> str:
            nonlocal text
            if not kept.closed:
                size = os.fstat(kept.fileno()).st_size
                text = os.pread(kept.fileno(), size, 0).decode(errors="replace")
            return text

        try:
            yield read
        finally:
            sys.stderr.flush()
            read()
            os.dup2(real, 2)
            os.close(real)
