"""The search on a real cluster: every searcher and scheduler, interrupted and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages.journal import JournalFileBackend

from enecg.config import Config, EnsembleSettings, parse_config
from enecg.errors import UserError
from enecg.gate import tuning
from enecg.gate.ensemble import choose
from enecg.gate.search import run_trials, trials_table
from enecg.gate.space import Space, plain_choices
from enecg.gate.trial import Arrays, cross_validate
from enecg.gate.tuning import OBJECTIVE, STUDIES, TUNE, Trial, run_given, run_optuna, study_name
from enecg.nested import Nested
from enecg.progress import Counter
from enecg.spaces import Chance
from enecg.stage1.adapted import save_outputs
from problems import AGE, FINDINGS

pytestmark = pytest.mark.usefixtures("ray_cluster")
N = 80


@pytest.fixture
def arrays() -> Arrays:
    """Two experts of which one is better; a regression and several labels; two outer folds."""
    random = np.random.default_rng(0)
    nested = Nested(
        np.array([f"g{row}" for row in range(N)], dtype=object), random.integers(0, 2, N),
        random.integers(0, 2, N), random.integers(0, 5, N), ("0", "1"),
    )  # fmt: skip
    age = random.normal(50, 10, N)
    holds = random.integers(0, 2, (N, FINDINGS.width)).astype(float)
    outputs = {
        "age": np.stack([age + random.normal(0, spread, (3, N)) for spread in (4, 12)], axis=-1),
        "findings": np.stack(
            [np.abs(holds - blur)[None].repeat(3, 0) for blur in (0.2, 0.45)], axis=2
        ),
    }
    outputs["age"] = outputs["age"][..., None]
    return Arrays(
        random.normal(size=(N, 12, 200)).astype(np.float16),
        {name: values.astype(np.float32) for name, values in outputs.items()},
        {"age": age, "findings": holds}, nested, [AGE, FINDINGS], ["good", "poor"], 3,
    )  # fmt: skip


def config(folder: Path, **gate: Any) -> Config:
    space = {
        "leads": {"any": [1, 2], "of": "limb"}, "experts": {"any": [1, 2], "of": "all"},
        "depth": 0, "width": 4, "dropout": {"uniform": [0, 0.5]}, "temperature": 1.0,
        "learning_rate": {"log_uniform": [1e-3, 1e-1]}, "weight_decay": 0.1, "epochs": 5,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return parse_config(
        {
            "records": "r", "run_dir": "d", "tasks": ["age"], "seed": 3,
            "experts": {"good": {}, "poor": {}},
            "gate": {"space": str(folder / "space.yaml"), "trials": 3, **gate},
        }
    )  # fmt: skip


def test_a_random_search_tries_the_plain_gates_and_those_drawn_in_every_scope(
    arrays: Arrays, tmp_path: Path
) -> None:
    trials, peak = run_trials(config(tmp_path), tmp_path, arrays)
    assert len(trials) == 3 + 3 and peak > 50
    assert {trial.scopes for trial in trials} == {("0", "1", "all")}
    for trial in trials:
        found, alone = trial.predictions(tmp_path), cross_validate(trial.choice, arrays, ("1",))
        for task in arrays.tasks:
            np.testing.assert_array_equal(found[task.name][1], alone[task.name][0])
    table = trials_table(tmp_path, trials, arrays)
    assert table["finished"].all() and table["trial"].tolist() == [*range(6)]
    assert table.loc[2, OBJECTIVE] == pytest.approx(1)  # the plain mean itself
    assert table.loc[0, OBJECTIVE] < 1 < table.loc[1, OBJECTIVE]
    assert {"loss/age/0", "loss/findings/all", "leads", "epochs"} <= set(table)
    assert len([*(tmp_path / TUNE / "all").glob("trial-*/events.out.tfevents.*")]) == 6


def test_what_has_run_is_not_run_again(arrays: Arrays, tmp_path: Path) -> None:
    first, _ = run_trials(config(tmp_path), tmp_path, arrays)
    table = trials_table(tmp_path, first, arrays)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "predictions").iterdir()}
    lost = first[4].path(tmp_path)
    lost.unlink()
    again, _ = run_trials(config(tmp_path), tmp_path, arrays)
    assert again == first
    pd.testing.assert_frame_equal(trials_table(tmp_path, again, arrays), table)
    for path in (tmp_path / "predictions").iterdir():
        assert (path.stat().st_mtime_ns == kept[path]) == (path != lost)


def progress() -> Counter:
    return Counter("gate search", 1, "trials", None)


def test_optuna_searches_one_scope_and_goes_on_where_it_stopped(
    arrays: Arrays, tmp_path: Path
) -> None:
    def search(trials: int) -> list[Trial]:
        gate = config(tmp_path, searcher="optuna", trials=trials).gate
        space = Space(Path(gate.space), arrays.experts)
        found, peak = run_optuna("1", space, tmp_path, arrays, gate, progress())
        assert (peak > 50) == (trials != 3), "what needs no trial starts no process"
        return found

    two = search(2)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / STUDIES)))
    gate = config(tmp_path, searcher="optuna").gate
    name = study_name("1", Space(Path(gate.space), arrays.experts), gate)
    left = optuna.load_study(study_name=name, storage=storage).ask()
    four = search(4)
    assert four[:2] == two and len(set(four)) == 4
    assert {trial.scopes for trial in four} == {("1",)}
    assert all(trial.path(tmp_path).exists() for trial in four)
    study = optuna.load_study(study_name=name, storage=storage)
    # What a killed search left running is given up.
    assert study.trials[left.number].state == optuna.trial.TrialState.FAIL
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert all(trial.value is not None and 0 < trial.value < 5 for trial in complete)
    assert search(3) == four[:3], "an earlier search asked for more"


def test_an_adaptive_search_stays_within_each_scope_and_can_be_chosen_from(
    arrays: Arrays, tmp_path: Path
) -> None:
    """What is tried next depends on labels, so no scope may learn of another's trials."""
    given = config(tmp_path, searcher="optuna", scheduler="asha", trials=3)
    trials, _ = run_trials(given, tmp_path, arrays)
    scopes = [trial.scopes for trial in trials]
    assert scopes[:3] == [arrays.nested.scopes] * 3, "the plain gates are tried everywhere"
    assert scopes[3:] == [(scope,) for scope in arrays.nested.scopes for _ in range(3)]
    table = trials_table(tmp_path, trials, arrays)
    assert table["finished"][:3].all() and table["finished"][3:].any()
    assert table[OBJECTIVE].notna().tolist() == table["finished"].tolist()
    for (_, scope), found in choose(tmp_path, trials, arrays, EnsembleSettings(size=2)).items():
        for number in (*found.members, found.best):
            assert scope in trials[number].scopes and table["finished"][number]


