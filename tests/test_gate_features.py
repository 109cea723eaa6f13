"""What gates see of experts' features: learned fold by fold, from training records alone."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enecg.gate.features import Reduction, fit_reduction, reduce_features
from enecg.gate.network import SHOWN
from enecg.nested import Fit, Nested
from enecg.stage1.adapted import load_outputs, save_outputs
from problems import small_problem

N = 120
ROWS = np.random.default_rng(1).random(N) < 0.6


def features(n: int = N, width: int = 30) -> np.ndarray:
    """A few causes behind many features of all sizes; one of them never varies."""
    random = np.random.default_rng(0)
    causes_NK = random.normal(size=(n, 12)) * np.arange(12, 0, -1)
    f_ND = causes_NK @ random.normal(size=(12, width)) * 10.0 ** random.uniform(-3, 3, width)
    f_ND[:, 4] = 2.5
    return f_ND.astype(np.float32)


def parts(reduction: Reduction) -> list[bytes]:
    return [getattr(reduction, field.name).tobytes() for field in fields(reduction)]


def test_what_is_seen_has_mean_0_and_deviation_1_and_is_uncorrelated() -> None:
    f_ND = features()
    shown_BK = fit_reduction(f_ND, ROWS, 0)(f_ND[ROWS])
    assert shown_BK.shape == (ROWS.sum(), SHOWN)
    assert shown_BK.dtype == np.float32
    np.testing.assert_allclose(shown_BK.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(shown_BK.T), np.eye(SHOWN), atol=1e-3)


@pytest.mark.parametrize(("n", "width"), [(5, 30), (60, 3), (2, 6)])
def test_few_records_or_features_leave_the_rest_at_0(n: int, width: int) -> None:
    f_ND = features(width=max(width, 5))[:, :width]
    rows = np.arange(N) < n
    shown_NK = fit_reduction(f_ND, rows, 0)(f_ND)
    assert shown_NK.shape == (N, SHOWN)
    assert np.isfinite(shown_NK).all()
    assert (shown_NK[:, min(n, width) :] == 0).all()


def test_a_wild_record_stays_within_reach() -> None:
    f_ND = features()
    wild = f_ND[:1].copy()
    wild[0, 4] = 1e20  # never varied in training
    assert np.abs(fit_reduction(f_ND, ROWS, 0)(wild)).max() < 50


class _Leaky(Nested):
    """Breaks the rule: every fit learns from all records."""

    def learns_from(self, fit: Fit) -> Any:
        return np.ones(len(self.outer_N), dtype=bool)


@pytest.mark.parametrize("kind", [Nested, _Leaky])
def test_features_of_held_out_records_reach_nothing_learned_without_them(kind: type) -> None:
    """Bit for bit; and the check fires where the rule is broken."""
    made = small_problem(N).nested
    nested = kind(**{field.name: getattr(made, field.name) for field in fields(made)})
    f_ND = features()
    for hidden, fit in (
        (made.test("1"), Fit("1", None)),
        (made.test("1"), Fit("1", 0)),
        (made.held_out(Fit("0", 2)), Fit("0", 2)),
    ):
        noisy = f_ND.copy()
        noisy[hidden] = np.random.default_rng(5).normal(size=(hidden.sum(), f_ND.shape[1]))
        seen = [reduce_features([None, one], nested, 0) for one in (f_ND, noisy)]
        shown = [found[fit.key][~hidden].tobytes() for found, _ in seen]
        assert (shown[0] == shown[1]) == (kind is Nested)
        if fit.inner is None:
            learned = [parts(reductions[fit.scope, 1]) for _, reductions in seen]
            assert (learned[0] == learned[1]) == (kind is Nested)


SHARED = Nested(
    np.arange(N).astype(str).astype(object), np.arange(N) % 3, np.arange(N) % 3, np.arange(N) % 5,
    ("0", "1", "2"),
)  # fmt: skip
"""The inner folds are the other outer ones."""


@pytest.mark.parametrize("nested", [small_problem(N).nested, SHARED], ids=["own", "shared"])
def test_of_an_expert_without_features_nothing_is_seen(nested: Nested, tmp_path: Path) -> None:
    f_ND = features()
    shown, reductions = reduce_features([None, f_ND], nested, 0)
    save_outputs(tmp_path / "shown.safetensors", shown)
    assert set(load_outputs(tmp_path / "shown.safetensors")) == set(shown)
    fits = [fit for s in nested.scopes for fit in [*nested.fits(s), Fit(s, None)]]
    assert set(shown) == {fit.key for fit in fits}
    assert set(reductions) == {(scope, 1) for scope in nested.scopes}
    for fit in fits:
        assert np.isnan(shown[fit.key][:, 0]).all()
        learned = fit_reduction(f_ND, nested.learns_from(fit), 0)
        np.testing.assert_array_equal(shown[fit.key][:, 1], learned(f_ND))
