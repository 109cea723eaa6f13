"""Repeats of the cross-validation: other folds, the same procedure, what is finished kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import f1_score, mean_absolute_error, roc_auc_score

from enecg.compare_runs import compare_runs
from enecg.config import parse_config
from enecg.errors import UserError
from enecg.evaluation.intervals import fold_summary
from enecg.experiment import open_experiment
from enecg.files import read_json
from enecg.nested import ALL, nested_folds
from enecg.out_of_fold import Repeat, TestPredictions
from enecg.ownership import kind_of
from enecg.pipeline import check_places, run_stages
from enecg.records import RecordStore
from enecg.repeats import run_of, seed_of
from enecg.results import judge
from enecg.run_folder import claimed
from enecg.stage1 import embed, jobs
from enecg.stage1.adapted import load_outputs
from enecg.stage1.choosing import Outcome
from problems import AGE, GENDER, adapt, small_problem
from runs import settings, write_config
from test_nested import assignment, config, index_of

ALL_STAGES = ["experts", "search", "ensemble"]
R, K = 2, 2


def test_repeats_have_folds_of_their_own_and_the_first_those_of_the_run() -> None:
    index, given = index_of(300, per_group=3), config(repeats=3)
    before = assignment(nested_folds(index, config()))
    runs = [run_of(given, repeat) for repeat in (1, 2, 3)]
    nested = [nested_folds(index, run, deployed=number == 0) for number, run in enumerate(runs)]
    for name, folds in assignment(nested[0]).items():
        np.testing.assert_array_equal(folds, before[name])
    again = nested_folds(index, run_of(given, 3))
    np.testing.assert_array_equal(again.outer_N, nested[2].outer_N)
    for a, b in ((0, 1), (0, 2), (1, 2)):  # independent partitions
        table = pd.crosstab(nested[a].outer_N, nested[b].outer_N).to_numpy()
        assert table.shape == (3, 3) and table.min() > 0.5 * table.mean()
    for one in nested:
        assert (pd.Series(one.outer_N).groupby(index["group_id"].to_numpy()).nunique() == 1).all()
    assert nested[0].scopes == ("0", "1", "2", ALL) and nested[1].scopes == ("0", "1", "2")
    other = [nested_folds(index, run_of(config(repeats=3, seed=7), n)).outer_N for n in (1, 2)]
    assert all((one != of.outer_N).any() for one in other for of in nested)


def test_a_repeat_is_a_run_in_a_folder_of_the_first_with_its_features_and_another_seed() -> None:
    given = config(repeats=3, run_dir="runs/x")
    second = run_of(given, 2)
    assert second.run_dir == "runs/x/repeats/2" and second.repeats == 1
    assert second.features_dir == given.features_dir
    assert run_of(given, 1) is given
    changed = {"run_dir", "features", "seed", "repeats"}
    assert second.model_dump(exclude=changed) == given.model_dump(exclude=changed)
    seeds = [seed_of(42, repeat) for repeat in range(1, 101)]
    assert seeds[0] == 42 and len(set(seeds)) == 100 and all(0 <= s < 2**32 for s in seeds)
    remote = config(repeats=2, records="s3://bucket/store")
    assert run_of(remote, 2).features_dir == remote.features_dir == Path("y/features")


@pytest.mark.parametrize("value", [0, -1, 101, 1.5, True, "many"])
def test_what_repeats_may_not_be(value: Any) -> None:
    with pytest.raises(UserError, match="repeats should be"):
        config(repeats=value)


def test_folds_that_are_given_cannot_be_repeated() -> None:
    with pytest.raises(UserError, match="fold_column 'site' are given and cannot be drawn anew"):
        config(repeats=2, fold_column="site")
    assert config(repeats=1, fold_column="site").repeats == 1


def test_outer_folds_as_inner_ones_in_a_repeat_that_deploys_nothing() -> None:
    nested = nested_folds(index_of(160, 2), config(folds=4, inner_folds="outer"), deployed=False)
    assert len(nested.inner_models) == 6, "pairs of folds alone"
    for scope in nested.scopes:
        assert nested.inner_twin(scope) is None
        for fit in nested.fits(scope):
            model = nested.model_of(fit)
            assert (nested.learns_from(model) == nested.learns_from(fit)).all()
            assert not (nested.learns_from(model) & nested.test(scope)).any()


@pytest.mark.parametrize("shared", [False, True])
def test_outer_folds_learn_the_same_where_nothing_is_deployed_and_nothing_of_their_test_groups(
    shared: bool,
) -> None:
    problem = small_problem(120, seed=2)
    if shared:
        problem = replace(problem, nested=replace(problem.nested, inner_N=problem.nested.outer_N))
    alone = replace(problem, nested=replace(problem.nested, deployed=False))
    whole, found, noisy = (
        adapt(one, epochs=2) for one in (problem, alone, alone.with_noise(alone.nested.test("1")))
    )
    scopes = alone.nested.scopes
    assert set(found.adapted) == {f"{task.name}/{s}" for task in alone.tasks for s in scopes}

    def said(outcome: Outcome, task: str, scope: str) -> bytes:
        return outcome.outputs[task][scopes.index(scope)].tobytes()

    for task in alone.tasks:
        for scope in scopes:
            assert said(found, task.name, scope) == said(whole, task.name, scope)
        assert said(noisy, task.name, "1") == said(found, task.name, "1")
        assert said(noisy, task.name, "0") != said(found, task.name, "0")


def test_too_few_labels_in_one_repeat_are_told_at_once(synthetic_store: RecordStore) -> None:
    values = settings(synthetic_store.path, Path("run"), repeats=100, folds=8, inner_folds=3)
    with pytest.raises(UserError, match=r"^repeat \d+ of 100: "):
        open_experiment(parse_config(values))


def test_of_one_repeat_and_of_two_that_say_the_same_the_numbers_are_the_same() -> None:
    """Predictions that repeat each other add nothing: the interval stays as wide."""
    rng = np.random.default_rng(0)
    n = 240
    names = np.array([f"g{row // 2}" for row in range(n)], dtype=object)
    index = pd.DataFrame({"group_id": names})
    nested = nested_folds(index, config())
    for task in (AGE, GENDER):
        truth = rng.normal(50, 10, n) if task is AGE else rng.integers(2, size=n).astype(float)
        answers = None if task is AGE else rng.integers(2, size=n)
        p = rng.random(n).astype(np.float32)
        said = (truth + rng.normal(0, 5, n))[:, None] if task is AGE else np.stack([1 - p, p], 1)
        one = TestPredictions(
            {name: said.astype(np.float32) for name in ("e", "uniform", "stacking", "ensemble",
                                                        "deployed")},
            np.ones((n, 1), np.float32), answers, np.full(n, 8.0 if task is AGE else np.nan),
            np.full((n, task.width), 0.5),
        )  # fmt: skip
        repeat = Repeat({task.name: one}, {task.name: {"0": {"way": "uniform"}}})
        once = judge(task, truth, [repeat], [nested], ["e"], 1)
        twice = judge(task, truth, [repeat, repeat], [nested, nested], ["e"], 1)
        assert set(twice["decisions"]) == {"0", "0, repeat 2"}
        for metric, summary in once["predictors"]["deployed"].items():
            of_both = twice["predictors"]["deployed"][metric]
            assert of_both["folds"] == summary["folds"] * 2
            assert of_both.get("n") == summary.get("n")
            if metric == "ece":
                width, wide = (b - a for a, b in (of_both["null_band"], summary["null_band"]))
                assert width == pytest.approx(wide, rel=0.25), "not as if of twice the records"
            if "ci95" in summary:
                # Chance in training, where folds differ by more than their records, is halved.
                assert of_both["ci95"][0] >= summary["ci95"][0] - 1e-9
                assert of_both["ci95"][1] <= summary["ci95"][1] + 1e-9
        assert twice.get("prediction_interval") == once.get("prediction_interval")


def test_somebodys_folder_in_the_place_of_a_repeat_is_refused(tmp_path: Path) -> None:
    given = parse_config(settings(tmp_path / "store", tmp_path / "run", repeats=3))
    with claimed(tmp_path / "run"):
        check_places(given)
    theirs = tmp_path / "run" / "repeats" / "3"
    theirs.mkdir(parents=True)
    (theirs / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"repeats/3.*thesis\.tex"):
        check_places(given)
    check_places(given.model_copy(update={"repeats": 2}))
    (theirs / "thesis.tex").rename(tmp_path / "run" / "repeats" / "2")
    with pytest.raises(UserError, match="repeats/2: is a file"):
        check_places(given.model_copy(update={"repeats": 2}))


@pytest.fixture(scope="module")
def once(synthetic_store: RecordStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of one repeat."""
    folder = tmp_path_factory.mktemp("once")
    values = settings(
        synthetic_store.path,
        folder / "run",
        tasks=["rr_interval", "gender"],
        experts={"rocket": {"kernels": 40}},
        stage1={"heads": ["ridge"]},
        features=str(folder / "features"),
    )
    values["gate"] = values["gate"] | {"trials": 2}
    run_stages(write_config(folder, values), None, ALL_STAGES)
    return folder


