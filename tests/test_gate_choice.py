"""Which way of combining goes into the bundle: the rule, on training groups, by inner folds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from enecg.config import EnsembleSettings
from enecg.gate.calibration import Calibration
from enecg.gate.ensemble import (
    GATED,
    PLAIN,
    Chosen,
    GateEnsemble,
    choose_way,
    gain_with_error,
)
from enecg.gate.network import constant_gate
from enecg.gate.trial import Arrays
from enecg.nested import Nested
from enecg.out_of_fold import predict_test_groups, said_in
from enecg.results import judge
from problems import AGE, GENDER

N = 400
SETTINGS = EnsembleSettings(size=3, bags=2)


def arrays(spreads: tuple[float, ...] = (5, 5.5, 30)) -> Arrays:
    """Experts for age that err by so much, each in a way of its own."""
    random = np.random.default_rng(0)
    nested = Nested(
        np.array([f"g{row // 2}" for row in range(N)], dtype=object),
        np.arange(N) // 2 % 2, np.arange(N) // 4 % 3, np.arange(N) // 2 % 5, ("0", "1"),
    )  # fmt: skip
    age = random.normal(50, 10, N)
    outputs = np.stack([age + random.normal(0, spread, N) for spread in spreads], axis=1)
    return Arrays(
        np.zeros((N, 12, 200), dtype=np.float16),
        {"age": np.tile(outputs[None, :, :, None], (3, 1, 1, 1)).astype(np.float32)},
        {"age": age}, nested, [AGE], [f"e{place}" for place in range(len(spreads))], 1,
    )  # fmt: skip


def trials_of(given: Arrays, *errors: float) -> list[np.ndarray]:
    """Gates' out-of-fold predictions that err by so much."""
    random = np.random.default_rng(5)
    age = given.targets["age"]
    return [(age + random.normal(0, e, N))[:, None].astype(np.float32) for e in errors]


def choose_one(given: Arrays, trials: list[np.ndarray]) -> Chosen:
    return choose_way(AGE, "0", trials, given, SETTINGS)


def test_gates_that_are_clearly_better_are_taken() -> None:
    given = arrays()
    found = choose_one(given, trials_of(given, 2, 2.2, 9))
    assert found.way in GATED and not found.weights
    assert found.members.total() > 0 and found.best == 0
    assert found.gain > found.error > 0
    assert set(found.losses) == {*GATED, *PLAIN}


def test_where_a_plain_way_is_as_good_it_is_taken() -> None:
    given = arrays((6, 6, 6))
    mixed = given.outputs["age"][0].mean(1)
    found = choose_one(given, [mixed, mixed])  # gates that do what the plain mean does
    assert found.way in PLAIN and not found.members
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.gain <= 1e-6


@pytest.mark.parametrize(
    ("spreads", "way"), [((4, 40, 40), "best expert"), ((6, 6, 6), "uniform"), ((5, 9), "stacking")]
)
def test_of_the_plain_ways_the_one_that_loses_least_is_taken(
    spreads: tuple[float, ...], way: str
) -> None:
    given = arrays(spreads)
    found = choose_one(given, trials_of(given, 30))
    least = min(PLAIN, key=found.losses.__getitem__)
    assert found.way == least
    assert found.losses[way] < 1.02 * found.losses[least]
    assert sum(found.weights.values()) == pytest.approx(1)


def test_a_way_is_judged_on_folds_it_was_fitted_without() -> None:
    """A stack of noise fits the records it was made for, and must not look good by that."""
    random = np.random.default_rng(3)
    given = arrays((9,) * 60)
    noise = given.targets["age"].mean() + random.normal(0, 9, given.outputs["age"].shape)
    given = replace(given, outputs={"age": noise.astype(np.float32)})
    found = choose_one(given, trials_of(given, 9))
    training = given.nested.training("0")
    weights = np.array([*found.stacking.values()])
    fitted = np.einsum("bec,e->bc", given.outputs["age"][0][training], weights)
    in_sample = AGE.loss(given.targets["age"][training], fitted)
    assert found.losses["stacking"] > in_sample + 0.1


def test_test_records_have_no_say() -> None:
    given = arrays()
    trials = trials_of(given, 2, 6)
    before = choose_one(given, trials)
    test = given.nested.test("0")
    target = given.targets["age"].copy()
    target[test] = 0
    for one in trials:
        one[test] = np.nan
    assert choose_one(replace(given, targets={"age": target}), trials) == before


