"""The nested procedure: who may be learned from, for whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enecg.config import Config, parse_config
from enecg.errors import UserError
from enecg.nested import ALL, Fit, Nested, nested_folds


def config(**changes: Any) -> Config:
    base = {"records": "x", "run_dir": "y", "tasks": ["age"], "experts": {"rocket": {}}}
    return parse_config(base | changes)


def index_of(n_groups: int, per_group: int = 1, seed: int = 0) -> pd.DataFrame:
    """A store's index with shuffled rows; groups have 1 to ``per_group`` records."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, per_group + 1, n_groups)
    groups = np.repeat([f"subject-{number}" for number in range(n_groups)], sizes)
    random.shuffle(groups)
    return pd.DataFrame(
        {
            "group_id": groups,
            "record_id": [f"r{row}" for row in range(len(groups))],
            "age": random.normal(50, 10, len(groups)),
            "site": [f"s{int(group.split('-')[1]) % 4}" for group in groups],
        }
    )


def assignment(nested: Nested) -> dict[str, np.ndarray]:
    return {"outer": nested.outer_N, "inner": nested.inner_N, "stopping": nested.stopping_N}


@settings(max_examples=15, deadline=None)
@given(st.integers(90, 140), st.integers(0, 2**31), st.integers(2, 4), st.integers(2, 3))
def test_every_record_is_used_once_as_it_should_be(
    n_groups: int, seed: int, folds: int, inner: int
) -> None:
    """The authors lose up to two subjects, and all but the first record of a subject."""
    index = index_of(n_groups, per_group=4, seed=seed)
    nested = nested_folds(index, config(folds=folds, inner_folds=inner, seed=seed))
    assert nested.scopes == (*map(str, range(folds)), ALL)
    tested = np.sum([nested.test(scope) for scope in nested.scopes], axis=0)
    assert (tested == 1).all(), "every record is tested exactly once"
    for scope in nested.scopes:
        training, test = nested.training(scope), nested.test(scope)
        assert (training ^ test).all(), "training and test are all there is"
        assert set(index.group_id[training]).isdisjoint(index.group_id[test])
        fits = nested.fits(scope)
        assert len(fits) == inner
        held_out = np.sum([nested.held_out(fit) for fit in fits], axis=0)
        assert (held_out == training).all(), "every training record is held out exactly once"
        for fit in fits:
            learned, left_out = nested.learns_from(fit), nested.held_out(fit)
            assert ((learned ^ left_out) == training).all()
            assert not (learned & left_out).any()
            assert set(index.group_id[learned]).isdisjoint(index.group_id[left_out | test])
            stops = nested.stops_by(fit)
            assert (stops <= learned).all()
            assert 0 < stops.sum() < learned.sum()
            assert set(index.group_id[stops]).isdisjoint(index.group_id[learned & ~stops])
    assert (nested.learns_from(Fit("0", None)) == nested.training("0")).all()
    assert not nested.held_out(Fit("0", None)).any()
    assert nested.training(ALL).all()


def test_outer_folds_as_inner_ones_halve_what_is_fitted() -> None:
    index = index_of(120, per_group=3)
    nested = nested_folds(index, config(folds=4, inner_folds="outer"))
    for scope in nested.scopes:
        fits, training = nested.fits(scope), nested.training(scope)
        assert len(fits) == (4 if scope == ALL else 3)
        held_out = np.sum([nested.held_out(fit) for fit in fits], axis=0)
        assert (held_out == training).all(), "every training record is held out exactly once"
        for fit in fits:
            model = nested.model_of(fit)
            assert model in nested.inner_models
            assert (nested.learns_from(model) == nested.learns_from(fit)).all()
            assert (nested.stops_by(model) == nested.stops_by(fit)).all()
            assert not (nested.learns_from(model) & (nested.held_out(fit) | ~training)).any()
    assert len(nested.inner_models) == 6 + 4, "pairs of folds, and single ones for all"
    learned = {nested.learns_from(fit).tobytes() for fit in nested.inner_models}
    assert len(learned) == 6 + 4


def test_published_folds_as_inner_ones_go_by_their_places() -> None:
    index = index_of(160, 2).assign(
        site=lambda i: i.site.map({f"s{n}": f"{3 - n}" for n in range(4)})
    )
    nested = nested_folds(index, config(fold_column="site", inner_folds="outer"))
    for scope in nested.scopes:
        for fit in nested.fits(scope):
            model = nested.model_of(fit)
            assert (nested.learns_from(model) == nested.learns_from(fit)).all()
        twin = nested.inner_twin(scope)
        if twin is not None:
            assert (nested.learns_from(twin) == nested.training(scope)).all()
    assert nested.inner_twin(ALL) is None
    assert len(nested.inner_models) == 6 + 4


def test_two_outer_folds_cannot_be_the_inner_ones() -> None:
    with pytest.raises(UserError, match=r"inner_folds: outer .* 2 outer folds; it takes 3"):
        nested_folds(index_of(90), config(folds=2, inner_folds="outer"))
    with pytest.raises(UserError, match="inner_folds"):
        config(inner_folds="others")


def test_labels_do_not_move_anybody() -> None:
    index = index_of(90, 3)
    before, after = (nested_folds(i, config()) for i in (index, index.assign(age=np.nan, site="")))
    for name, folds in assignment(before).items():
        np.testing.assert_array_equal(folds, assignment(after)[name])


def test_the_order_of_rows_does_not_move_anybody() -> None:
    index = index_of(90, 3)
    order = np.random.default_rng(1).permutation(len(index))
    before, after = nested_folds(index, config()), nested_folds(index.iloc[order], config())
    for name, folds in assignment(before).items():
        np.testing.assert_array_equal(folds[order], assignment(after)[name])


def test_the_seed_moves_people_and_the_splits_are_independent() -> None:
    index = index_of(2000)
    one, other = (assignment(nested_folds(index, config(seed=seed))) for seed in (1, 2))
    for name, folds in one.items():
        assert 0.5 < (folds != other[name]).mean() < 0.9
    for first, second in (("outer", "inner"), ("outer", "stopping"), ("inner", "stopping")):
        table = pd.crosstab(one[first], one[second]).to_numpy()
        assert table.min() > 0.7 * table.mean()


def test_a_published_split_replaces_the_hashed_folds() -> None:
    index = index_of(120, 2)
    nested = nested_folds(index, config(fold_column="site", folds=2))
    assert nested.scopes == ("s0", "s1", "s2", "s3", ALL)
    np.testing.assert_array_equal(nested.test("s2"), index.site == "s2")


def test_names_of_fits_are_unique() -> None:
    nested = nested_folds(index_of(90), config())
    fits = [f for scope in nested.scopes for f in (*nested.fits(scope), Fit(scope, None))]
    assert len({fit.key for fit in fits}) == len(fits) == 4 * 4
    assert Fit("0", 2).key == "0-inner2"
    assert Fit(ALL, None).key == "all-final"


@pytest.mark.parametrize("n_groups", [1, 3, 4])
def test_too_few_groups_are_the_users_mistake(n_groups: int) -> None:
    with pytest.raises(UserError, match=f"{n_groups} groups") as caught:
        nested_folds(index_of(n_groups, per_group=5), config())
    assert "fewer folds" in str(caught.value)


def test_a_published_fold_called_all_would_be_mistaken_for_everybody() -> None:
    index = index_of(120).assign(site=lambda i: i.site.replace("s0", ALL))
    with pytest.raises(UserError, match="fold_column site: a fold is called 'all'"):
        nested_folds(index, config(fold_column="site"))
