"""The whole way on a small simulated cohort, on a real cluster: results, repeats, restarts."""

from __future__ import annotations

import copy
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import mean_absolute_error, roc_auc_score

from enecg.bundle import load_bundles
from enecg.config import parse_config
from enecg.errors import JobFailed, UserError
from enecg.evaluation.metrics import score
from enecg.evaluation.operating_points import RATES
from enecg.evaluation.wording import with_interval
from enecg.experiment import open_experiment
from enecg.files import read_json
from enecg.gate import ensemble
from enecg.inventory import INVENTORIES, stranger
from enecg.pipeline import run_stages
from enecg.predict import expert_columns, predict_file, predict_store
from enecg.records import RecordStore
from enecg.stage1 import embed, jobs
from enecg.stage1.feature_store import FeatureStore
from enecg.stage1.jobs import train_experts
from enecg.tasks import TASKS
from enecg.validate import evaluate_file, labels_of
from runs import REPOSITORY, job, settings, without_times, write_config
from s3_server import s3_server, upload

ALL_STAGES = ["experts", "search", "ensemble"]
PREDICTORS = {
    "rocket", "dlinear", "uniform", "stacking", "gate", "ensemble", "deployed", "dummy"
}  # fmt: skip
SUMMARY = {"mean", "std", "folds"}
INTERVALS = {"ci95", "ci95_given_models"}


@pytest.fixture(scope="module")
def finished(synthetic_store: RecordStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; its config stands beside the run folder."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, settings(synthetic_store.path, folder / "run"))
    run_stages(config, None, ALL_STAGES)
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    results: dict[str, Any] = read_json(folder / "run" / "results.json")
    return results


def test_results_hold_what_the_contract_promises(finished: Path) -> None:
    results = results_of(finished)
    assert set(results) == {
        "commit", "started", "hardware", "seconds", "peak_memory_mb", "config", "experts", "tasks",
        "reporting", "subjects",
    }  # fmt: skip
    for name, made_by in results["experts"].items():
        assert name in ("rocket", "dlinear")
        assert len(made_by["fingerprint"]) == 64
        assert made_by["weight_files"] == {}
        assert made_by["seen_in_pretraining"] == []
    assert set(results["seconds"]) == {
        "expert rocket", "expert dlinear", "gate search", "ensemble",
    }  # fmt: skip
    assert all(value > 0 for value in results["seconds"].values())
    assert results["peak_memory_mb"]["driver"] > 100
    assert results["peak_memory_mb"]["largest_worker"] > 100
    for found in results["tasks"].values():
        assert set(found["decisions"]) == {"0", "1", "all"}
        assert {c["verdict"] for c in found["comparisons"].values()} <= {
            "better", "worse", "the same", "no difference shown",
        }  # fmt: skip
    for task, metrics in (
        ("rr_interval", {"mae", "mse", "r2"}),
        ("gender", {"accuracy", "precision", "recall", "f1", "auroc", "auprc", "ece", *RATES}),
        ("rhythms", {"accuracy", "precision", "recall", "f1", "auroc", "auprc", "ece", "classes"}),
    ):
        predictors = results["tasks"][task]["predictors"]
        assert set(predictors) == PREDICTORS | ({"absolute_stacking"} & {*predictors})
        assert ("absolute_stacking" in predictors) == (task == "rr_interval")
        for scores in predictors.values():
            assert metrics - {"ppv", "npv"} <= set(scores) <= metrics  # dummy answers one class
            for metric, summary in scores.items():
                if metric in (*RATES, "classes"):
                    continue
                extra = {"null_band"} if metric == "ece" else {"n", "events"}
                has_interval = "ci95" in summary
                assert set(summary) == SUMMARY | (INTERVALS if has_interval else extra)
                assert has_interval or metric == "ece" or summary["events"] < 10
                assert len(summary["folds"]) == 2
                assert summary["mean"] == pytest.approx(np.mean(summary["folds"]))
    assert (finished / "run" / "report.html").stat().st_size > 10_000
    for scope, decision in results["tasks"]["gender"]["decisions"].items():
        assert set(decision["thresholds"]) == {"male", "female"}, scope
        assert sum(decision["thresholds"].values()) == pytest.approx(1)
    covered = results["tasks"]["rr_interval"]["prediction_interval"]
    assert covered["share"] == 0.9 and covered["coverage"] > 0.6 and covered["mean_width"] > 0


def test_the_table_can_be_recomputed_from_the_kept_predictions(finished: Path) -> None:
    """With scikit-learn, as docs/predictions.md shows it."""
    kept = pd.read_parquet(finished / "run" / "predictions.parquet")
    results = results_of(finished)["tasks"]
    kept = kept[kept["target"].notna()]
    for task, metric in (("gender", "auroc"), ("rr_interval", "mae")):
        for name in results[task]["predictors"]:
            rows = kept[(kept["task"] == task) & (kept["predictor"] == name)]
            folds = []
            for _, fold in rows.groupby("fold", observed=True):
                said = np.stack(fold["prediction"])
                folds.append(
                    roc_auc_score(fold["target"], said[:, 1])
                    if metric == "auroc"
                    else mean_absolute_error(fold["target"], said[:, 0])
                )
            np.testing.assert_allclose(
                folds, results[task]["predictors"][name][metric]["folds"], rtol=1e-6
            )


def test_nothing_in_a_run_folder_looks_like_somebodys(finished: Path) -> None:
    assert stranger(finished / "run", INVENTORIES["run"]) is None


def test_heart_rate_is_learned(finished: Path) -> None:
    predictors = results_of(finished)["tasks"]["rr_interval"]["predictors"]
    assert predictors["rocket"]["mae"]["mean"] < 0.7 * predictors["dummy"]["mae"]["mean"]
    assert predictors["ensemble"]["mae"]["mean"] < 0.8 * predictors["dummy"]["mae"]["mean"]


def test_the_last_line_is_the_path_of_the_results_and_a_second_call_keeps_everything(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "TorchTrainer", None)  # any training would fail
    before = (finished / "run" / "results.json").read_bytes()
    run_stages(finished / "config.yaml", None, ALL_STAGES)
    assert (finished / "run" / "results.json").read_bytes() == before
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"results: {finished / 'run' / 'results.json'}"


def test_the_same_command_gives_the_same_numbers_from_stored_features(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "compute_features", _only_if_nothing_is_missing)
    run_stages(finished / "config.yaml", [f"run_dir={tmp_path / 'run'}"], ALL_STAGES)
    assert without_times(results_of(tmp_path)) == without_times(results_of(finished))


def _only_if_nothing_is_missing(store: RecordStore, features: FeatureStore, *_: Any) -> float:
    assert not embed.missing(store.index, features.keys())
    return 0.0


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["cp", "-r", finished / "run", tmp_path / "run"], check=True)
    monkeypatch.setattr(jobs, "TorchTrainer", None)
    changes = [f"run_dir={tmp_path / 'run'}", "ensemble.size=1"]
    searched = (tmp_path / "run/gate/done.json").stat().st_mtime_ns
    run_stages(finished / "config.yaml", changes, ALL_STAGES)
    assert (tmp_path / "run/gate/done.json").stat().st_mtime_ns == searched
    assert results_of(tmp_path)["config"]["ensemble"]["size"] == 1
    run_stages(finished / "config.yaml", [*changes, "gate.trials=2"], ALL_STAGES)
    assert (tmp_path / "run/gate/done.json").stat().st_mtime_ns > searched
    with pytest.raises(JobFailed):  # other epochs: the experts have to be trained again
        run_stages(finished / "config.yaml", [*changes, "stage1.epochs=2"], ["experts"])


