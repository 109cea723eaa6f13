"""Experts that detect R-peaks have no output where labels come from R-peaks, and no say there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from enecg import experts
from enecg.bundle import load_bundles
from enecg.config import EnsembleSettings, parse_config
from enecg.errors import UserError
from enecg.evaluation.kept_predictions import FILE, read_predictions
from enecg.experiment import answered, check_experts
from enecg.files import read_json
from enecg.gate import ensemble
from enecg.gate.ensemble import choose, refit_chosen
from enecg.gate.space import plain_choice
from enecg.gate.trial import Arrays, cross_validate
from enecg.gate.tuning import Trial, trial_losses
from enecg.inventory import INVENTORIES, stranger
from enecg.nested import Nested
from enecg.pipeline import run_stages
from enecg.predict import predict_store
from enecg.records import RecordStore
from enecg.stage1.adapted import save_outputs
from enecg.tasks import TASKS
from problems import AGE
from runs import REPOSITORY, settings, write_config

N = 90


def test_what_an_expert_answers() -> None:
    tasks = [TASKS["age"], TASKS["rr_interval"]]
    assert answered(tasks, experts.load("beats").spec) == tasks[:1]
    assert answered(tasks, experts.load("rocket").spec) == tasks


@pytest.mark.parametrize(
    ("tasks", "names", "told"),
    [
        (["rr_interval"], ["rocket", "beats"], "expert beats detects R-peaks, .* leave it out"),
        (["age", "rr_interval"], ["beats"], "task rr_interval: .* every expert detects them"),
    ],
)
def test_an_expert_without_a_task_and_a_task_without_an_expert(
    tasks: list[str], names: list[str], told: str
) -> None:
    values: dict[str, Any] = settings(Path("store"), Path("run"), tasks=tasks)
    values["experts"] = dict.fromkeys(names)
    with pytest.raises(UserError, match=told):
        check_experts(parse_config(values))


@pytest.fixture
def arrays() -> Arrays:
    """The expert ``detector`` answers one of two tasks; its outputs there are the best."""
    random = np.random.default_rng(0)
    nested = Nested(
        np.array([f"g{row}" for row in range(N)], dtype=object), random.integers(0, 2, N),
        random.integers(0, 3, N), random.integers(0, 5, N), ("0", "1"),
    )  # fmt: skip
    value = random.normal(50, 10, N)
    outputs = {}
    for name, spreads in (("age", (12, 12, 2)), ("rr_interval", (4, 6, np.nan))):
        noisy = [value + random.normal(0, 1, (3, N)) * spread for spread in spreads]
        outputs[name] = np.stack(noisy, axis=-1)[..., None].astype(np.float32)
    rr = TASKS["rr_interval"]
    view = random.normal(size=(N, 12, 200)).astype(np.float16)
    targets = {"age": value, "rr_interval": value}
    names = ["one", "two", "detector"]
    answering = {"age": names, "rr_interval": names[:2]}
    return Arrays(view, outputs, targets, nested, [AGE, rr], names, 3, {}, answering)


def test_gates_and_plain_ways_do_without_it(
    arrays: Arrays, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = plain_choice(("one", "two", "detector")).model_copy(update={"epochs": 3, "depth": 1})
    choices = [plain_choice(("detector",)), plain_choice(("one", "detector")), gate]
    trials = [Trial(choice, arrays.nested.scopes) for choice in choices]
    for trial in trials:
        predicted = cross_validate(trial.choice, arrays, trial.scopes)
        save_outputs(trial.path(tmp_path), predicted)
    alone, pair, _ = (trial.predictions(tmp_path) for trial in trials)
    assert np.isnan(alone["rr_interval"]).all() and not np.isnan(alone["age"][2]).any()
    np.testing.assert_array_equal(pair["rr_interval"][2], arrays.outputs["rr_interval"][2, :, 0])
    losses = trial_losses(trials[0], alone, arrays)
    assert list(losses) == ["age"], "of the other task it says nothing"
    assert all(np.isfinite(one) for one in losses["age"].values())
    monkeypatch.setattr(ensemble, "gain_with_error", lambda *_: (1.0, 0.0))  # gates are taken
    chosen = choose(tmp_path, trials, arrays, EnsembleSettings(size=3))
    gates, _ = refit_chosen(chosen, choices, arrays)
    for (task, _), choice in chosen.items():
        if task == "rr_interval":
            assert set(choice.stacking) == set(choice.absolute_stacking) == {"one", "two"}
            assert 0 not in {choice.best, *choice.members}
            assert choice.best_plain in ("", "one alone")
        else:
            assert choice.stacking["detector"] > 0.9
    for (task, _, _), found in gates.items():
        assert ("detector" in found.choice.experts) == (task == "age")
    # And a run without that expert chooses the same for this task.
    less = Arrays(
        arrays.view_NLT, {"rr_interval": arrays.outputs["rr_interval"][:, :, :2]},
        {"rr_interval": arrays.targets["rr_interval"]}, arrays.nested, arrays.tasks[1:],
        ["one", "two"], 3,
    )  # fmt: skip
    own = [Trial(choice.among(["one", "two"]), arrays.nested.scopes) for choice in choices[1:]]
    for trial in own:
        save_outputs(
            trial.path(tmp_path / "less"), cross_validate(trial.choice, less, trial.scopes)
        )
    for key, choice in choose(tmp_path / "less", own, less, EnsembleSettings(size=3)).items():
        assert (choice.losses, choice.stacking) == (chosen[key].losses, chosen[key].stacking)


def test_a_whole_run(
    synthetic_store: RecordStore,
    tmp_path: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = yaml.safe_load((REPOSITORY / "tune_spaces/gate.yaml").read_text())
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space | {"joined": "features"}))
    values = settings(
        synthetic_store.path, tmp_path / "run", tasks=["rr_interval", "gender"],
        experts={"rocket": {"kernels": 40}, "beats": {}},
        stage1={"epochs": 2, "batch_size": 32, "heads": ["ridge"]},
        gate={"trials": 2, "space": str(tmp_path / "space.yaml")}, repeats=2,
    )  # fmt: skip
    config = write_config(tmp_path, values)
    run_stages(config, None, ["experts", "search", "ensemble"])
    capsys.readouterr()
    run_stages(config, ["ensemble.size=2"], ["ensemble"])  # of what is kept of the second repeat
    run_stages(config, None, ["experts", "search", "ensemble"])
    assert stranger(tmp_path / "run", INVENTORIES["run"]) is None
    results = read_json(tmp_path / "run" / "results.json")
    assert results["experts"]["beats"]["no_output_for"] == ["rr_interval"]
    assert "no_output_for" not in results["experts"]["rocket"]
    assert "beats" in results["tasks"]["gender"]["predictors"]
    assert "beats" not in results["tasks"]["rr_interval"]["predictors"]
    said = "beats has none for rr_interval"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "run" / "report.html").read_text()
    card = (tmp_path / "run" / "bundle" / "rr_interval" / "model_card.md").read_text()
    assert "`beats` has no output: it detects R-peaks" in card
    kept = read_predictions(tmp_path / "run" / FILE)
    assert {repeat for _, repeat in kept} == {0, 1}
    for repeat in (0, 1):
        weights_NE = kept["rr_interval", repeat].weights_NE
        assert weights_NE is not None
        np.testing.assert_array_equal(weights_NE, np.tile([1.0, 0.0], (len(weights_NE), 1)))
    bundles = {one.task.name: one for one in load_bundles(tmp_path / "run" / "bundle")}
    assert list(bundles["rr_interval"].experts) == ["rocket"]
    table = predict_store(tmp_path / "run" / "bundle", synthetic_store)
    assert "rr_interval__w__rocket" in table and "rr_interval__w__beats" not in table
    assert isinstance(table, pd.DataFrame) and table["rr_interval"].notna().all()
