"""Paths as people have them: blanks, umlauts, #, ?, =, %, brackets, a home, another folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import enecg
from enecg.config import load_config, parse_config
from enecg.errors import UserError
from enecg.paths import given, on_disk
from enecg.pipeline import run_stages
from enecg.predict import predict_file
from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort
from enecg.records.verify import verify
from enecg.spaces import place_of_space
from enecg.storage import Folder
from enecg.validate import evaluate_file
from runs import REPOSITORY, settings, write_config

ODD = Path("täst data #1?x=2;y*[a]", "record_id=7 %41", "physical_sha256=0")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd") / ODD


@pytest.fixture(scope="module")
def ran(odd: Path, ray_cluster: None) -> Path:
    """A whole run, everything of which lies in oddly called folders; gives the run folder."""
    labels = write_synthetic_cohort(odd / "wfdb", 60, seed=3)
    convert("wfdb", odd / "wfdb", odd / "store", labels)
    values = settings(odd / "store", odd / "run") | {"features": str(odd / "features")}
    shutil.copytree(REPOSITORY / "tune_spaces", odd / "spaces")
    values["gate"] = {"trials": 2, "space": str(odd / "spaces" / "gate.yaml")}
    config = write_config(odd / "config", values)
    run_stages(config, None, ["experts", "search", "ensemble"])
    return odd / "run"


def test_a_whole_run_in_oddly_called_folders(odd: Path, ran: Path) -> None:
    results = json.loads((ran / "results.json").read_text())
    assert results["tasks"]["gender"]["n"] > 50
    assert set(results["tasks"]["gender"]["predictors"]) >= {"rocket", "dlinear", "ensemble"}
    assert verify(odd / "store").sound
    assert next((odd / "features").glob("*/part-*.parquet"))
    # Nothing stands beside: no folder of a name that was cut or decoded on the way.
    assert sorted(path.name for path in odd.iterdir()) == [
        "config", "features", "run", "spaces", "store", "wfdb",
    ]  # fmt: skip
    assert [p.name for p in odd.parent.iterdir()] == [odd.name]


def test_predictions_and_evaluation_in_oddly_called_folders(odd: Path, ran: Path) -> None:
    store = RecordStore.open(odd / "store")
    for source, output in (("store", "a.parquet"), ("store", "b.CSV"), ("wfdb", "c.csv")):
        predict_file(ran / "bundle", odd / source, odd / "out" / output)
    found = pq.read_table(odd / "out" / "a.parquet", partitioning=None).to_pandas()
    assert found["record_id"].tolist() == store.index["record_id"].tolist()
    text = pd.read_csv(odd / "out" / "b.CSV", dtype={"record_id": str, "subject_id": str})
    assert list(text.columns) == list(found.columns)
    for name in found:
        if found[name].dtype.kind == "f":
            assert (text[name].astype("float32") == found[name]).all(), name
        else:
            assert text[name].fillna("").tolist() == found[name].fillna("").tolist()
    assert len(pd.read_csv(odd / "out" / "c.csv")) == len(found)
    evaluate_file(ran / "bundle", odd / "store", odd / "out" / "e.json", include_seen=True)
    assert json.loads((odd / "out" / "e.json").read_text())["same_records"]
    predict_file(ran / "bundle" / "gender", odd / "store", odd / "out" / "a.parquet")  # again
    assert "rr_interval" not in pq.read_schema(odd / "out" / "a.parquet").names


def test_a_tilde_is_the_home_in_every_path_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    values = settings(Path("~/store"), Path("~/run")) | {
        "features": "~/features",
        "experts": {"moment": {"weights": "~/w", "config": "~/sizes.json"}},
        "gate": {"space": "~/gate.yaml"},
        "stage1": {"head_space": "~/heads.yaml"},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    config = load_config(Path("~/c.yaml"))
    for one in (config, config.located()):
        paths = [
            one.records, one.run_dir, one.features, one.gate.space, one.stage1.head_space,
            one.experts["moment"].weights, str(one.features_dir),
        ]  # fmt: skip
        assert [Path(str(path)).parent for path in paths] == [tmp_path] * len(paths)
    assert config.located().experts["moment"].options["config"] == str(tmp_path / "sizes.json")
    assert Folder.at("~/x").uri == str(tmp_path / "x")
    assert Folder.at("file:///~/x").uri == "/~/x", "a URI has no home in it"
    assert on_disk("--output", Path("~/x.csv")) == tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\0b", "NUL"), ("\ud800", "not UTF-8"), ("x" * 300, "too long"), ("a/" * 3000, "too"),
        ("", "empty"), ("ü" * 128, "too long"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_path_is_refused_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        given(text)
    for key in ("records", "run_dir", "features"):
        with pytest.raises(UserError, match=told) as refused:
            parse_config(settings(Path("s"), Path("r")) | {key: text})
        assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 300
        str(refused.value).encode()
    with pytest.raises(UserError, match=told):
        Folder.at(text)
    with pytest.raises(UserError, match="--output: .*" + told):
        on_disk("--output", text)


def test_what_must_be_on_a_disk_is_no_uri() -> None:
    with pytest.raises(UserError, match="give a path on a disk"):
        on_disk("--bundle", Path("s3://bucket/bundle"))
    assert on_disk("--bundle", Path("file:///tmp/a%20b")) == Path("/tmp/a b")
    assert on_disk("--bundle", "a:b/c=d") == Path("a:b/c=d")


def test_two_slashes_in_front_are_one() -> None:
    assert Folder.at("//tmp/store").uri == "/tmp/store"


def test_shipped_spaces_are_found_from_any_folder_and_ones_own_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tune_spaces/gate.yaml", "tune_spaces/heads.yaml"):
        assert place_of_space(name) == str(REPOSITORY / name)
    assert place_of_space("tune_spaces/mine.yaml") == "tune_spaces/mine.yaml"
    assert place_of_space("spaces/gate.yaml") == "spaces/gate.yaml"
    config = parse_config({k: v for k, v in settings(Path("s"), Path("r")).items() if k != "gate"})
    assert config.located().gate.space == str(REPOSITORY / "tune_spaces/gate.yaml")
    (tmp_path / "tune_spaces").mkdir()
    (tmp_path / "tune_spaces/gate.yaml").write_text("mine")
    assert place_of_space("tune_spaces/gate.yaml") == "tune_spaces/gate.yaml"
    assert config.located().gate.space == str(tmp_path / "tune_spaces/gate.yaml")


def test_shipped_spaces_are_found_where_an_installed_package_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel puts them into ``share/enecg`` of the environment (setup.cfg, data_files)."""
    shared = tmp_path / "share" / "enecg" / "tune_spaces"
    shutil.copytree(REPOSITORY / "tune_spaces", shared)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(enecg, "__file__", str(tmp_path / "site-packages/enecg/__init__.py"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert place_of_space("tune_spaces/gate.yaml") == str(shared / "gate.yaml")


def test_a_plan_outside_of_the_checkout(ran: Path, odd: Path, tmp_path: Path) -> None:
    """With no space in the config, from a folder that has none."""
    values = settings(odd / "store", tmp_path / "run")
    del values["gate"]
    values["stage1"]["head_trials"] = 1
    config = write_config(tmp_path, values)
    script = (
        "import sys; from enecg.config import load_config; from enecg.gate.search import "
        "drawn_choices; from enecg.stage1.head_space import head_choices; "
        "c = load_config(sys.argv[1]); print(len(drawn_choices(c)), len(head_choices(c.stage1, 0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(config)],
        cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["32", "2"]
