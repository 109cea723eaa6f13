"""Tiny runs of the whole pipeline, for the tests that need one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RHYTHMS = {"rhythms": {"kind": "multilabel", "classes": ["AFIB", "SR"], "column": "report_label"}}
REPOSITORY = Path(__file__).resolve().parent.parent


def settings(store: Path, run_dir: Path, **changes: Any) -> dict[str, Any]:
    """The settings of a run that takes seconds."""
    return {
        "records": str(store),
        "run_dir": str(run_dir),
        "tasks": ["rr_interval", {"gender": {}}, RHYTHMS],
        "folds": 2,
        "inner_folds": 2,
        "experts": {
            "rocket": {"kernels": 40},
            "dlinear": {"adaptation": "full", "kernel": 25, "pred_len": 2},
        },
        "stage1": {"epochs": 3, "batch_size": 32},
        "gate": {"trials": 3, "space": str(REPOSITORY / "tune_spaces/gate.yaml")},
        "ensemble": {"size": 3},
    } | changes


def write_config(folder: Path, values: dict[str, Any]) -> Path:
    """Write settings as a config file (JSON is YAML)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return path


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    """Results, but for what may differ between two runs of the same command."""
    changing = ("started", "seconds", "peak_memory_mb")
    kept = {key: value for key, value in results.items() if key not in changing}
    kept["config"] = {k: v for k, v in results["config"].items() if k != "run_dir"}
    return kept


def job(*arguments: str) -> subprocess.Popen[str]:
    """Start a job in a process of its own, with a cluster of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
