"""Two runs compared: paired, and refused where a difference would not be the runs' alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enecg.compare_runs import compare_runs, comparison_table
from enecg.errors import UserError
from enecg.evaluation.kept_predictions import FILE, OutOfFold, write_predictions
from enecg.tasks import Task
from runs import REPOSITORY

AGE = Task("age", "regression", unit="years")
SEX = Task("sex", "classification", classes=("male", "female"))
N = 600


def age(error: float, seed: int) -> OutOfFold:
    truth = np.random.default_rng(0).normal(60, 15, N)
    noise = np.random.default_rng(seed).normal(0, error, N)
    names = np.arange(N).astype(str)
    predictions = {"deployed": (truth + noise)[:, None], "dummy": np.full((N, 1), 60.0)}
    return OutOfFold(AGE, 0, names, names, (np.arange(N) % 3).astype(str), truth, predictions)


def run_folder(folder: Path, *tasks: OutOfFold) -> Path:
    folder.mkdir()
    write_predictions(folder / FILE, list(tasks), [])
    return folder


def test_a_better_run_is_called_better_and_a_worse_one_worse(tmp_path: Path) -> None:
    good, poor = run_folder(tmp_path / "a", age(3, 1)), run_folder(tmp_path / "b", age(9, 2))
    found = compare_runs(good, poor)["tasks"]["age"]
    mae = found["metrics"]["mae"]
    assert (found["n"], found["predictor"], mae["verdict"]) == (N, "deployed", "better")
    assert mae["mean"] == pytest.approx(mae["first"] - mae["second"])
    assert mae["ci95"][0] < mae["mean"] < mae["ci95"][1] < 0
    assert found["metrics"]["r2"]["verdict"] == "better"
    assert compare_runs(poor, good)["tasks"]["age"]["metrics"]["mae"]["verdict"] == "worse"


def test_equal_learners_show_no_difference_and_the_same_run_is_the_same(tmp_path: Path) -> None:
    a, b = run_folder(tmp_path / "a", age(5, 3)), run_folder(tmp_path / "b", age(5, 4))
    assert compare_runs(a, b)["tasks"]["age"]["metrics"]["mae"]["verdict"] == "no difference shown"
    assert compare_runs(a, a)["tasks"]["age"]["metrics"]["mae"]["verdict"] == "the same"


def test_twelve_folds_are_listed_in_their_order(tmp_path: Path) -> None:
    twelve = (np.arange(N) % 12).astype(str)
    a, b = (replace(age(5, seed), fold_N=twelve) for seed in (3, 4))
    found = compare_runs(run_folder(tmp_path / "a", a), run_folder(tmp_path / "b", b))
    errors = [np.abs(one.predictions["deployed"][:, 0] - one.target_N) for one in (a, b)]
    by_hand = [float((errors[0] - errors[1])[twelve == str(k)].mean()) for k in range(12)]
    assert found["tasks"]["age"]["metrics"]["mae"]["folds"] == pytest.approx(by_hand, rel=1e-4)


def test_another_predictor_on_request(tmp_path: Path) -> None:
    a, b = run_folder(tmp_path / "a", age(5, 3)), run_folder(tmp_path / "b", age(9, 4))
    found = compare_runs(a, b, "dummy")["tasks"]["age"]
    assert found["metrics"]["mae"]["verdict"] == "the same"
    with pytest.raises(UserError, match="no predictor 'rocket' in both runs; in both: deployed"):
        compare_runs(a, b, "rocket")


def _other_folds(one: OutOfFold) -> OutOfFold:
    return replace(one, fold_N=one.fold_N[::-1])


def _other_records(one: OutOfFold) -> OutOfFold:
    return replace(one, record_N=np.char.add("x", one.record_N))


def _other_labels(one: OutOfFold) -> OutOfFold:
    return replace(one, target_N=one.target_N + 1)


def _other_task(one: OutOfFold) -> OutOfFold:
    return replace(one, task=Task("sex", "regression"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_folds, "other folds: 400 of 600 records"),
        (_other_records, "other records: 1,200"),
        (_other_labels, "other labels"),
        (_other_task, "no task in common"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(
    change: Callable[[OutOfFold], OutOfFold], said: str, tmp_path: Path
) -> None:
    a = run_folder(tmp_path / "a", age(5, 3))
    b = run_folder(tmp_path / "b", change(age(5, 4)))
    with pytest.raises(UserError, match=said):
        compare_runs(a, b)


def repeated(error: float, seed: int, repeats: int) -> list[OutOfFold]:
    """Each repeat with other folds, its records in another order."""
    found = []
    for number in range(repeats):
        rng = np.random.default_rng([9, number])
        order, folds = rng.permutation(N), rng.integers(3, size=N).astype(str)
        one = age(error, seed + number)
        found.append(
            replace(
                one, repeat=number, record_N=one.record_N[order], group_N=one.group_N[order],
                fold_N=folds[order], target_N=one.target_N[order],
                predictions={name: said[order] for name, said in one.predictions.items()},
            )
        )  # fmt: skip
    return found


def test_repeats_are_compared_each_on_its_own_folds_as_far_as_both_runs_have_them(
    tmp_path: Path,
) -> None:
    a = run_folder(tmp_path / "a", *repeated(3, 10, 3))
    b = run_folder(tmp_path / "b", *repeated(9, 20, 3))
    c = run_folder(tmp_path / "c", *repeated(9, 20, 2))
    found = compare_runs(a, b)["tasks"]["age"]
    mae = found["metrics"]["mae"]
    assert (found["repeats"]["compared"], len(mae["folds"]), mae["verdict"]) == (3, 9, "better")
    assert mae["mean"] == pytest.approx(mae["first"] - mae["second"])
    fewer = compare_runs(a, c)["tasks"]["age"]
    told = comparison_table(compare_runs(a, c)).caption
    assert told == "repeats: A has 3, B 2; compared: the 2 of both"
    assert comparison_table(compare_runs(a, b)).caption is None
    assert (
        fewer["repeats"] == {"compared": 2, "first": 3, "second": 2}
        and fewer["metrics"]["mae"]["folds"] == mae["folds"][:6]
    )
    other = repeated(9, 20, 3)
    other[2] = _other_folds(other[2])
    d = run_folder(tmp_path / "d", *other)
    with pytest.raises(UserError, match=r"task age, repeat 3: .* have other folds"):
        compare_runs(a, d)


def test_the_job_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    run_folder(tmp_path / "a", age(3, 1))
    run_folder(tmp_path / "b", age(9, 2))
    job = [sys.executable, REPOSITORY / "ray_jobs" / "compare.py"]
    given = ["--runs", tmp_path / "a", tmp_path / "b", "--json", tmp_path / "found.json"]
    done = subprocess.run([*job, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "better" in done.stdout and "MAE" in done.stdout
    assert json.loads((tmp_path / "found.json").read_text())["tasks"]["age"]["n"] == N
    again = subprocess.run([*job, *given], capture_output=True, text=True, check=False)
    assert again.returncode == 0, "an earlier comparison is replaced"
    lacking = [*job, "--runs", tmp_path / "a", tmp_path / "none"]
    done = subprocess.run(lacking, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "none") in done.stderr
