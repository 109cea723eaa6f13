"""``--plan``: what stage 1 would do, told without starting anything."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from rich.console import Console

from enecg.config import parse_config
from enecg.experiment import open_experiment
from enecg.records import RecordStore
from enecg.stage1 import plan
from enecg.stage1.jobs import plan_experts
from runs import REPOSITORY, settings, write_config

PLAN_AND_LOOK_ROUND = """
import json, os, runpy, sys
sys.argv = [sys.argv[1], "--config", sys.argv[2], "--plan"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    import psutil, ray
    left = [child.name() for child in psutil.Process().children(recursive=True)]
    print(json.dumps([ended.code, ray.is_initialized(), left]), file=sys.stderr)
"""


@pytest.mark.parametrize("job", ["pipeline.py", "train_experts.py"])
def test_a_plan_starts_no_ray_and_makes_no_folder(
    job: str, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    config = write_config(tmp_path, settings(synthetic_store.path, tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-c", PLAN_AND_LOOK_ROUND, str(REPOSITORY / "ray_jobs" / job), config],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )  # fmt: skip
    assert json.loads(done.stderr.splitlines()[-1]) == [0, False, []], done.stderr
    assert "rocket" in done.stdout and "dlinear" in done.stdout and "at once" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_it_is_the_plan_of_a_local_cluster(
    synthetic_store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two experts with two workers each, one waits; both plans say so."""
    values = settings(synthetic_store.path, tmp_path / "run") | {"stage1": {"workers": 2}}
    experiment = open_experiment(parse_config(values))
    monkeypatch.setattr(plan, "cost_of", lambda _: plan.Cost(0.01, 0.01, 100))  # else measured

    def drawn() -> str:
        console = Console(width=140, file=io.StringIO())
        console.print(plan_experts(experiment)[1])
        written = console.file
        assert isinstance(written, io.StringIO)
        return written.getvalue()

    in_cluster = drawn()
    assert "when there is room" in in_cluster
    monkeypatch.setattr(os, "cpu_count", lambda: int(ray.cluster_resources()["CPU"]))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert drawn() == in_cluster
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert "when there is room" not in drawn()


def test_what_repeats_cost_is_told_below_the_table(
    synthetic_store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads on the same features, or all trained anew; a backbone is measured once."""
    features = str(tmp_path / "features")  # other tests may have filled the usual ones
    values = settings(synthetic_store.path, tmp_path / "run", features=features)
    measured = []
    cost = plan.Cost(0.01, 0.01, 100)
    monkeypatch.setattr(plan, "cost_of", lambda expert: measured.append(expert.name) or cost)
    console = Console(width=100, file=io.StringIO())
    for repeats in (1, 4):
        experiment = open_experiment(parse_config(values | {"repeats": repeats}))
        todo, table = plan_experts(experiment)
        assert len(todo) == 2 * repeats
        assert [work.experiment.repeat for work in todo] == sorted([*range(1, repeats + 1)] * 2)
        assert sum(work.job.to_embed > 0 for work in todo) == 1, "features serve all repeats"
        console.print(table)
    written = console.file
    assert isinstance(written, io.StringIO)
    told = " ".join(written.getvalue().split())
    assert told.count("more repeats") == 1
    assert re.search(r"3 more repeats .* rocket 3 × about .* \(heads, on the same features\)", told)
    assert re.search(r"dlinear 3 × about .* \(backbone and heads trained anew\)", told)
    assert sorted(measured) == ["dlinear", "dlinear", "rocket", "rocket"]
