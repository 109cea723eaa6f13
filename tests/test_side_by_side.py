"""Experts that train side by side on a cluster that they fill."""

from __future__ import annotations

from pathlib import Path

import pytest

from enecg.config import parse_config
from enecg.experiment import open_experiment
from enecg.records import RecordStore
from enecg.stage1.adapted import load_outputs
from enecg.stage1.jobs import expert_folder, train_experts
from runs import settings


@pytest.mark.usefixtures("ray_cluster")
def test_backbones_prepared_by_cpu_workers_do_not_wait_for_each_other(
    synthetic_store: RecordStore, tmp_path: Path
) -> None:
    """Three hold three of four CPUs; the fourth has to read and prepare for all of them."""
    net = {"expert": "beat-net", "adaptation": "full", "channels": 2}
    config = parse_config(
        settings(
            synthetic_store.path,
            tmp_path / "run",
            tasks=["gender"],
            experts={"one": net, "two": net | {"seed": 1}, "three": net},
            stage1={"epochs": 1},
        )
    )
    train_experts(open_experiment(config))
    one, two, three = (
        load_outputs(expert_folder(config, name) / "outputs.safetensors")["gender"]
        for name in ("one", "two", "three")
    )
    assert one.tobytes() == three.tobytes() != two.tobytes()
