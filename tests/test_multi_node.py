"""Several machines, as several raylets on this one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from enecg.cluster import check_shared
from enecg.errors import UserError
from enecg.records import RecordStore
from enecg.stage1.jobs import expert_folder
from enecg.stage1.plan import cluster_nodes
from struck import disturbed, experiment_in, outputs_of


def start_raylet(cpus: int, *within: str) -> subprocess.Popen[str]:
    """Let one more raylet join the tests' cluster; ``within`` is a command that runs the rest."""
    address = ray.get_runtime_context().gcs_address
    command = [
        str(Path(sys.executable).parent / "ray"), "start", f"--address={address}",
        f"--num-cpus={cpus}", "--object-store-memory=100000000", "--block",
    ]  # fmt: skip
    before = len(cluster_nodes())
    running = subprocess.Popen(
        [*within, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 120
    while len(cluster_nodes()) == before:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return running


def stop_raylet(running: subprocess.Popen[str]) -> None:
    before = len(cluster_nodes())
    running.terminate()
    running.wait(60)
    while len(cluster_nodes()) == before:
        time.sleep(0.2)


@pytest.fixture
def second_machine(ray_cluster: None, tmp_path: Path) -> Iterator[Path]:
    """A raylet to which one folder, returned, is another disk than to everybody else."""
    own = tmp_path / "own"
    own.mkdir()
    mount = f'mount -t tmpfs tmpfs {own} && exec "$@"'
    running = start_raylet(1, "unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    yield own
    stop_raylet(running)


def test_storage_that_is_not_shared_is_refused_by_name(
    second_machine: Path, tmp_path: Path
) -> None:
    check_shared(tmp_path / "shared", tmp_path / "too")
    with pytest.raises(UserError, match=rf"{second_machine} is not shared: machine .* does not"):
        check_shared(tmp_path / "shared", second_machine)
    left = [path for folder in (tmp_path / "shared", second_machine) for path in folder.iterdir()]
    assert left == []


def test_a_machine_is_lost_and_another_joins(
    synthetic_store: RecordStore,
    calm_outputs: np.ndarray,
    extra_experts: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two workers, each on a machine of its own, of which one is killed."""
    folder = tmp_path / "disturbed"
    first = start_raylet(1)
    experiment = experiment_in(
        folder, synthetic_store, "full", workers=2, placement="strict_spread"
    )
    (folder / "slow").write_text("0.2")
    train = expert_folder(experiment.config, "probe") / "train"
    joined: list[subprocess.Popen[str]] = []

    def inject() -> bool:
        if not any(train.glob("checkpoint_*/manifest-0.json")):
            return False
        (folder / "slow").unlink()
        [raylet] = [p for p in psutil.Process(first.pid).children() if p.name() == "raylet"]
        raylet.kill()
        while len(cluster_nodes()) > 1:
            time.sleep(0.2)
        joined.append(start_raylet(1))
        return True

    disturbed(experiment, inject)
    np.testing.assert_array_equal(outputs_of(experiment), calm_outputs)
    said = " ".join(capsys.readouterr().err.split())
    assert "waits for a machine to join; it needs 3 CPUs and 0 GPUs on 2 machines" in said
    assert "there is room again" in said
    stop_raylet(joined[0])
