"""Search spaces of gates: their forms and mistakes; trials depend on seed and n alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from enecg.errors import UserError
from enecg.gate.space import LEAD_GROUPS, GateChoice, Space, leads_named
from enecg.gate.tuning import _Suggestions
from enecg.signals import LEADS
from enecg.spaces import Chance

SHIPPED = Path(__file__).parents[1] / "tune_spaces" / "gate.yaml"
EXPERTS = ["rocket", "dlinear", "moment", "tempo", "ecg_fm", "timesnet"]
FIXED: dict[str, Any] = {
    "leads": "II", "experts": "all", "depth": 1, "width": 8, "dropout": 0.1, "temperature": 1.0,
    "learning_rate": 0.01, "weight_decay": 0.1, "epochs": 2,
}  # fmt: skip


def draw_trials(path: Path, experts: list[str], trials: int, seed: int) -> list[GateChoice]:
    space = Space(path, experts)
    return [space.draw(Chance(seed, number)) for number in range(trials)]


def draws(folder: Path, trials: int = 40, seed: int = 1, **changes: Any) -> list[GateChoice]:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(FIXED | changes))
    return draw_trials(path, EXPERTS[:3], trials, seed)


def drawn(folder: Path, key: str, form: Any, **more: Any) -> list[Any]:
    return [getattr(choice, key) for choice in draws(folder, **{key: form}, **more)]


@pytest.mark.parametrize("n_experts", [1, 2, 6])
def test_the_shipped_space_draws_valid_and_varied_gates(n_experts: int) -> None:
    choices = draw_trials(SHIPPED, EXPERTS[:n_experts], 64, 42)
    assert len(choices) == 64
    for choice in choices:
        assert 1 <= len(choice.experts) <= n_experts
        assert list(choice.experts) == [e for e in EXPERTS[:n_experts] if e in choice.experts]
        assert list(choice.leads) == [lead for lead in LEADS if lead in choice.leads]
    assert {len(choice.experts) for choice in choices} == set(range(1, n_experts + 1))
    assert len({choice.leads for choice in choices}) == 8
    assert len(set(choices)) == 64


def test_the_nth_trial_depends_on_the_seed_and_n_alone() -> None:
    few, many = (draw_trials(SHIPPED, EXPERTS, trials, 3) for trials in (5, 20))
    assert many[:5] == few
    assert draw_trials(SHIPPED, EXPERTS, 5, 4) != few


def test_a_space_of_constants_has_one_gate(tmp_path: Path) -> None:
    assert set(draws(tmp_path)) == {
        GateChoice.model_validate(FIXED | {"leads": "II", "experts": EXPERTS[:3]})
    }


@pytest.mark.parametrize(
    ("key", "form", "found"),
    [
        ("width", {"choose": [4, 16]}, {4, 16}),
        ("depth", 0, {0}),
        ("leads", {"choose": ["II", "i + v1", ["V1", "II"]]}, {("II",), ("I", "V1"), ("II", "V1")}),
        ("leads", ["aVR", "I"], {("I", "aVR")}),
        ("experts", "dlinear", {("dlinear",)}),
        ("experts", ["rocket", "moment"], {("rocket", "moment")}),
        ("experts", {"choose": [["rocket"], "all"]}, {("rocket",), tuple(EXPERTS[:3])}),
        (
            "experts",
            {"of": ["rocket", "moment"], "any": [1, 1]},
            {("rocket",), ("moment",)},
        ),
        ("experts", {"of": "all", "any": [3, 9]}, {tuple(EXPERTS[:3])}),
        ("experts", {"of": "all", "any": 3}, {tuple(EXPERTS[:3])}),
        ("leads", {"any": 1, "of": "limb"}, {("I",), ("II",), ("III",)}),
        ("leads", {"any": 2, "of": ["III", "V1+I"]}, {("I", "III"), ("I", "V1"), ("III", "V1")}),
        ("encoder", {"choose": ["mlp", "conv"]}, {"mlp", "conv"}),
        ("mix", "logits", {"logits"}),
        ("top_k", {"choose": [0, 2]}, {0, 2}),
        ("learning_rate", "1e-2", {0.01}),
    ],
)
def test_each_form_draws_all_of_its_values(
    key: str, form: Any, found: set[Any], tmp_path: Path
) -> None:
    assert set(drawn(tmp_path, key, form)) == found


@pytest.mark.parametrize("limits", [[0.001, 0.1], ["1e-3", "1e-1"]])
def test_ranges_are_drawn_from_evenly_or_by_logarithm(limits: list[Any], tmp_path: Path) -> None:
    """YAML reads ``1e-3``, without a point, as text."""
    for form, middle in (("uniform", 0.0505), ("log_uniform", 0.01)):
        values = np.array(drawn(tmp_path, "learning_rate", {form: limits}, trials=300))
        assert ((values >= 0.001) & (values <= 0.1)).all()
        assert 0.4 < (values < middle).mean() < 0.6


@pytest.mark.parametrize(
    ("text", "leads"),
    [
        ("ii", ("II",)),
        ("AVR+avl", ("aVR", "aVL")),
        ("V5+II+v5", ("II", "V5")),
        ("Rhythm", ("II", "V1", "V5")),
        (" limb + V2 ", ("I", "II", "III", "V2")),
        ("limb+augmented+precordial", LEADS),
        ("all", LEADS),
    ],
)
def test_leads_go_by_name_in_any_case_and_by_group(text: str, leads: tuple[str, ...]) -> None:
    assert leads_named(text) == leads


def test_what_a_choice_is_saved_as_gives_the_choice_again(tmp_path: Path) -> None:
    for choice in draw_trials(SHIPPED, EXPERTS, 8, 1):
        assert GateChoice.model_validate(choice.model_dump(mode="json")) == choice
        joined = choice.model_dump() | {"leads": "+".join(choice.leads)}
        assert GateChoice.model_validate(joined) == choice
    assert set(LEAD_GROUPS["all"]) == set(LEADS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"wdith": 3}, r"unknown key 'wdith', did you mean 'width'\?; allowed: leads, experts"),
        ({"leads": "V7"}, "leads: no lead or group 'V7'.*known: I, II, .*rhythm, all"),
        ({"leads": ["I", "limbs"]}, "no lead or group 'limbs', did you mean 'limb'"),
        ({"leads": []}, "no lead or group ''"),
        ({"leads": {"choose": [3]}}, "leads: .*not 3"),
        ({"experts": "rokcet"}, "no expert 'rokcet' in this experiment, did you mean 'rocket'"),
        ({"experts": ["rocket", "tempo"]}, "experts: no expert 'tempo'.*rocket, dlinear, moment"),
        ({"experts": {"choose": [["tempo"]]}}, "experts: no expert 'tempo'"),
        ({"experts": {"of": "al", "any": [1, 2]}}, "no expert 'al'.*did you mean 'all'"),
        ({"experts": ["rocket", "rocket"]}, "experts: rocket stands there more than once"),
        ({"experts": {"of": "all", "any": [0, 0]}}, "experts: .*is none of.*any"),
        ({"leads": {"of": "limbs", "any": 2}}, "leads: .*did you mean 'limb'"),
        ({"experts": {"of": "all", "any": [3, 1]}}, "is none of.*any"),
        ({"experts": {"of": "all"}}, "is none of.*any"),
        ({"width": {"of": "all", "any": [1, 2]}}, "width: .*is none of.*leads and experts"),
        ({"depth": {"chose": [1, 2]}}, "depth: .*'chose'.*is none of {choose"),
        ({"depth": {"choose": []}}, "depth: .*is none of {choose"),
        ({"depth": {"choose": [1], "uniform": [0, 1]}}, "depth: .*is none of {choose"),
        ({"depth": {"uniform": [0.1, 0.9]}}, "depth: .*integer"),
        ({"depth": 9}, "depth: .*less than or equal to 8, not 9"),
        ({"width": 0}, "width: .*greater than or equal to 1, not 0"),
        ({"dropout": 1}, "dropout: .*less than 1, not 1"),
        ({"dropout": {"uniform": [0.5]}}, "dropout: .*is none of"),
        ({"dropout": {"uniform": [0.5, 0.1]}}, "dropout: .*is none of"),
        ({"temperature": {"uniform": [float("nan"), 1]}}, "temperature: .*is none of"),
        ({"temperature": 0}, "temperature: .*greater than 0, not 0"),
        ({"learning_rate": float("inf")}, "learning_rate: .*finite"),
        ({"learning_rate": {"log_uniform": [0, 1]}}, "learning_rate: .*is none of"),
        ({"encoder": "cnn"}, "encoder: .*'mlp' or 'conv', not 'cnn'"),
        ({"encoder": {"choose": ["mlp"] * 40 + ["cnn"]}}, "encoder: .*'mlp' or 'conv', not 'cnn'"),
        ({"dropout": {"uniform": [0.0, 1.0]}}, "dropout: .*less than 1, not 1"),
        ({"balance": -1}, "balance: .*greater than or equal to 0"),
        ({"epochs": None}, "epochs: .*not None"),
    ],
)
def test_mistakes_name_file_and_key_and_what_is_allowed(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told) as caught:
        draws(tmp_path, **changes)
    assert str(caught.value).startswith("gate.space: ")
    assert str(tmp_path / "space.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no file"),
        ("a: [", "cannot read"),
        ("[leads]", "must map leads, experts"),
        ("leads: II\nwidth: 3", "lacks experts, depth, dropout, temperature"),
    ],
)
def test_a_file_that_is_no_space_is_named(text: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        draw_trials(path, EXPERTS, 1, 1)
    assert str(path) in str(caught.value)


def test_any_k_of_twelve_is_drawn_evenly(tmp_path: Path) -> None:
    found = drawn(tmp_path, "leads", {"any": 3, "of": "all"}, trials=400)
    assert {len(leads) for leads in found} == {3}
    counts = [sum(lead in leads for leads in found) for lead in LEADS]
    assert min(counts) > 60 and max(counts) < 140  # 100 each on average


def test_a_searcher_can_propose_every_gate_of_the_shipped_space() -> None:
    """The same space is drawn from by chance and by Optuna."""
    space = Space(SHIPPED, EXPERTS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    choices = [space.draw(_Suggestions(study.ask())) for _ in range(40)]
    assert len(set(choices)) == 40
    assert {len(choice.experts) for choice in choices} == set(range(1, 7))
    for key in ("encoder", "joined", "weights_per", "mix"):
        assert len({getattr(choice, key) for choice in choices}) == 2


def test_a_space_says_whether_some_gate_may_be_so(tmp_path: Path) -> None:
    for form, may in (
        ("features", True), ({"choose": ["nothing", "features"]}, True), ("outputs", False),
        ({"choose": ["nothing", "outputs"]}, False),
    ):  # fmt: skip
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump(FIXED | {"joined": form}))
        assert Space(path, EXPERTS).may_be("joined", "features") == may
    path.write_text(yaml.safe_dump(FIXED))
    assert not Space(path, EXPERTS).may_be("joined", "features")
