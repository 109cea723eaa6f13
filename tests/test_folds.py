"""Folds depend on the group alone."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enecg.errors import UserError
from enecg.evaluation.folds import (
    fold_of_groups,
    groups_in_several_folds,
    ordered,
    outer_folds,
    require_every_fold,
)

groups = st.lists(st.text(max_size=6), min_size=1, max_size=40)
seeds = st.integers(0, 2**31)


@given(groups, st.integers(1, 7), seeds)
def test_a_group_has_one_fold_and_nobody_is_left_out(
    group_ids: list[str], n_folds: int, seed: int
) -> None:
    """The authors lose up to two subjects (len // 3 per fold); here every record gets a fold."""
    fold_B = fold_of_groups(group_ids, n_folds, seed, "outer")
    assert fold_B.shape == (len(group_ids),)
    assert ((fold_B >= 0) & (fold_B < n_folds)).all()
    for group in set(group_ids):
        assert len({f for f, g in zip(fold_B, group_ids, strict=True) if g == group}) == 1


@given(groups, groups, seeds)
def test_records_added_later_move_nobody(first: list[str], more: list[str], seed: int) -> None:
    alone = fold_of_groups(first, 3, seed, "outer")
    together = fold_of_groups(more + first, 3, seed, "outer")
    assert (together[len(more) :] == alone).all()


@given(groups, seeds, st.randoms())
def test_row_order_does_not_matter(group_ids: list[str], seed: int, random: object) -> None:
    order = list(range(len(group_ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = fold_of_groups(group_ids, 3, seed, "outer")
    shuffled = fold_of_groups([group_ids[i] for i in order], 3, seed, "outer")
    assert (shuffled == straight[order]).all()


def test_purposes_and_seeds_split_independently() -> None:
    ids = [f"subject-{i}" for i in range(3000)]
    outer = fold_of_groups(ids, 3, 1, "outer")
    for other in (fold_of_groups(ids, 3, 1, "inner"), fold_of_groups(ids, 3, 2, "outer")):
        table = pd.crosstab(outer, other).to_numpy()
        assert table.min() > 3000 / 9 * 0.8  # every combination occurs about equally often


def test_the_assignment_is_the_same_for_ever() -> None:
    """A finished run must still fit its folds after an update."""
    assert fold_of_groups(["a", "b", "c", "d", "e", "f"], 3, 42, "outer").tolist() == GOLDEN


GOLDEN = [0, 0, 2, 2, 1, 1]


def test_without_a_group_there_is_no_fold() -> None:
    with pytest.raises(ValueError, match="without group_id"):
        fold_of_groups(np.array(["a", None], dtype=object), 3, 1, "outer")


def _index(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "group_id": [f"g{i // 2}" for i in range(n)],
            "age": np.linspace(20, 80, n),
            "strat_fold": [1 + (i // 2) % 10 for i in range(n)],
        }
    )


def test_labels_do_not_move_records() -> None:
    index = _index()
    before, _ = outer_folds(index, 3, None, 7)
    after, _ = outer_folds(index.assign(age=np.nan), 3, None, 7)
    assert (before == after).all()


def test_hashed_folds_are_named_by_number() -> None:
    fold_B, names = outer_folds(_index(), 3, None, 7)
    assert names == ["0", "1", "2"] and set(fold_B) == {0, 1, 2}


def test_published_folds_are_kept_in_numeric_order() -> None:
    index = _index()
    fold_B, names = outer_folds(index, 3, "strat_fold", 7)
    assert names == [str(i) for i in range(1, 11)]
    assert (fold_B == index["strat_fold"] - 1).all()
    as_float, float_names = outer_folds(index.astype({"strat_fold": float}), 3, "strat_fold", 7)
    as_text, text_names = outer_folds(index.astype({"strat_fold": str}), 3, "strat_fold", 7)
    assert names == float_names == text_names
    assert (fold_B == as_float).all() and (fold_B == as_text).all()


def test_twelve_folds_are_listed_in_the_order_people_count_in() -> None:
    counted = [f"fold {i}" for i in range(1, 13)]
    index = _index().assign(split=[counted[(i // 2) % 12] for i in range(60)])
    fold_B, names = outer_folds(index, 3, "split", 7)
    assert names == counted
    assert (fold_B == np.arange(60) // 2 % 12).all()
    assert ordered(reversed(counted)) == counted
    assert ordered(map(str, [10, 2, 0, 1, 10])) == ["0", "1", "2", "10"]
    assert ordered(["1.5", "-1", "10"]) == ["-1", "1.5", "10"]
    assert ordered(["b", "a10", "a9", "a09", "a"]) == ["a", "a09", "a9", "a10", "b"]
    assert ordered(["inf", "1" * 5000, "nan", "9"]) == ["9", "1" * 5000, "inf", "nan"]


def test_published_folds_may_have_names() -> None:
    index = _index().assign(split=["train", "train", "test", "test"] * 15)
    fold_B, names = outer_folds(index, 3, "split", 7)
    assert names == ["test", "train"] and fold_B[:4].tolist() == [1, 1, 0, 0]


def test_a_group_in_two_published_folds_goes_whole_into_the_smaller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """PTB-XL 145 and 463 are one recording in two official folds."""
    index = _index()
    index.loc[[3, 40], "group_id"] = "one recording twice"
    assert groups_in_several_folds(index, "strat_fold") == 1
    with caplog.at_level(logging.WARNING):
        fold_B, _ = outer_folds(index, 3, "strat_fold", 7)
    assert "1 group(s) stand in several folds of strat_fold" in caplog.text
    both = index.loc[[3, 40], "strat_fold"]
    assert both.nunique() == 2
    assert (fold_B[[3, 40]] == both.min() - 1).all()


def test_mistakes_name_the_column() -> None:
    index = _index()
    with pytest.raises(UserError, match="no column 'strat_fodl', did you mean 'strat_fold'"):
        outer_folds(index, 3, "strat_fodl", 7)
    index["holes"] = index["strat_fold"].where(index["strat_fold"] > 3)
    with pytest.raises(UserError, match="'holes' is missing in 18 of 60 records"):
        outer_folds(index, 3, "holes", 7)
    with pytest.raises(UserError, match="'constant' has 1 value"):
        outer_folds(index.assign(constant=1), 3, "constant", 7)


def test_too_few_groups_are_said() -> None:
    with pytest.raises(UserError, match="would be empty with 2 groups"):
        outer_folds(_index(4), 3, None, 7)
    with pytest.raises(UserError, match="at least 2"):
        outer_folds(_index(), 1, None, 7)
    with pytest.raises(UserError, match="inner folds: 1 of 2"):
        require_every_fold(np.array([0, 0]), 2, ["a", "b"], "inner")
