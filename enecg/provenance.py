"""Where and from what a result came: commit, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import ray


def commit() -> str | None:
    """Return the git commit this code is checked out at, or None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def hardware() -> dict[str, str | int | float]:
    """Describe this machine, and the cluster's GPUs."""
    found: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "nodes": len([node for node in ray.nodes() if node["Alive"]]),
    }
    if gpus := int(ray.cluster_resources().get("GPU", 0)):
        kinds = [
            key.split(":", 1)[1] for key in ray.cluster_resources() if "accelerator_type" in key
        ]
        found["gpus"] = f"{gpus} × {', '.join(kinds) or 'unknown'}"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
