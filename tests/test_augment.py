"""Augmentation: what a record gets depends on seed, epoch and record id alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from enecg.stage1.augment import LARGEST_SCALE, Change, augment

ALL: tuple[Change, ...] = get_args(Change)
IDS = ["a", "b", "c", "d"]
X_BLT = np.random.default_rng(0).normal(0, 0.3, (4, 12, 5000)).astype(np.float32)


def test_a_record_gets_the_same_in_any_batch_and_order() -> None:
    together = augment(X_BLT, IDS, ALL, 7, 3)
    for place in (2, 0):
        alone = augment(X_BLT[place : place + 1], [IDS[place]], ALL, 7, 3)
        np.testing.assert_array_equal(alone[0], together[place])
    np.testing.assert_array_equal(augment(X_BLT, IDS, ALL, 7, 3), together)
    for seed, epoch in ((8, 3), (7, 4)):
        assert not np.array_equal(augment(X_BLT, IDS, ALL, seed, epoch), together, equal_nan=True)
    assert not np.isnan(X_BLT).any(), "what is stored stays as it is"


def test_nothing_asked_nothing_changed() -> None:
    np.testing.assert_array_equal(augment(X_BLT, IDS, (), 7, 3), X_BLT)


def test_a_change_is_the_same_with_and_without_the_others() -> None:
    """So that an option can be added to a run without changing what the others do."""
    dropped = np.isnan(augment(X_BLT, IDS, ("lead_dropout",), 1, 1))
    everything = np.isnan(augment(X_BLT, IDS, ("scale", "noise", "lead_dropout"), 1, 1))
    np.testing.assert_array_equal(dropped, everything)


@pytest.mark.parametrize("change", ALL)
def test_each_change_is_what_it_says(change: Change) -> None:
    x_BLT = np.repeat(X_BLT[:1], 200, axis=0)
    changed = augment(x_BLT, [str(n) for n in range(200)], [change], 0, 0)
    missing = np.isnan(changed)
    difference = np.where(missing, 0, changed - x_BLT)
    if change == "lead_dropout":
        whole_BL = missing.all(2)
        assert (missing.any(2) == whole_BL).all() and not whole_BL.all(1).any()
        assert 0.05 < whole_BL.mean() < 0.15
    elif change == "crop":
        assert (missing == missing[:, :1]).all()
        assert 0.05 < missing.mean() < 0.15
        assert (np.diff(missing[:, 0].astype(int), axis=1) != 0).sum(1).max() <= 2
    elif change == "scale":
        factor = changed / x_BLT
        assert np.ptp(factor, axis=(1, 2)).max() < 1e-3
        assert 1 / LARGEST_SCALE - 1e-3 < factor.min() < factor.max() < LARGEST_SCALE + 1e-3
    elif change == "noise":
        assert 0.01 < difference.std() < 0.03
        assert abs(np.corrcoef(difference[0, 0, :-1], difference[0, 0, 1:])[0, 1]) < 0.1
    else:
        assert np.abs(difference).max() < 0.151
        assert np.abs(np.diff(difference, axis=2)).max() < 2e-3, "slow"
