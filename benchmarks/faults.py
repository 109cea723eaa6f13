"""Faults injected for real into stage 1 on a small cluster of two machines on one: the table.

    python benchmarks/faults.py [FAULT …]

Each fault strikes a training (or an embedding) at its first checkpoint (or call). It counts as
mended when the backbone is called again by a process that was not there before, or when the job has
ended with its one line. What is left is compared with a run that nothing struck.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

REPOSITORY = Path(__file__).resolve().parent.parent
SITE = REPOSITORY / "tests" / "extra_experts_site"
if str(SITE) not in os.environ.get("PYTHONPATH", ""):  # here, and in every worker
    paths = [str(SITE), str(REPOSITORY), str(REPOSITORY / "tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.execv(sys.executable, [sys.executable, *sys.argv])

from enecg.cluster import connect  # noqa: E402
from enecg.config import parse_config  # noqa: E402
from enecg.errors import JobFailed, UserError  # noqa: E402
from enecg.experiment import open_experiment  # noqa: E402
from enecg.records.convert import convert  # noqa: E402
from enecg.records.synthetic import write_synthetic_cohort  # noqa: E402
from enecg.stage1.adapted import load_outputs  # noqa: E402
from enecg.stage1.jobs import train_experts  # noqa: E402


@dataclass
class Run:
    """One run that a fault strikes."""

    folder: Path
    store: Path
    adaptation: str = "full"
    settings: dict[str, Any] = field(default_factory=dict)
    struck: float = 0.0
    mended: float = 0.0
    said: str = ""
    before: set[int] = field(default_factory=set)
    kept: np.ndarray | None = None

    def prepare(self, slow: float) -> None:
        self.folder.mkdir(parents=True)
        if slow:
            (self.folder / "slow").write_text(str(slow))

    def processes(self) -> list[int]:
        """Processes that called the backbone, in order; this one left out."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        found = dict.fromkeys(int(line.split()[1]) for line in lines)
        return [process for process in found if process != os.getpid()]

    @property
    def train_folder(self) -> Path:
        return self.folder / "run" / "experts" / "probe" / "train"

    def config(self) -> dict[str, Any]:
        return {
            "records": str(self.store), "run_dir": str(self.folder / "run"), "tasks": ["gender"],
            "features": str(self.folder / "features"), "folds": 2, "inner_folds": 2,
            "experts": {"probe": {"adaptation": self.adaptation, "hooks": str(self.folder)}},
            "stage1": {"epochs": 4, "batch_size": 32, "heads": ["ridge"],
                       "checkpoint_seconds": 0} | self.settings,
        }  # fmt: skip

    def train(self) -> None:
        try:
            train_experts(open_experiment(parse_config(self.config())))
        except (JobFailed, UserError) as error:
            self.said = str(error)

    def outputs(self) -> np.ndarray | None:
        path = self.folder / "run" / "experts" / "probe" / "outputs.safetensors"
        return load_outputs(path)["gender"] if path.exists() else self.kept


def compared(found: np.ndarray | None, known: np.ndarray | None) -> str:
    """How the outputs of a struck run differ from those of a calm one."""
    if found is None or known is None:
        return "no outputs"
    if np.array_equal(found, known):
        return "the same outputs, bit for bit"
    return "the same outputs to 1e-4" if np.allclose(found, known, atol=1e-4) else "OTHER OUTPUTS"


def strike(
    run: Run,
    ready: Callable[[], bool],
    blow: Callable[[], None],
    relief: Callable[[], Any] | None = None,
) -> None:
    """Train, strike once when ready, bring relief 5 s later, and note when it has mended."""
    running = threading.Thread(target=run.train, daemon=True)
    running.start()
    while running.is_alive():
        if not run.struck:
            try:
                if ready():
                    run.before, now = set(run.processes()), time.monotonic()
                    blow()
                    run.struck = now
            except FileNotFoundError:  # Ray removes old checkpoints meanwhile
                pass
        if run.struck and (run.folder / "slow").exists():
            (run.folder / "slow").unlink(missing_ok=True)
        if run.struck and relief is not None and time.monotonic() - run.struck >= 5:
            relief()
            relief = None
        if run.struck and not run.mended and set(run.processes()) - run.before:
            run.mended = time.monotonic()
        time.sleep(0.02)
    run.mended = run.mended or time.monotonic()


def at_a_checkpoint(run: Run) -> bool:
    return any(run.train_folder.glob("checkpoint_*/manifest-0.json"))


def kill_last(run: Run) -> None:
    alive = [process for process in run.processes() if Path(f"/proc/{process}").exists()]
    os.kill(alive[-1], signal.SIGKILL)


def train_worker(run: Run, cluster: Cluster) -> None:
    run.prepare(0.3)
    strike(run, lambda: at_a_checkpoint(run), lambda: kill_last(run))


def data_actor(run: Run, cluster: Cluster) -> None:
    run.adaptation = "head"
    run.prepare(3)
    strike(run, lambda: bool(run.processes()), lambda: kill_last(run))


