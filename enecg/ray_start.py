"""Which Ray cluster a job uses, and in one line why it cannot.

Whatever goes wrong is told within 30 seconds: what, where, and what to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private.utils import read_ray_address

from enecg import interrupts
from enecg.errors import JobFailed, UserError, last_line, one_line
from enecg.progress import say

CONNECT_SECONDS = 5.0
"""For a connection to the address, before Ray's own client, which takes 20 s, is asked."""
_SOCKETS = len("/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1")
_LONGEST_SOCKET = 107
"""Bytes of a socket's path, in Linux."""
_TOO_SLOW = "timed out during startup"


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
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"RAY_ADDRESS={text}: write host:port, for example 127.0.0.1:6379")
    return text


def join(address: str) -> Any:
    """Join the cluster at ``host:port``.

    Raises
    ------
    UserError
        Nobody answers there, or one that does not let this process in.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({one_line(error)}): start it, correct "
            "RAY_ADDRESS or --address, or leave both out to start a local cluster"
        ) from None
    _use_a_token_that_is_there()
    said = ""
    try:
        with _stderr_kept() as kept:
            try:
                return ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            finally:
                said = kept()
    except Exception as error:
        ray.shutdown()
        text = f"{error} {said}"
        if "InvalidAuthToken" in text or "uthentication" in text:
            raise UserError(
                f"the Ray cluster at {address} asks for a token that this process does not have: "
                "put the cluster's token in ~/.ray/auth_token, or its path in RAY_AUTH_TOKEN_PATH, "
                "and set RAY_AUTH_MODE=token"
            ) from None
        if "mismatch" in text:
            raise UserError(
                f"the Ray cluster at {address} runs another version: {one_line(error)}; use the "
                "same versions of Ray and Python in both"
            ) from None
        raise UserError(
            f"what answers at {address} is no Ray cluster that can be joined: {last_line(error)}"
        ) from None


def start_local(cpus: int) -> Any:
    """Start a cluster of this process's own; tried twice where the machine is too slow.

    Raises
    ------
    UserError
        There is no place for its files.
    JobFailed
        It does not start.
    """
    _make_a_token_if_there_is_none()
    place = _place_of_sockets()
    for attempt in range(2):
        before = set(interrupts.descendants(os.getpid()))
        try:
            with _stderr_kept() as kept:
                return ray.init(
                    address="local",
                    num_cpus=cpus,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                    _temp_dir=place,
                )
        except Exception as error:
            ray.shutdown()
            interrupts.end(set(interrupts.descendants(os.getpid())) - before)
            slow = _TOO_SLOW in f"{error} {kept()}"
            if slow and attempt == 0:
                say("the local Ray cluster took too long to start (a busy machine?); once more")
                continue
            why = "the machine is too busy; try again later" if slow else last_line(error)
            raise JobFailed(f"cannot start a local Ray cluster: {why}") from None
    raise AssertionError


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
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"\0" * 4096)
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


def _use_a_token_that_is_there() -> None:
    """Send a token where this process has one: a cluster that asks for none takes it as well."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given or os.access(os.path.expanduser("~/.ray/auth_token"), os.R_OK):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _make_a_token_if_there_is_none() -> None:
    """Make a token for a local cluster where Ray could not leave one in the home folder."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    folder = Path(os.path.expanduser("~/.ray"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder / "auth_token", os.R_OK) or os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # goes to the cluster's processes


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
