"""A cluster that is named is joined, or one line says why not; a job's own listens on loopback."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enecg.errors import UserError
from enecg.ray_probe import check_cluster
from enecg.ray_token import provide_token

JOB = """
from enecg import interrupts; interrupts.install()
from enecg.errors import exit_code_of
import ray, sys, time
def job():
    from enecg.cluster import connect
    {before}
    connect()
    {then}
sys.exit(exit_code_of(job))
"""
HEAD = """
import ray, sys
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()
"""
PING = "print(ray.get(ray.remote(lambda: 'pong').remote()))"


def around(home: Path, **variables: str) -> dict[str, str]:
    """An environment without anything of Ray's, but for some variables."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return mine | {"HOME": str(home)} | variables


def start(environment: dict[str, str], then: str, before: str = "pass") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOB.format(before=before, then=then)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, told = job.communicate(timeout=240)
    return job.returncode, said, told


def refused(environment: dict[str, str], before: str = "pass") -> str:
    """The line of a job that cannot join."""
    code, _, told = ended(start(environment, PING, before))
    assert code == 2 and len(told.splitlines()) == 1, told
    return told


@pytest.fixture(scope="module", params=["token", "disabled"])
def head(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, Path]]:
    """A cluster of somebody else's: its mode, its address, and a file with its token."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text("t" * 64)
    running = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=around(folder, RAY_AUTH_MODE=request.param, RAY_AUTH_TOKEN_PATH=str(token)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    yield request.param, running.stdout.readline().strip(), token
    running.communicate(input="")


def test_who_may_join(head: tuple[str, str, Path], tmp_path: Path) -> None:
    mode, address, token = head
    given = {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": str(token)}
    code, said, told = ended(start(around(tmp_path, **given), PING))
    assert (code, said) == (0, "pong\n"), told
    assert told == f"joined the Ray cluster at {address}\n"
    if mode == "disabled":
        given = {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        assert "leave RAY_AUTH_MODE out" in refused(around(tmp_path, **given))
        return
    for wrong in (
        {},
        {"RAY_AUTH_TOKEN": "another"},
        {"RAY_AUTH_TOKEN_PATH": "/nowhere"},
        {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "disabled"},
    ):
        line = refused(around(tmp_path, RAY_ADDRESS=address, **wrong))
        assert "asks for a token that this process does not have" in line
        assert "~/.ray/auth_token" in line and "RAY_AUTH_MODE=token" in line
    versions = {"ray.__version__ = '2.59.0'": "here it is Ray 2.59.0"}
    elsewhere = {"import enecg.ray_probe as p; p.find_node_ids = set": "no node on this machine"}
    for before, words in (versions | elsewhere).items():
        given = {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN_PATH": str(token)}
        assert words in refused(around(tmp_path, **given), before)


def test_a_signal_ends_the_jobs_work_and_leaves_the_cluster(
    head: tuple[str, str, Path], tmp_path: Path
) -> None:
    _, address, token = head
    given = around(tmp_path, RAY_ADDRESS=address, RAY_AUTH_TOKEN_PATH=str(token))
    mark = tmp_path / "mark"
    task = (
        "def work():\n        import os, time\n"
        f"        open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)\n"
        "    ray.get(ray.remote(work).remote())"
    )
    job = start(given, task)
    while not (mark.exists() and (worker := mark.read_text())):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    code, _, told = ended(job)
    assert code == 143 and told.splitlines()[1].startswith("interrupted (SIGTERM): "), told
    end = time.monotonic() + 30
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < end, "its task still runs"
        time.sleep(0.1)
    assert ended(start(given, PING))[1] == "pong\n"


def test_something_that_never_answers_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=r"is no Ray cluster that can be joined \(deadline"):
            check_cluster(f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-machine.invalid", "[::1]"])
def test_nobody_there_is_one_line(host: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match=r"no Ray cluster answers at .*--address"):
        check_cluster(f"{host}:{port}")


LISTENING = (
    "import psutil; me = psutil.Process()\n"
    "    print({(c.laddr.ip, p.name()) for p in [me, *me.children(recursive=True)]\n"
    "           for c in p.net_connections('inet') if c.status == 'LISTEN'})"
)


def test_a_jobs_own_cluster_listens_on_loopback_only(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    code, said, told = ended(start(around(tmp_path), f"{PING}; {LISTENING}"))
    assert code == 0, told
    pong, listening = said.splitlines()
    assert pong == "pong"
    found: set[tuple[str, str]] = eval(listening)
    assert {"gcs_server", "raylet"} <= {name for _, name in found}
    assert {ip.removeprefix("::ffff:") for ip, _ in found} == {"127.0.0.1"}
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) == 64
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize("port", ["taken", "no port"])
def test_a_port_that_cannot_be_had_is_one_line(port: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        given = str(other.getsockname()[1]) if port == "taken" else port
        line = refused(around(tmp_path, RAY_GCS_SERVER_PORT=given))
    assert f"RAY_GCS_SERVER_PORT={given}" in line and "leave the variable out" in line


def test_a_token_is_made_once_however_many_jobs_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file, seen, together = tmp_path / ".ray" / "auth_token", set(), threading.Barrier(8)

    def begin(_: int) -> None:
        together.wait()
        provide_token()
        seen.add(file.read_text())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(8)))
    assert len(seen) == 1 and len(seen.pop()) == 64
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert [one.name for one in file.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("token", ["a folder", "empty", "no text", "not to be made"])
def test_a_token_that_cannot_be_used_gives_way_to_one_of_the_jobs_own(
    token: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".ray" / "auth_token"
    if token == "not to be made":
        file.parent.write_text("a file")
    else:
        file.parent.mkdir()
    if token == "a folder":
        file.mkdir()
    elif token == "empty":
        file.touch()
    elif token == "no text":
        file.write_bytes(b"\xff\xfe\xff")
    provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert "the cluster has a token of its own" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_TOKEN_PATH", "/nowhere/token"), ("RAY_AUTH_MODE", "on")]
)
def test_variables_that_name_no_token_are_told(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}={value}"):
        provide_token()