def test_the_error_of_a_gain_counts_groups_not_records() -> None:
    random = np.random.default_rng(0)
    of_group = random.normal(0.3, 1, 200)
    mean, error = gain_with_error(of_group, np.arange(200).astype(str))
    assert (mean, error) == pytest.approx((of_group.mean(), of_group.std() / 200**0.5))
    repeated = np.repeat(of_group, 4)
    same = gain_with_error(repeated, np.repeat(np.arange(200), 4).astype(str))
    assert same == pytest.approx((mean, error))


def chosen_of(given: Arrays) -> dict[tuple[str, str], Chosen]:
    weights = {"e0": 0.5, "e1": 0.5, "e2": 0.0}
    plain = Chosen("uniform", Counter(), weights, Calibration(), 0, weights)
    return {("age", scope): plain for scope in given.nested.scopes}


def test_a_missing_output_shifts_weight_and_counts_as_the_dummys_where_nobody_has_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    given = arrays()
    outputs = given.outputs["age"].copy()
    outputs[:, 7, 0] = np.nan
    outputs[:, 8, :2] = np.nan
    given = replace(given, outputs={"age": outputs})
    gates = {("age", scope, 0): constant_gate({"e0": 1.0}) for scope in given.nested.scopes}
    said = predict_test_groups(AGE, given, chosen_of(given), gates)
    predictions, weights = said.by_predictor, said.weights_NE
    assert predictions["ensemble"][7, 0] == pytest.approx(outputs[0, 7, 1, 0])
    assert weights[7].tolist() == [0, 1, 0] and weights[6].tolist() == [0.5, 0.5, 0]
    assert predictions["ensemble"][8, 0] == predictions["dummy"][8, 0]
    assert predictions["uniform"][8, 0] == pytest.approx(outputs[0, 8, 2, 0])
    assert predictions["e0"][7, 0] == predictions["dummy"][7, 0]
    assert all(np.isfinite(one).all() for one in predictions.values())
    assert "e0 has no output for 2 records" in capfd.readouterr().err


def test_an_ensemble_averages_its_members_and_then_calibrates() -> None:
    members = [(2, constant_gate({"a": 1.0})), (1, constant_gate({"b": 1.0}))]
    outputs = np.array([[[0.9, 0.1], [0.3, 0.7]], [[np.nan, np.nan], [0.3, 0.7]]], np.float32)
    view = np.zeros((2, 12, 200), dtype=np.float16)
    plain, weights = GateEnsemble(members).predict(view, outputs, ["a", "b"], GENDER)
    np.testing.assert_allclose(plain, [[0.7, 0.3], [0.3, 0.7]], rtol=1e-5)
    np.testing.assert_allclose(weights, [[2 / 3, 1 / 3], [0, 1]], rtol=1e-6)
    sharp = GateEnsemble(members, Calibration("temperature", 0.5))
    found, _ = sharp.predict(view, outputs, ["a", "b"], GENDER)
    np.testing.assert_allclose(found[0], [0.49 / 0.58, 0.09 / 0.58], rtol=1e-5)
    nobody, none = sharp.predict(view, np.full_like(outputs, np.nan), ["a", "b"], GENDER)
    assert np.isnan(nobody).all() and (none == 0).all()


def test_results_compare_the_ensemble_with_what_is_plainer() -> None:
    given = arrays((5, 5, 30))
    gates = {("age", scope, 0): constant_gate({"e0": 1.0}) for scope in given.nested.scopes}
    chosen = chosen_of(given)
    said = said_in([AGE], given, chosen, gates)
    found = judge(AGE, given.targets["age"], [said], [given.nested], given.experts, given.seed)
    comparisons = found["comparisons"]
    assert set(comparisons) == {"best_expert", "uniform", "stacking", "gate"}
    assert comparisons["best_expert"]["against"] in ("e0", "e1")
    assert comparisons["best_expert"]["verdict"] == "better"
    assert comparisons["uniform"]["verdict"] == "better"
    assert comparisons["stacking"]["verdict"] == "the same"
    # The gate is e0 alone; the best plain combination is stacking, of the experts without error.
    assert comparisons["gate"]["against"] == "stacking"
    assert comparisons["gate"]["verdict"] == "worse"
    absolute = {scope: replace(one, absolute_stacking={"e2": 1.0}) for scope, one in chosen.items()}
    again = said_in([AGE], given, absolute, gates)
    found_again = judge(
        AGE, given.targets["age"], [again], [given.nested], given.experts, given.seed
    )
    assert found_again["comparisons"]["absolute_stacking"]["verdict"] == "better"
    difference = comparisons["uniform"]["difference"]
    means = [found["predictors"][name]["mae"]["mean"] for name in ("ensemble", "uniform")]
    assert difference["mean"] == pytest.approx(means[0] - means[1])
    assert difference["ci95"][0] < difference["mean"] < difference["ci95"][1] < 0
    assert found["decisions"]["all"]["way"] == "uniform"
