"""Each record meets each frozen backbone once, whatever is run; counted at the backbone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from enecg import experts
from enecg.config import ExpertSettings, parse_config
from enecg.errors import JobFailed
from enecg.experiment import open_experiment
from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.stage1.embed import compute_features
from enecg.stage1.feature_store import FeatureStore
from enecg.stage1.jobs import train_experts
from extra_experts.probe import calls
from runs import settings

pytestmark = pytest.mark.usefixtures("ray_cluster", "extra_experts")


def embed(store: RecordStore, root: Path, form: Any = "float32", **probe: Any) -> FeatureStore:
    """Compute the features of a store with the probe expert."""
    chosen = ExpertSettings.model_validate(probe)
    expert = experts.load("probe", weights=chosen.weights, **chosen.options)
    features = FeatureStore.of(root, expert, form)
    compute_features(store, features, expert, chosen)
    return features


def read(features: FeatureStore) -> dict[str, np.ndarray]:
    """Features by record hash."""
    found: dict[str, np.ndarray] = {}
    for part in features.parts:
        table = pq.read_table(part)
        rows = table["features"].combine_chunks().to_numpy_ndarray()
        found.update(zip(table["physical_sha256"].to_pylist(), rows, strict=True))
    return found


def test_only_what_is_new_passes_the_backbone(synthetic_store: RecordStore, tmp_path: Path) -> None:
    wfdb = synthetic_store.path.parent / "wfdb"
    some = convert("wfdb", wfdb, tmp_path / "some", limit=30, max_rejected=1.0)
    hooks, all_n = str(tmp_path), synthetic_store.index["physical_sha256"].nunique()
    some_n = some.index["physical_sha256"].nunique()
    features = embed(some, tmp_path / "features", hooks=hooks)
    assert sum(calls(tmp_path)) == some_n == len(features.keys())
    embed(some, tmp_path / "features", hooks=hooks)
    assert sum(calls(tmp_path)) == some_n, "a second run needs no backbone"
    embed(synthetic_store, tmp_path / "features", hooks=hooks)
    assert sum(calls(tmp_path)) == all_n, "new records, and only those"
    found = read(features)
    assert len(found) == all_n
    probe = experts.load("probe")
    for ids, x_BLT in synthetic_store.signals():
        keys = synthetic_store.index.set_index("record_id").loc[ids, "physical_sha256"]
        with torch.no_grad():
            known_BD = probe.features(torch.from_numpy(x_BLT)).numpy()
        stored_BD = np.stack([found[key] for key in keys])
        np.testing.assert_allclose(stored_BD, known_BD, atol=1e-5)
    assert features.rate() is not None


def test_other_weights_preparation_and_formats_never_mix(
    synthetic_store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = synthetic_store.index["physical_sha256"].nunique()
    root, hooks = tmp_path / "features", str(tmp_path)
    first = embed(synthetic_store, root, hooks=hooks)
    weights = {k: v + 0.01 for k, v in experts.load("probe").state_dict().items()}
    save_file(weights, tmp_path / "new.safetensors")
    changed = embed(synthetic_store, root, hooks=hooks, weights=str(tmp_path / "new.safetensors"))
    assert sum(calls(tmp_path)) == 2 * n
    half = embed(synthetic_store, root, "float16", hooks=hooks)
    assert sum(calls(tmp_path)) == 3 * n
    stores = [read(features) for features in (first, changed, half)]
    for key, row in stores[0].items():
        assert not np.allclose(row, stores[1][key], atol=1e-4)
        assert (row.dtype, stores[2][key].dtype) == (np.float32, np.float16)
        np.testing.assert_allclose(row, stores[2][key], atol=1e-3, rtol=1e-3)
    expert = experts.load("probe")
    monkeypatch.setattr(type(expert), "version", 2)
    assert FeatureStore.of(root, expert) != FeatureStore.of(root, experts.load("dlinear"))
    assert FeatureStore.of(root, expert).folder not in {first.folder, changed.folder, half.folder}


def test_other_tasks_folds_seeds_and_heads_need_no_backbone_pass(
    synthetic_store: RecordStore, tmp_path: Path
) -> None:
    values = settings(
        synthetic_store.path,
        tmp_path / "run",
        features=str(tmp_path / "features"),
        experts={"probe": {"hooks": str(tmp_path)}},
        stage1={"epochs": 2, "heads": ["ridge"]},
    )
    train_experts(open_experiment(parse_config(values)))
    met = sum(calls(tmp_path))
    planned = met - synthetic_store.index["physical_sha256"].nunique()
    # The plan warms up with a record, times two, and of a quick backbone eight more, twice.
    assert planned in (1 + 2, 1 + 2 + 2 * 8)
    values |= {
        "run_dir": str(tmp_path / "other"), "tasks": ["age"], "folds": 3, "seed": 1,
        "stage1": {"epochs": 1, "heads": ["ffn"]},
    }  # fmt: skip
    train_experts(open_experiment(parse_config(values)))
    assert sum(calls(tmp_path)) == met


def test_a_damaged_shard_is_named(synthetic_store: RecordStore, tmp_path: Path) -> None:
    shutil.copytree(synthetic_store.path, tmp_path / "store")
    store = RecordStore.open(tmp_path / "store")
    damaged = store.path / store.shards[0]
    content = bytearray(damaged.read_bytes())
    content[1000:3000] = bytes(2000)
    damaged.write_bytes(content)
    with pytest.raises(JobFailed, match=rf"{damaged.name} is damaged"):
        embed(store, tmp_path / "features")