def test_a_changed_space_is_searched_anew(arrays: Arrays, tmp_path: Path) -> None:
    """Optuna would refuse other choices in the same study, and count the old space's trials."""
    gate = config(tmp_path, searcher="optuna", trials=1).gate
    text = Path(gate.space).read_text()
    found = []
    for width in (4, 16):
        path = tmp_path / f"{width}.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"width": {"choose": [width]}}))
        space = Space(path, arrays.experts)
        found += run_optuna("1", space, tmp_path, arrays, gate, progress())[0]
    assert [trial.choice.width for trial in found] == [4, 16]
    asha = gate.model_copy(update={"scheduler": "asha"})
    assert study_name("1", space, gate) != study_name("1", space, asha)


def test_asha_stops_some_and_those_leave_no_predictions(arrays: Arrays, tmp_path: Path) -> None:
    gate = config(tmp_path, scheduler="asha", trials=8, max_parallel=1).gate
    space = Space(Path(gate.space), arrays.experts)
    trials = [Trial(space.draw(Chance(3, number)), ("1",)) for number in range(8)]
    run_given("scope-1", trials, tmp_path, arrays, gate, progress())
    finished = [trial.path(tmp_path).exists() for trial in trials]
    assert any(finished) and not all(finished)
    plain = [Trial(choice, arrays.nested.scopes) for choice in plain_choices(arrays.experts)]
    for trial in plain:
        save_outputs(trial.path(tmp_path), cross_validate(trial.choice, arrays, trial.scopes))
    table = trials_table(tmp_path, [*plain, *trials], arrays)
    assert table["finished"].tolist() == [True] * 3 + finished
    assert table[OBJECTIVE].isna().tolist() == [False] * 3 + [not f for f in finished]
    assert table["scope"].tolist() == ["every"] * 3 + ["1"] * 8


def test_as_many_trials_at_a_time_as_there_are_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, one = config(tmp_path).gate, config(tmp_path, max_parallel=1).gate
    assert tuning.side_by_side(one) == 1
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    assert tuning.side_by_side(auto) == 2  # a local cluster says four
    monkeypatch.setattr(tuning.ray, "nodes", lambda: [{}, {}])
    monkeypatch.setattr(tuning.ray, "cluster_resources", lambda: {"CPU": 48.0})
    assert tuning.side_by_side(auto) == 48


def test_unknown_searchers_and_schedulers_are_refused(tmp_path: Path) -> None:
    for wrong in ({"searcher": "tpe"}, {"scheduler": "hyperband"}):
        with pytest.raises(UserError, match=r"gate\.(searcher|scheduler) should be"):
            config(tmp_path, **wrong)