@pytest.fixture(scope="module")
def twice(once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, then set to two repeats; its features are not computed again."""
    folder = tmp_path_factory.mktemp("twice")
    shutil.copytree(once / "run", folder / "run")
    shutil.copy(once / "config.yaml", folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "compute_features", _only_if_nothing_is_missing)
        run_stages(folder / "config.yaml", changes(folder), ALL_STAGES)
    return folder


def changes(folder: Path) -> list[str]:
    return [f"run_dir={folder / 'run'}", f"repeats={R}"]


def _only_if_nothing_is_missing(store: RecordStore, features: Any, *_: Any) -> float:
    assert not embed.missing(store.index, features.keys())
    return 0.0


def done(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("done.json"))}


def test_more_repeats_keep_what_is_finished_and_have_folders_of_their_own(
    once: Path, twice: Path
) -> None:
    before, after = done(once / "run"), done(twice / "run")
    for name in ("experts/rocket/done.json", "gate/done.json"):
        assert after[name] == before[name]
    further = {f"repeats/2/{w}/done.json" for w in ("experts/rocket", "gate", "ensemble")}
    assert set(after) == set(before) | further
    second = twice / "run" / "repeats" / "2"
    assert kind_of(second) == "repeat" and not list(second.rglob("bundle*"))
    assert not (second / "gate" / "views.safetensors").exists(), "the first one's are used"
    assert list((second / "experts/rocket").glob("outputs.safetensors"))
    assert (second / "experts/rocket/models.safetensors").stat().st_size < 1000, "nothing deployed"
    assert load_outputs(second / "experts/rocket/outputs.safetensors")["gender"].shape[0] == K
    folds = [pd.read_csv(run / "folds.csv") for run in (twice / "run", second)]
    assert (folds[0]["record_id"] == folds[1]["record_id"]).all()
    assert (folds[0]["outer_fold"] != folds[1]["outer_fold"]).any()


def test_results_are_of_all_repeats(once: Path, twice: Path) -> None:
    first, both = (read_json(folder / "run" / "results.json") for folder in (once, twice))
    assert "repeats" not in first and both["repeats"] == both["config"]["repeats"] == R
    assert both["seeds"] == [42, seed_of(42, 2)]
    assert {"expert rocket, repeat 2", "gate search, repeat 2", "ensemble, repeat 2"} <= set(
        both["seconds"]
    )
    for task, found in both["tasks"].items():
        for name, scores in found["predictors"].items():
            of_first = first["tasks"][task]["predictors"][name]
            for metric, summary in scores.items():
                same = of_first.get(metric, {"folds": []})["folds"]
                assert summary["folds"][: len(same)] == same, metric
                assert len(summary["folds"]) == summary.get("defined_in", R * K)
                assert summary["mean"] == pytest.approx(np.mean(summary["folds"]))
        assert set(found["decisions"]) == {"0", "1", ALL, "0, repeat 2", "1, repeat 2"}
        for name, compared in found["comparisons"].items():
            assert len(compared["difference"]["folds"]) == R * K, name
    partitions = next(item for item in both["reporting"] if item["topic"] == "Partitions")
    assert "repeated 2 times with other folds" in partitions["answer"]
    report = (twice / "run" / "report.html").read_text()
    card = (twice / "run" / "bundle" / "gender" / "model_card.md").read_text()
    for text in (report, card):
        assert "mean over the folds of 2 repeats" in text.replace("means over", "mean over")
    bundles = [sorted((folder / "run/bundle").rglob("*.safetensors")) for folder in (once, twice)]
    for ours, theirs in zip(*bundles, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), "what is deployed is the same"


def test_the_table_can_be_recomputed_from_the_kept_predictions(twice: Path) -> None:
    kept = pd.read_parquet(twice / "run" / "predictions.parquet")
    tasks = read_json(twice / "run" / "results.json")["tasks"]
    assert sorted(kept["repeat"].unique()) == [0, 1]
    kept = kept[kept["target"].notna()]
    for task, metric in (("gender", "auroc"), ("gender", "f1"), ("rr_interval", "mae")):
        for name, scores in tasks[task]["predictors"].items():
            rows = kept[(kept["task"] == task) & (kept["predictor"] == name)]
            folds = []
            for _, fold in rows.groupby(["repeat", "fold"], observed=True):
                said, target = np.stack(fold["prediction"]), fold["target"]
                answers = said.argmax(1)
                if name == "deployed" and task == "gender":
                    answers = np.stack(fold["answer"])[:, 0]
                folds.append(
                    mean_absolute_error(target, said[:, 0])
                    if metric == "mae"
                    else roc_auc_score(target, said[:, 1])
                    if metric == "auroc"
                    else f1_score(target, answers, average="macro", zero_division=0)
                )
            np.testing.assert_allclose(folds, scores[metric]["folds"], rtol=1e-6)


def test_intervals_are_those_of_the_kept_predictions(twice: Path, once: Path) -> None:
    """In any order of records; and not those of the first repeat alone."""
    kept = pd.read_parquet(twice / "run" / "predictions.parquet")
    rows = kept[(kept["task"] == "rr_interval") & (kept["predictor"] == "rocket")]
    rows = rows.sort_values(["repeat", "record_id"])
    parts = [part for _, part in rows.groupby("repeat")]
    task = next(
        t
        for t in open_experiment(
            parse_config(yaml.safe_load((once / "config.yaml").read_text()))
        ).tasks
        if t.name == "rr_interval"
    )
    found = fold_summary(
        task,
        parts[0]["target"].to_numpy(),
        np.stack([np.stack(part["prediction"]) for part in parts]),
        np.stack([part["fold"].astype(int) for part in parts]),
        parts[0]["group_id"].to_numpy(),
        seed=42,
    )
    said = read_json(twice / "run" / "results.json")["tasks"]["rr_interval"]["predictors"]
    assert set(found["mae"]) == set(said["rocket"]["mae"]) >= {"ci95", "ci95_given_models"}
    for key, value in found["mae"].items():
        assert value == pytest.approx(said["rocket"]["mae"][key]), key


def test_the_same_command_again_keeps_all_and_what_is_lost_is_made_again(
    twice: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut short in the second repeat's ensemble, search or expert, only that is done again."""
    shutil.copytree(twice / "run", tmp_path / "run")
    before, results = done(tmp_path / "run"), (tmp_path / "run/results.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jobs, "TorchTrainer", None)
        run_stages(twice / "config.yaml", changes(tmp_path), ALL_STAGES)
    told = capfd.readouterr().err
    for name in ("rocket, repeat 2", "gate search, repeat 2", "ensemble"):
        assert f"{name}: done before, kept" in told
    assert done(tmp_path / "run") == before
    second = tmp_path / "run" / "repeats" / "2"
    for work in ("ensemble", "gate", "experts/rocket"):
        (second / work / "done.json").unlink()
    (tmp_path / "run/ensemble/done.json").unlink()
    run_stages(twice / "config.yaml", changes(tmp_path), ALL_STAGES)
    again = done(tmp_path / "run")
    for name in ("experts/rocket/done.json", "gate/done.json"):
        assert again[name] == before[name]
    ours = read_json(tmp_path / "run/results.json")["tasks"]
    (tmp_path / "old.json").write_bytes(results)
    assert ours == read_json(tmp_path / "old.json")["tasks"]


def test_runs_are_compared_repeat_by_repeat(once: Path, twice: Path) -> None:
    found = compare_runs(twice / "run", twice / "run", "rocket")["tasks"]["gender"]
    assert found["repeats"] == {"compared": R, "first": R, "second": R}
    assert len(found["metrics"]["auroc"]["folds"]) == R * K
    assert found["metrics"]["auroc"]["verdict"] == "the same"
    said = read_json(twice / "run" / "results.json")["tasks"]["gender"]["predictors"]["rocket"]
    assert found["metrics"]["auroc"]["first"] == pytest.approx(said["auroc"]["mean"])
    common = compare_runs(once / "run", twice / "run")["tasks"]["gender"]
    assert (
        common["repeats"]["compared"] == 1 and common["metrics"]["auroc"]["verdict"] == "the same"
    )


def test_a_repeats_folder_is_no_run_folder_of_its_own(twice: Path) -> None:
    second = twice / "run" / "repeats" / "2"
    with pytest.raises(UserError, match="is a repeat of a run; give another folder"):
        run_stages(twice / "config.yaml", [f"run_dir={second}"], ALL_STAGES)