def test_damaged_features_outputs_trials_and_results_are_made_anew_aloud(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", "features"):
        source = (
            finished / "run"
            if name == "run"
            else parse_config(yaml.safe_load((finished / "config.yaml").read_text())).features_dir
        )
        subprocess.run(["cp", "-r", source, tmp_path / name], check=True)
    run = tmp_path / "run"
    [part] = (tmp_path / "features").glob("rocket-*/part-*.parquet")
    trial = sorted((run / "gate" / "predictions").iterdir())[0]
    struck = [
        part,
        run / "experts/rocket/outputs.safetensors",
        run / "experts/dlinear/models.safetensors",
        trial,
        run / "bundle/gender/gates.safetensors",
        run / "results.json",
    ]
    for path in struck:
        content = bytearray(path.read_bytes())
        content[len(content) * 2 // 3] ^= 1 << 2
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"gates\.safetensors is gone or not what it was"):
        predict_file(run / "bundle", finished, tmp_path / "out.parquet")
    capsys.readouterr()
    changes = [f"run_dir={run}", f"features={tmp_path / 'features'}"]
    run_stages(finished / "config.yaml", changes, ALL_STAGES)
    told = " ".join(capsys.readouterr().err.split())
    for path in (*struck[:4], run / "results.json"):
        assert path.name in told
    assert results_of(tmp_path)["tasks"] == results_of(finished)["tasks"]
    for one in sorted((finished / "run" / "bundle").rglob("*.safetensors")):
        same = run / "bundle" / one.relative_to(finished / "run" / "bundle")
        assert same.read_bytes() == one.read_bytes()


def test_fold_models_reproduce_the_evaluation(finished: Path, synthetic_store: RecordStore) -> None:
    reproduces(finished, synthetic_store)


def test_models_that_serve_two_folds_are_bundled_with_both(
    synthetic_store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run whose inner folds are the other outer ones, with gates that see features."""
    space = yaml.safe_load((REPOSITORY / "tune_spaces/gate.yaml").read_text())
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space | {"joined": "features"}))
    monkeypatch.setattr(ensemble, "gain_with_error", lambda *_: (1.0, 0.0))  # gates are taken
    folds = {"folds": 3, "inner_folds": "outer"}
    gate = {"trials": 2, "space": str(tmp_path / "space.yaml")}
    values = settings(synthetic_store.path, tmp_path / "run", tasks=["gender"], gate=gate, **folds)
    run_stages(write_config(tmp_path, values), None, ALL_STAGES)
    assert set(results_of(tmp_path)["tasks"]["gender"]["predictors"]) == PREDICTORS
    reproduces(tmp_path, synthetic_store, tasks=["gender"], **folds)


def reproduces(folder: Path, store: RecordStore, **changes: Any) -> None:
    """Compare the predictions of each outer fold's bundles with what results.json says."""
    experiment = open_experiment(parse_config(settings(store.path, folder / "run", **changes)))
    results = results_of(folder)["tasks"]
    for number, fold in enumerate(experiment.nested.outer_names):
        table = predict_store(folder / "run" / "folds" / fold, store)
        test = experiment.nested.test(fold)
        for task in experiment.tasks:
            columns = [f"{task.name}__p__{name}" for name in task.classes] or [task.name]
            scores = score(
                task,
                experiment.targets[task.name][test],
                table.loc[test, columns].to_numpy(dtype=float),
            )
            for metric, value in scores.items():
                folds = results[task.name]["predictors"]["ensemble"][metric]["folds"]
                assert value == pytest.approx(folds[number], rel=1e-4, abs=1e-5), metric


def test_gates_that_see_features_are_bundled_with_what_they_see(
    finished: Path,
    synthetic_store: RecordStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the search to the bundle; gates are taken whatever they gain."""
    subprocess.run(["cp", "-r", finished / "run", tmp_path / "run"], check=True)
    space = yaml.safe_load((REPOSITORY / "tune_spaces/gate.yaml").read_text())
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space | {"joined": "features"}))
    monkeypatch.setattr(ensemble, "gain_with_error", lambda *_: (1.0, 0.0))
    changes = [f"run_dir={tmp_path / 'run'}", f"gate.space={tmp_path / 'space.yaml'}"]
    run_stages(finished / "config.yaml", changes, ["search", "ensemble"])
    trials = pd.read_parquet(tmp_path / "run/gate/trials.parquet")
    assert (trials["joined"] == "features").sum() == 3
    seen = [
        read_json(path)["features_seen"]
        for path in (tmp_path / "run").glob("*/**/bundle.json")
        if any(one["choice"]["joined"] == "features" for one in read_json(path)["gates"])
    ]
    assert ["rocket"] in seen  # the other one's backbone is trained
    reproduces(tmp_path, synthetic_store)


def test_predictions_from_a_store_and_from_wfdb_files_agree(
    finished: Path, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    bundle = finished / "run" / "bundle"
    predict_file(bundle, synthetic_store.path, tmp_path / "store.parquet")
    wfdb = synthetic_store.path.parent / "wfdb"
    predict_file(bundle / "gender", wfdb, tmp_path / "wfdb.parquet")
    one = pd.read_parquet(tmp_path / "store.parquet").set_index("record_id")
    other = pd.read_parquet(tmp_path / "wfdb.parquet").set_index("record_id").loc[one.index]
    assert one.index.tolist() == synthetic_store.index["record_id"].tolist()
    probabilities = ["gender__p__male", "gender__p__female"]
    weights = ["gender__w__rocket", "gender__w__dlinear"]
    assert {"rr_interval", "rr_interval__w__rocket", "gender", *probabilities} <= set(one)
    np.testing.assert_array_equal(one[probabilities], other[probabilities])
    np.testing.assert_allclose(one[probabilities].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(one[weights].sum(axis=1), 1, atol=1e-5)
    thresholds = {
        name: dict(zip(loaded.task.classes, loaded.ensemble.thresholds, strict=True))
        for name in ("rhythms", "gender")
        for loaded in load_bundles(bundle / name)
    }
    named = one["rhythms"].str.split(";").explode()
    for name in ("AFIB", "SR"):
        holds = named.index[named == name]
        from_B = one[f"rhythms__p__{name}"] >= thresholds["rhythms"][name]
        assert set(holds) == set(one.index[from_B])
    female_B = one["gender__p__female"] > thresholds["gender"]["female"]
    assert (one["gender"] == np.where(female_B, "female", "male")).all()


def test_a_record_is_predicted_the_same_in_any_company(
    finished: Path, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    """Every value of the table, bit for bit: a whole store, some of it turned round, one alone."""
    bundle, wfdb = finished / "run" / "bundle", synthetic_store.path.parent / "wfdb" / "records"
    predict_file(bundle, synthetic_store.path, tmp_path / "whole.parquet")
    whole = pd.read_parquet(tmp_path / "whole.parquet").set_index("record_id")
    whole = whole.drop(columns="subject_id")
    for number, records in enumerate(([whole.index[40]], whole.index[[50, 33, 7]])):
        for place, record in enumerate(records):
            (tmp_path / f"some{number}" / str(place)).mkdir(parents=True)
            for path in wfdb.glob(f"{record}.*"):
                shutil.copy(path, tmp_path / f"some{number}" / str(place))
        predict_file(bundle, tmp_path / f"some{number}", tmp_path / f"some{number}.parquet")
        some = pd.read_parquet(tmp_path / f"some{number}.parquet")
        some.index = pd.Index([Path(name).name for name in some["record_id"]])
        pd.testing.assert_frame_equal(
            some.drop(columns=["record_id", "subject_id"]).loc[[*records]].reset_index(drop=True),
            whole.loc[[*records]].reset_index(drop=True),
            check_exact=True,
        )


def test_a_bundle_is_validated_on_another_store(
    finished: Path, synthetic_store: RecordStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On S3. On the records it was trained on it is said so; all predictors are judged."""
    bundle, output = finished / "run" / "bundle", tmp_path / "validation.json"
    with s3_server() as bucket:
        upload(synthetic_store.path, f"{bucket}/store")
        with pytest.raises(UserError, match="--include-seen"):
            evaluate_file(bundle, f"{bucket}/store", output)
        assert not output.exists()
        evaluate_file(bundle, f"{bucket}/store", output, include_seen=True)
    found = read_json(output)
    assert found["same_records"] is True and "optimistic" in capfd.readouterr().err
    n = len(synthetic_store.index)
    subjects = synthetic_store.index["subject_id"].nunique()
    assert found["seen"] == {"records": n, "subjects": subjects, "judged": n}
    assert set(found["tasks"]) == {"rr_interval", "gender", "rhythms"}
    table = predict_store(bundle, synthetic_store, every_expert=True)
    for task in open_experiment(
        parse_config(settings(synthetic_store.path, finished / "run"))
    ).tasks:
        columns = [f"{task.name}__p__{name}" for name in task.classes] or [task.name]
        target = task.targets(synthetic_store.index[task.column])
        outcome = found["tasks"][task.name]
        absolute = ["absolute_stacking"] if task.kind == "regression" else []
        assert list(outcome["predictors"]) == [
            "rocket", "dlinear", "uniform", "stacking", *absolute, "ensemble", "deployed", "dummy",
        ]  # fmt: skip
        assert set(outcome["comparisons"]) == {"best_expert", "uniform", "stacking", *absolute}
        outputs = {
            name: table[expert_columns(task, name)].to_numpy(float)
            for name in ("rocket", "dlinear")
        }
        weights = read_json(bundle / task.name / "bundle.json")["baselines"]["stacking"]
        by_hand = {
            "ensemble": table[columns].to_numpy(dtype=float),
            **outputs,
            "uniform": (outputs["rocket"] + outputs["dlinear"]) / 2,
            "stacking": sum(weights[name] * output for name, output in outputs.items()),
        }
        for name, predicted in by_hand.items():
            scores = outcome["predictors"][name]
            for metric, value in score(task, target, predicted).items():
                assert scores[metric]["mean"] == pytest.approx(value, rel=1e-4, abs=1e-6)
                assert "std" not in scores[metric]
                if (interval := scores[metric].get("ci95")) is not None:
                    assert interval[0] <= scores[metric]["mean"] <= interval[1]


def test_a_bundle_that_does_not_fit_the_labels_is_refused_in_one_line(
    finished: Path, synthetic_store: RecordStore
) -> None:
    other = copy.copy(synthetic_store)
    other.index = synthetic_store.index.rename(columns={"gender": "sex"})
    with pytest.raises(UserError, match=r"task gender: .* has no label column 'gender'"):
        labels_of(TASKS["gender"], other)
    other.index = synthetic_store.index.assign(gender="unknown")
    with pytest.raises(UserError, match=r"no record of .* valid label .* knows male, female"):
        labels_of(TASKS["gender"], other)
    running = job(
        "ray_jobs/evaluate.py", "--bundle", f"{finished}/run/bundle", "--records", "nowhere",
        "--output", "x.json",
    )  # fmt: skip
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 2
    assert errors.startswith("error: ") and len(errors.splitlines()) == 1


def test_the_bundle_is_complete(finished: Path) -> None:
    for task in ("rr_interval", "gender", "rhythms"):
        folder = finished / "run" / "bundle" / task
        description = read_json(folder / "bundle.json")
        facts = description["provenance"]
        assert {"commit", "records", "config", "trained_on", "n_training", "way"} <= set(facts)
        assert description["task"]["name"] == task
        card = (folder / "model_card.md").read_text()
        for part in ("## Experts", "## Results", "## Intended use", "## Limits", facts["way"]):
            assert part in card
        shown = [name for name in ("rocket", "dlinear") if f"- `{name}`" in card]
        assert shown
        for name in shown:
            assert description["experts"][name]["answer"] in card
        scores = results_of(finished)["tasks"][task]["predictors"]["ensemble"]
        metric = "mae" if task == "rr_interval" else "auroc"
        assert with_interval(scores[metric]) in card


def test_one_failing_expert_does_not_stop_the_others(
    synthetic_store: RecordStore, tmp_path: Path
) -> None:
    values = settings(
        synthetic_store.path,
        tmp_path / "run",
        stage1={"epochs": 20, "heads": ["ridge"], "learning_rate": 1e3, "weight_decay": 1e3},
    )
    experiment = open_experiment(parse_config(values))
    with pytest.raises(JobFailed, match=r"1 of 2 experts failed – dlinear: the loss of .* is nan"):
        train_experts(experiment)
    assert (tmp_path / "run/experts/rocket/done.json").exists()
    assert not (tmp_path / "run/experts/dlinear/done.json").exists()


def killed(arguments: list[str], moment: Callable[[], bool]) -> None:
    """Run a job and kill -9 its driver at a moment."""
    running = job(*arguments)
    deadline = time.monotonic() + 600
    while not moment():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()


def test_a_run_killed_twice_goes_on_and_ends_as_if_never_stopped(
    finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [
        "ray_jobs/pipeline.py", "--config", str(finished / "config.yaml"),
        "--set", f"run_dir={run}", "--set", "stage1.checkpoint_seconds=0",
    ]  # fmt: skip
    killed(arguments, lambda: any(run.glob("experts/rocket/train/checkpoint_*/manifest-0.json")))
    killed(arguments, lambda: any(run.glob("gate/predictions/*.safetensors")))
    assert not (run / "results.json").exists()
    again = job(*arguments)
    said, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    assert "rocket: done before, kept" in errors
    assert said.splitlines()[-1] == f"results: {run / 'results.json'}"
    ours, theirs = results_of(tmp_path), results_of(finished)
    theirs["config"]["stage1"]["checkpoint_seconds"] = 0
    assert without_times(ours) == without_times(theirs)
    tables = [folder / "run/gate/trials.parquet" for folder in (tmp_path, finished)]
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("stage1.epoch=3", "unknown key 'stage1.epoch', did you mean 'epochs'?"),
        ("experts.rocket.kernel=8", "unknown key 'experts.rocket.kernel', did you mean 'kernels'?"),
        ("experts.dlinear.adaptation=head", "needs pretrained weights"),
        ("records=nowhere", "nowhere: no record store here"),
        ("tasks=[flagg]", "unknown task 'flagg', did you mean 'flag'?"),
        ("gate.space=nothing.yaml", "gate.space: no file"),
        ("folds=90", "use fewer folds"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(finished: Path, change: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        run_stages(finished / "config.yaml", [f"run_dir={finished / 'run'}", change], ["experts"])


def test_a_mistake_is_one_line_and_exit_code_2(finished: Path) -> None:
    running = job("ray_jobs/pipeline.py", "--config", f"{finished}/config.yaml", "--set", "sead=1")
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 2
    assert errors.startswith("error: ")
    assert "did you mean 'seed'?" in errors
    assert len(errors.splitlines()) == 1
