"""The simulation of what intervals cover runs; in a small one, what it is there to show holds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from enecg.evaluation.metrics import score
from enecg.tasks import TASKS

SHUFFLED = ", permuted labels"
FILE = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module, with fewer trainings behind the truth."""
    spec = importlib.util.spec_from_file_location("coverage_benchmark", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TRAININGS", 40)
    monkeypatch.setattr(module, "POPULATION", 4000)
    return module


def number_of(simulation: ModuleType, name: str, kind: str) -> int:
    [number] = [
        number
        for number, one in enumerate(simulation.settings())
        if one.name == name and one.task.kind == kind
    ]
    return number


def test_new_intervals_cover_permuted_labels_where_those_before_do_not(
    simulation: ModuleType,
) -> None:
    number = number_of(simulation, "n=100, prevalence=0.5, permuted labels", "classification")
    rare = number_of(simulation, "n=100, prevalence=0.03", "classification")
    found = simulation.results_of([number, rare], 60, 2)
    json.dumps(found)
    name = "auroc, n=100, prevalence=0.5, permuted labels"
    assert found["coverage"][name] >= 0.93 > found["coverage_before"][name]
    assert found["truth"][name] == pytest.approx(0.5, abs=0.01)
    assert found["false_verdicts"] <= 0.07 < found["false_verdicts_before"]
    assert all(0.0 <= share <= 1.0 for share in found["coverage"].values())
    # Three events in a hundred records: no interval is given, so none is judged; but the rest is
    # large enough for its own share.
    given = {key.partition(",")[0] for key in found["coverage"] if "0.03" in key}
    assert given == {"specificity", "npv", "specificity by threshold", "npv by threshold"}
    assert all(found["coverage"][f"{rate}{name[5:]}"] >= 0.9 for rate in simulation.RATES)
    assert any("0.03" in key for key in found["coverage_before"])
    assert (
        found["calibrated"]["n=100"]["mean, debiased"]
        < found["calibrated"]["n=100"]["mean, before"]
    )


def test_repeats_steady_an_unstable_learner(simulation: ModuleType) -> None:
    once, often = (
        number_of(simulation, f"n=300, prevalence=0.5{repeats}, unstable learner", "classification")
        for repeats in ("", ", repeats=5")
    )
    found = simulation.results_of([once, often], 20, 2)
    widths = [
        found["width"][f"auroc, {simulation.settings()[number].name}"] for number in (once, often)
    ]
    assert widths[1] < widths[0]


def test_every_setting_has_a_name_of_its_own_and_the_same_seed_gives_the_same(
    simulation: ModuleType,
) -> None:
    names = [(one.task.kind, one.name) for one in simulation.settings()]
    assert len(set(names)) == len(names)
    one = simulation.simulate(simulation.settings()[0], [2, 0, 0], 3)
    again = simulation.simulate(simulation.settings()[0], [2, 0, 0], 3)
    assert one == again and one != simulation.simulate(simulation.settings()[0], [2, 0, 1], 3)


def test_ranges_of_values_are_judged_and_the_json_grows_setting_by_setting(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(simulation, "TRAININGS", 4)
    numbers = [number_of(simulation, f"n=100{more}", "regression") for more in ("", SHUFFLED)]
    written: list[tuple[int, int]] = []
    write = simulation.write_json

    def counted(path: Path, found: dict[str, Any]) -> None:
        written.append((len(found["cpu_seconds"]), len(found["calibrated"])))
        write(path, found)

    monkeypatch.setattr(simulation, "write_json", counted)
    found = simulation.results_of(numbers, 40, 1, tmp_path / "coverage.json")
    assert written == [(1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert json.loads((tmp_path / "coverage.json").read_text()) == found
    for one in found["ranges"].values():
        assert one["asked"] == 0.9 and 0.86 < one["coverage"] < 0.96
        assert one["data_sets"] == 40
    assert set(found["data_sets"].values()) == {40}
    assert all(name.startswith(("mae", "mse", "r2")) for name in found["coverage"])
    table = simulation.markdown(found)
    assert "| n=100 | " in table and "inside, %" in table


def test_its_fast_scores_are_the_metrics(simulation: ModuleType) -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(2, size=80).astype(float), rng.random(80).round(1)
    predicted = np.stack([1 - p, p], axis=1)
    fast = simulation.scores(TASKS["gender"], y, predicted)
    plain = score(TASKS["gender"], y, predicted)
    assert set(fast) == set(plain) - {"ece"}
    assert all(fast[metric] == pytest.approx(plain[metric]) for metric in fast)


def test_impossible_numbers_are_refused(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["coverage.py", "--json", "x.json", "--data-sets", "0"])
    with pytest.raises(SystemExit, match="2"):
        simulation.main()
    assert "at least 1" in capsys.readouterr().err
