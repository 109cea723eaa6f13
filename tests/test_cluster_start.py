"""Which cluster a job joins, and each way in which none can be had: one line, soon."""

from __future__ import annotations

import os
import re
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enecg import ray_start
from enecg.errors import UserError

CONNECT = "from enecg.cluster import connect; import ray; connect(); {then}"
JOB = (
    "from enecg.errors import exit_code_of; import sys\n"
    "def job():\n    {code}\n"
    "sys.exit(exit_code_of(job))"
)


def started(
    then: str = "print(ray.get_runtime_context().gcs_address)", **environment: str
) -> tuple[int, str, str, float]:
    """Connect in a process of its own, as a job does; its exit code, what it said, its seconds."""
    around = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", JOB.format(code=CONNECT.format(then=then))],
        env=around | environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr, time.monotonic() - start


@pytest.fixture
def listening() -> Iterator[int]:
    """The port of something that listens and is no Ray cluster."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://127.0.0.1:10001", "Ray Client cannot run training jobs"),
        ("http://127.0.0.1:8265", "dashboard's address"),
        ("127.0.0.1", "write host:port"),
        (":6379", "write host:port"),
        ("host:port", "write host:port"),
        ("host:99999", "write host:port"),
        ("host:0", "write host:port"),
    ],
)
def test_what_is_no_address_is_told(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=told):
        ray_start.named_address()


@pytest.mark.parametrize("address", ["", "local", None])
def test_no_address_means_a_cluster_of_its_own(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_start.named_address() is None


def test_a_dead_address_is_one_line_within_seconds() -> None:
    code, _, said, seconds = started(RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert code == 2 and len(said.splitlines()) == 1
    assert "no Ray cluster answers at 127.0.0.1" in said and "--address" in said
    assert seconds < 30


def test_something_else_at_the_address_is_one_line(listening: int) -> None:
    code, _, said, seconds = started(RAY_ADDRESS=f"127.0.0.1:{listening}")
    assert code == 2 and len(said.splitlines()) == 1, said
    assert "is no Ray cluster that can be joined" in said
    assert seconds < 60  # Ray's client alone takes 20 s to give up; this machine may be busy


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster with a token of its own; see test_cluster_join.py for who may join it."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text("t" * 64)
    code = (
        "import ray, sys, time; from enecg.ray_core import quieten\n"
        "ray.init(address='local', num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    around = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    running = subprocess.Popen(
        [sys.executable, "-c", code],
        env=around | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    yield running.stdout.readline().strip()
    running.communicate(input="")


def test_two_jobs_at_once_have_clusters_of_their_own(head: str, tmp_path: Path) -> None:
    """Each has a home of its own; a cluster of somebody else runs on this machine, too."""
    found: list[tuple[int, str, str, float]] = []

    def start(home: str) -> None:
        (tmp_path / home).mkdir()
        found.append(started(HOME=str(tmp_path / home)))

    jobs = [threading.Thread(target=start, args=[home]) for home in ("one", "other")]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    addresses = {said.strip() for _, said, _, _ in found}
    assert [code for code, *_ in found] == [0, 0], found
    assert len(addresses) == 2 and head not in addresses
    assert all("of its own, token authentication on" in progress for _, _, progress, _ in found)


LISTENING = (
    "import psutil, os; me = psutil.Process()\n"
    "    for one in [me, *me.children(recursive=True)]:\n"
    "        for c in one.net_connections():\n"
    "            if c.status == 'LISTEN': print(one.name(), c.laddr.ip, c.laddr.port)\n"
    "    sys.stdout.flush(); sys.stdin.read()"
)


def test_without_the_token_a_local_cluster_answers_nothing(tmp_path: Path) -> None:
    """Others on this machine reach loopback, too; that nobody else does: test_cluster_join.py."""
    pytest.importorskip("psutil")
    around = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    code = JOB.format(code=CONNECT.format(then=LISTENING))
    with subprocess.Popen(
        [sys.executable, "-c", code], env=around | {"HOME": str(tmp_path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None and running.stdin is not None
        ports: dict[int, str] = {}
        for line in running.stdout:
            name, ip, port = line.split()
            ports[int(port)] = f"{name} {ip}"
            if name.startswith("gcs_server"):
                gcs = int(port)
            if len(ports) >= 6:
                break
        refused = subprocess.run(
            [sys.executable, "-c", (
                "from ray._raylet import GcsClient\n"
                f"client = GcsClient(address='127.0.0.1:{gcs}')\n"
                "print(client.internal_kv_keys(b'', namespace=None, timeout=5))"
            )],
            env=around | {"HOME": str(tmp_path / "nobody")},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert refused.returncode != 0 and "Unauthenticated" in refused.stderr, refused
        for port, what in ports.items():
            answer = _http(port)
            assert not re.match(rb"HTTP/1.1 200", answer) or what.endswith("127.0.0.1"), what
        running.stdin.close()


def _http(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /api/nodes HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(200)
    except OSError:
        return b""


def test_too_long_a_temporary_folder_gives_way_to_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / ("x" * 100)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    assert ray_start._place_of_sockets() == "/tmp/ray"
    assert "too long for the paths of sockets" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray_start._place_of_sockets() is None


def test_no_place_for_rays_files_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "below"))
    real = Path.mkdir

    def mkdir(self: Path, *arguments: object, **named: object) -> None:
        if str(self) == "/tmp":
            raise PermissionError(13, "Permission denied", "/tmp")
        real(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(UserError, match=r"no place for Ray's files.*RAY_TMPDIR"):
        ray_start._place_of_sockets()


def test_a_slow_start_is_tried_once_more_and_then_told_in_one_line() -> None:
    slow = (
        "import ray; calls = []\n"
        "    def init(**_):\n"
        "        calls.append(1)\n"
        "        raise Exception('The current node timed out during startup. This could happen')\n"
        "    ray.init = init\n    from enecg.cluster import connect\n"
        "    try: connect()\n    finally: print(len(calls))"
    )
    done = subprocess.run(
        [sys.executable, "-c", JOB.format(code=slow)],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (1, "2")
    again, told = done.stderr.splitlines()
    assert "once more" in again
    assert told == (
        "failed: cannot start a local Ray cluster: the machine is too busy; try again later"
    )


def test_an_unusable_home_has_a_token_all_the_same() -> None:
    code, _, said, _ = started(HOME="/dev/null/x")
    assert code == 0, said
    assert "token authentication on" in said