def driver(run: Run, cluster: Cluster) -> None:
    run.prepare(0.3)
    path = run.folder / "config.yaml"
    path.write_text(json.dumps(run.config()))

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "ray_jobs/train_experts.py", "--config", path]
        return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)

    struck = start()
    while not at_a_checkpoint(run):
        time.sleep(0.02)
    run.before, run.struck = set(run.processes()), time.monotonic()
    struck.kill()
    struck.wait()
    (run.folder / "slow").unlink()
    again = start()
    while again.poll() is None and not set(run.processes()) - run.before - {again.pid}:
        time.sleep(0.02)
    run.mended = time.monotonic()
    again.wait()


def raylet(run: Run, cluster: Cluster) -> None:
    run.settings = {"workers": 2, "placement": "strict_spread"}
    run.prepare(0.3)
    doomed = cluster.add_node(num_cpus=2)
    while len([n for n in ray.nodes() if n["Alive"]]) < 2:
        time.sleep(0.2)

    strike(
        run,
        lambda: at_a_checkpoint(run),
        lambda: cluster.remove_node(doomed, allow_graceful=False),
        lambda: cluster.add_node(num_cpus=2),
    )


def damaged_checkpoint(run: Run, cluster: Cluster) -> None:
    run.prepare(0.3)

    def states() -> list[Path]:
        return sorted(run.train_folder.glob("checkpoint_*/finished.pt"))

    def blow() -> None:
        newest = states()[-1]
        os.truncate(newest, newest.stat().st_size - 1)
        kill_last(run)

    def twice() -> bool:
        return len(states()) > 1

    strike(run, twice, blow)


def out_of_memory(run: Run, cluster: Cluster) -> None:
    run.settings = {"epochs": 2}
    run.prepare(0)
    (run.folder / "memory").write_text("16")
    strike(run, lambda: bool(run.processes()), lambda: None)


def _on_a_full_disk(run: Run, folder: Path, free: int) -> None:
    """Train with a folder on a disk that has some bytes left; then with room on it."""
    run.prepare(0)
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        (folder / "filler").write_bytes(bytes(2**20 - free))
        strike(run, lambda: True, lambda: None)
        said = run.said
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        run.train()
        run.said, run.kept = said, run.outputs()
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def full_disk(run: Run, cluster: Cluster) -> None:
    run.adaptation = "head"
    _on_a_full_disk(run, run.folder / "features", 4096)


def full_disk_of_checkpoints(run: Run, cluster: Cluster) -> None:
    _on_a_full_disk(run, run.folder / "run", 100_000)


def corrupt_shard(run: Run, cluster: Cluster) -> None:
    run.adaptation = "head"
    run.prepare(0)
    shutil.copytree(run.store, run.folder / "store")
    run.store = run.folder / "store"
    shard = next(run.store.glob("shard-*.parquet"))
    content = shard.read_bytes()
    shard.write_bytes(content[:1000] + bytes(2000) + content[3000:])
    strike(run, lambda: True, lambda: None)
    shard.write_bytes(content)
    run.train()


def nan_loss(run: Run, cluster: Cluster) -> None:
    run.settings = {"learning_rate": 1e30}
    run.prepare(0)
    strike(run, lambda: bool(run.processes()), lambda: None)


FAULTS: dict[str, Callable[[Run, Cluster], None]] = {
    "train worker, kill -9": train_worker,
    "the same, newest checkpoint truncated": damaged_checkpoint,
    "data actor, kill -9": data_actor,
    "raylet, kill -9; another joins 5 s later": raylet,
    "driver, kill -9; the same command at once": driver,
    "device out of memory (simulated)": out_of_memory,
    "disk full while features are written": full_disk,
    "disk full while a checkpoint is written": full_disk_of_checkpoints,
    "corrupt shard": corrupt_shard,
    "NaN loss": nan_loss,
}


def main() -> None:
    """Strike with every fault, or those whose names begin like an argument; print the table."""
    wanted = [n for n in FAULTS if not sys.argv[1:] or any(n.startswith(a) for a in sys.argv[1:])]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 4, "include_dashboard": False, "object_store_memory": 10**9},
    )
    os.environ["RAY_ADDRESS"] = cluster.address
    connect()
    with tempfile.TemporaryDirectory(prefix="enecg-faults-") as temporary:
        folder = Path(temporary)
        labels = write_synthetic_cohort(folder / "wfdb", n_records=48, seed=3)
        store = convert("wfdb", folder / "wfdb", folder / "store", labels).path
        known: dict[str, np.ndarray | None] = {}
        print("| fault | time to recovery or error | how it ended |\n|---|---|---|")
        for number, name in enumerate(wanted):
            run = Run(folder / str(number), store)
            FAULTS[name](run, cluster)
            key = f"{run.adaptation} {run.settings}"
            if key not in known and not name.startswith(("NaN",)):
                calm = Run(folder / f"{number}-calm", store, run.adaptation, run.settings)
                calm.prepare(0)
                calm.train()
                known[key] = calm.outputs()
            seconds = f"{run.mended - run.struck:.1f} s"
            same = compared(run.outputs(), known.get(key))
            ended = same if not run.said else f"“{run.said}”"
            if run.said and run.outputs() is not None:
                ended += f"; put right and run again: {same}"
            print(f"| {name} | {seconds} | {ended} |", flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
