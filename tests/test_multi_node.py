"""Several machines, as several raylets on this one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from enecg.cluster import check_shared
from enecg.errors import UserError
from enecg.stage1.plan import cluster_nodes


@pytest.fixture
def second_machine(ray_cluster: None, tmp_path: Path) -> Iterator[Path]:
    """A raylet to which one folder, returned, is another disk than to everybody else."""
    own = tmp_path / "own"
    own.mkdir()
    command = Path(sys.executable).parent / "ray"
    address = ray.get_runtime_context().gcs_address
    running = subprocess.Popen(
        [
            "unshare", "--map-root-user", "--mount", "sh", "-c",
            f"mount -t tmpfs tmpfs {own} && exec {command} start --address={address} "
            "--num-cpus=1 --object-store-memory=100000000 --block",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(cluster_nodes()) < 2:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield own
    running.terminate()
    running.wait(60)
    while len(cluster_nodes()) > 1:
        time.sleep(0.2)


def test_storage_that_is_not_shared_is_refused_by_name(
    second_machine: Path, tmp_path: Path
) -> None:
    check_shared(tmp_path / "shared", tmp_path / "too")
    with pytest.raises(UserError, match=rf"{second_machine} is not shared: machine .* does not"):
        check_shared(tmp_path / "shared", second_machine)
    left = [path for folder in (tmp_path / "shared", second_machine) for path in folder.iterdir()]
    assert left == []
