"""Joining the Ray cluster a job runs in, or starting a local one."""

from __future__ import annotations

import logging
import os
import resource
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from enecg import interrupts
from enecg.errors import UserError
from enecg.progress import say
from enecg.ray_core import quieten
from enecg.ray_start import join, named_address, start_local
from enecg.ray_token import has_token


def connect() -> None:
    """Join the cluster this process stands in, or start a local one; nothing if already joined.

    A cluster is joined where ``RAY_ADDRESS`` names one (``ray job submit`` and ``--address`` set
    it), and nowhere else: whatever else runs on this machine is left alone. A local one gets at
    least four logical CPUs: Ray Data inside a Ray Train job starves where the train workers hold
    every CPU. It listens on loopback only, and Ray's token authentication is on.

    Raises
    ------
    UserError, JobFailed
        The cluster cannot be joined, or none be started: see `enecg.ray_start`.
    """
    if ray.is_initialized():
        return
    # Ray tells at every start that token authentication is on; `say` below does so, too.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Training jobs are listed by the dashboard's HTTP API.
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    # A search interrupted ends with this process, see `enecg.interrupts`.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # Ray warns at every start that a later version will change this default, …
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # … whenever a few workers start at once, …
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    # … and Tune advertises a log folder that is not where the trials' logs end up.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    address = named_address()
    if address is not None:
        join(address)
        say(f"joined the Ray cluster at {ray.get_runtime_context().gcs_address}")
    else:
        # A process per job that looks out for a node being taken away: here there is only this one.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        context = start_local(local_cpus())
        shown = f"; dashboard: http://{context.dashboard_url}" if context.dashboard_url else ""
        on = "on" if has_token() else "off (RAY_AUTH_MODE)"
        say(f"started a local Ray cluster of its own, token authentication {on}{shown}")
    interrupts.take_back()  # Ray has handlers of its own
    quieten()
    # Ray Data advises on how to split files whenever there are few of them.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data")
    progress = ray.data.DataContext.get_current()
    progress.enable_progress_bars = False  # our own progress says more, in fewer lines
    for noisy in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def local_cpus() -> int:
    """Return how many CPUs a local cluster counts: those of the machine, and at least four."""
    return max(4, os.cpu_count() or 1)


def is_named() -> bool:
    """Whether a cluster to join is named; else a local one is started."""
    return named_address() is not None


def read_parquet(
    paths: list[str], columns: Sequence[str] | None = None, filesystem: Any = None
) -> ray.data.Dataset:
    """Return Parquet files as a Ray Dataset.

    By the older of Ray's two readers: the newer one starts 32 actors, each a process of its own,
    whenever a dataset is read, to look at the files' footers. A folder called ``record_id=7`` is
    a folder, not a column.
    """
    ray.data.DataContext.get_current().use_datasource_v2 = False
    wanted = None if columns is None else list(columns)
    return ray.data.read_parquet(
        paths,
        columns=wanted,
        filesystem=filesystem,
        partitioning=None,
        file_extensions=None,  # Ray takes what follows a "?" in a path for no part of the name
    )


def dashboard_address() -> str | None:
    """Return the address of this cluster's dashboard; None where it has none."""
    address: str = ray._private.worker.get_dashboard_url()
    return f"http://{address}" if address else None


def check_shared(*folders: Path) -> None:
    """Refuse folders that not every machine of the cluster sees as this process does.

    Each folder gets a file with a name of its own for a moment, which a task on every other
    machine looks for. A folder that cannot be written to (a record store may be read-only) needs
    only be there.

    Raises
    ------
    UserError
        Names the machine and the folder.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] != here]
    if not others:
        return
    marks: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            mark = folder.absolute() / f".shared-{uuid.uuid4().hex}"
            try:
                mark.touch()
            except OSError:
                mark = folder.absolute()
            marks.append(mark)
        look = ray.remote(num_cpus=0)(_unseen)
        for node in others:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            if unseen := ray.get(look.options(scheduling_strategy=strategy).remote(marks)):
                folder = folders[marks.index(unseen[0])]
                raise UserError(
                    f"{folder} is not shared: machine {node['NodeManagerAddress']} "
                    f"({node['NodeManagerHostname']}) does not see what this one writes there; "
                    "put records, features and run_dir on storage that every machine has mounted"
                )
    finally:
        for mark in marks:
            if mark.is_file():
                mark.unlink()


def _unseen(paths: list[Path]) -> list[Path]:
    """Those of some paths that are not there."""
    return [path for path in paths if not path.exists()]


def peak_memory_mb() -> float:
    """Return the largest resident memory this process has had, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
