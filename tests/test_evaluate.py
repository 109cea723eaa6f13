"""evaluate.py judges every predictor by all records, as a run does, or says which are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from enecg.bundle import Bundle
from enecg.errors import UserError
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.network import constant_gate
from enecg.predict import expert_columns
from enecg.tasks import Task
from enecg.validate import evaluate
from models import bundle
from problems import AGE, GENDER

pytestmark = pytest.mark.filterwarnings("ignore:Mean of empty slice")
N = 200
DUMMY = {"age": (60.0,), "gender": (0.6, 0.4)}


def made(task: Task, dummy: tuple[float, ...] = ()) -> Bundle:
    ensemble = GateEnsemble([(1, constant_gate({"rocket": 0.5, "dlinear": 0.5}))])
    return replace(
        bundle(task), expert_names=["rocket", "dlinear"], ensemble=ensemble, dummy=dummy,
        stacking={"rocket": 1.0, "dlinear": 0.0},
    )  # fmt: skip


def table(task: Task) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Rocket has no output for 40 records, dlinear for 30, both for 10; labels, the index."""
    rng = np.random.default_rng(0)
    truth = rng.normal(60, 15, N) if task.kind == "regression" else rng.integers(2, size=N) * 1.0
    outputs = {}
    for name, error in (("rocket", 3.0), ("dlinear", 6.0)):
        said = truth + rng.normal(0, error, N) if task.kind == "regression" else None
        p = np.clip(0.5 + (truth - 0.5) / error + rng.normal(0, 0.2, N), 0.01, 0.99)
        outputs[name] = np.stack([1 - p, p], 1) if said is None else said[:, None]
    outputs["rocket"][:40] = np.nan
    outputs["dlinear"][30:60] = np.nan
    own = [f"{task.name}__p__{name}" for name in task.classes] or [task.name]
    mean = pd.DataFrame(np.nanmean([*outputs.values()], axis=0), columns=own)
    columns = [pd.DataFrame(o, columns=expert_columns(task, n)) for n, o in outputs.items()]
    index = pd.DataFrame({"group_id": np.arange(N).astype(str)})
    return pd.concat([mean, *columns], axis=1), truth, index


@pytest.mark.parametrize("task", [AGE, GENDER], ids=lambda task: task.name)
def test_a_predictor_without_output_counts_as_the_dummy(
    task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, truth, index = table(task)
    found = evaluate(made(task, DUMMY[task.name]), answers, truth, index)
    assert found["n"] == N
    lacking = {"rocket": 40, "dlinear": 30, "uniform": 10, "stacking": 40}
    assert found["without_output"] == lacking | {"ensemble": 10, "deployed": 10}
    said = capsys.readouterr().err
    assert "rocket has no output for 40 labelled records; counted as the dummy's" in said
    if task.kind == "regression":
        rocket = answers[expert_columns(task, "rocket")[0]].fillna(60.0)
        by_hand = float(np.abs(rocket - truth).mean())
        assert found["predictors"]["rocket"]["mae"]["mean"] == pytest.approx(by_hand, rel=1e-5)
        ensemble = answers[task.name].fillna(60.0)
        by_hand = float(np.abs(ensemble - truth).mean())
        assert found["predictors"]["ensemble"]["mae"]["mean"] == pytest.approx(by_hand, rel=1e-5)
    else:
        right = answers[expert_columns(task, "rocket")[1]].fillna(0.4).to_numpy() > 0.5
        accuracy = found["predictors"]["rocket"]["accuracy"]["mean"]
        assert accuracy == pytest.approx((right == (truth > 0.5)).mean())
    assert set(found["comparisons"]) == {"best_expert", "uniform", "stacking"}


@pytest.mark.parametrize("task", [AGE, GENDER], ids=lambda task: task.name)
def test_without_a_dummy_each_is_judged_by_the_records_it_has_an_output_for(
    task: Task, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, truth, index = table(task)
    found = evaluate(made(task), answers, truth, index)
    assert "dummy" not in found["predictors"]
    assert list(found["predictors"]) == [
        "rocket", "dlinear", "uniform", "stacking", "ensemble", "deployed",
    ]  # fmt: skip
    assert found["without_output"]["rocket"] == 40 and found["without_output"]["ensemble"] == 10
    said = capsys.readouterr().err
    assert "dlinear has no output for 30 labelled records; left out of its figures" in said
    metric = "mae" if task.kind == "regression" else "accuracy"
    for name in ("rocket", "dlinear", "ensemble"):
        columns = [f"{task.name}__p__{one}" for one in task.classes] or [task.name]
        columns = columns if name == "ensemble" else expert_columns(task, name)
        own = answers[columns].to_numpy()
        rows = ~np.isnan(own).any(1)
        if metric == "mae":
            by_hand = np.abs(own[rows, 0] - truth[rows]).mean()
        else:
            by_hand = (own[rows].argmax(1) == truth[rows]).mean()
        assert found["predictors"][name][metric]["mean"] == pytest.approx(by_hand, rel=1e-5)
    if task.kind == "classification":
        assert "sensitivity" in found["predictors"]["rocket"]
    # Stacking is rocket alone: paired where both it and the ensemble have an output.
    assert found["comparisons"]["stacking"]["verdict"] != "the same"


def test_a_bundle_that_predicts_nothing_is_refused() -> None:
    answers, truth, index = table(AGE)
    with pytest.raises(UserError, match="no prediction for any labelled record"):
        evaluate(made(AGE), answers * np.nan, truth, index)
