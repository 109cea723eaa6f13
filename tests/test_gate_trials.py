"""As many gates are tried as are asked for, all different, or as many as there are."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from enecg.config import parse_config
from enecg.gate import search
from enecg.gate.search import drawn_choices, run_trials
from enecg.gate.space import GateChoice, Space, plain_choices
from enecg.spaces import Chance
from test_gate_space import EXPERTS, FIXED, SHIPPED


def space(folder: Path, **changes: Any) -> Space:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(FIXED | changes))
    return Space(path, EXPERTS[:3])


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 1),
        ({"depth": {"choose": [0, 1, 1, 0, 2]}}, 3),
        ({"width": {"choose": [4, 4.0, 8]}, "depth": {"choose": [0, 1]}}, 4),
        ({"leads": {"choose": ["rhythm", "II+V1+V5", "V5+V1+II", "all"]}}, 2),
        ({"leads": {"any": [1, 2], "of": "limb"}}, 6),
        ({"leads": {"any": 6, "of": "all"}}, math.comb(12, 6)),
        ({"experts": {"any": [1, 6], "of": "all"}}, 7),
        ({"experts": {"choose": ["all", ["rocket", "dlinear", "moment"], "rocket"]}}, 2),
        ({"experts": {"any": 2, "of": ["rocket", "moment"]}, "depth": {"choose": [1, 2]}}, 2),
        ({"dropout": {"uniform": [0.25, 0.25]}, "epochs": {"choose": [1, 2]}}, 2),
        ({"depth": {"choose": [0] * 900 + [1]}, "epochs": {"choose": [1] * 900 + [2]}}, 4),
    ],
)
def test_a_finite_space_gives_each_of_its_gates_once(
    changes: dict[str, Any], size: int, tmp_path: Path
) -> None:
    whole = space(tmp_path, **changes).different(size + 50, seed=3)
    assert len(whole) == len(set(whole)) == size
    for count in (1, size // 2, size):
        assert len(set(space(tmp_path, **changes).different(count, seed=3))) == count


def test_what_was_drawn_before_is_drawn_over() -> None:
    """Where nothing repeats, the gates are those of the draws 0, 1, 2, …, as before."""
    shipped = Space(SHIPPED, EXPERTS)
    plain = plain_choices(EXPERTS)
    assert shipped.different(64, 42, plain) == [shipped.draw(Chance(42, n)) for n in range(64)]


def test_draws_that_repeat_are_replaced_by_the_next(tmp_path: Path) -> None:
    small = space(tmp_path, width={"choose": list(range(1, 41))})
    drawn = [small.draw(Chance(7, number)) for number in range(200)]
    assert len(set(drawn[:30])) < 30
    assert small.different(30, 7) == list(dict.fromkeys(drawn))[:30]


def test_plain_gates_do_not_count(tmp_path: Path) -> None:
    plain = plain_choices(EXPERTS[:3])
    same = plain[0].model_dump()
    forms = {key: "+".join(value) if key == "leads" else value for key, value in same.items()}
    forms |= {"experts": {"any": [1, 3], "of": "all"}}
    found = space(tmp_path, **forms).different(10, 1, plain)
    assert {choice.experts for choice in found} == {
        ("rocket", "dlinear"), ("rocket", "moment"), ("dlinear", "moment"),
    }  # fmt: skip


def test_a_vast_number_of_a_small_space_takes_no_time(tmp_path: Path) -> None:
    config = parse_config(
        {
            "records": "r", "run_dir": "d", "tasks": ["age"], "experts": {"rocket": None},
            "gate": {"trials": 100_000, "space": str(space(tmp_path).path)},
        }
    )  # fmt: skip
    started = time.process_time()
    huge = config.model_copy(update={"gate": config.gate.model_copy(update={"trials": 10**11})})
    assert len(drawn_choices(huge)) == 1
    assert time.process_time() - started < 60


@pytest.mark.parametrize("scheduler", ["none", "asha"])
def test_fewer_than_asked_for_is_said(
    scheduler: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The trials themselves are not what this is about: those that would run are noted."""
    ran: list[GateChoice] = []

    def note(name: str, trials: list[Any], *_: Any) -> float:
        ran.extend(trial.choice for trial in trials)
        return 0.0

    monkeypatch.setattr(search, "run_given", note)
    arrays: Any = SimpleNamespace(
        experts=["rocket", "again"], nested=SimpleNamespace(scopes=("0", "1", "all"))
    )
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(FIXED | {"depth": {"choose": [0, 1, 2, 3, 4]}}))
    config = parse_config(
        {
            "records": "r", "run_dir": "d", "tasks": ["age"],
            "experts": {name: {"expert": "rocket"} for name in arrays.experts},
            "gate": {"trials": 32, "space": str(path), "scheduler": scheduler},
        }
    )  # fmt: skip
    run_trials(config, tmp_path, arrays)
    drawn = [choice for choice in ran if choice.epochs > 0]
    assert {choice.depth for choice in drawn} == {0, 1, 2, 3, 4}
    assert len(drawn) == (5 if scheduler == "none" else 5 * len(arrays.nested.scopes))
    assert "gate.trials: 32 asked for, 5 tried" in capsys.readouterr().err
