"""Which fold a record belongs to: decided by its group alone, so that nothing else can leak in.

A group (all records of one subject, and records with an identical signal) is never split. Its
fold is a hash, so it depends neither on labels nor on which other records there are: a record
added later moves nobody, and no record is left over.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from enecg.errors import UserError, brief, did_you_mean
from enecg.names import check_fold_name

MOST_FOLDS = 1000
log = logging.getLogger(__name__)

Folds = npt.NDArray[np.int64]


def fold_of_groups(
    group_ids: Sequence[str] | npt.NDArray[Any], n_folds: int, seed: int, purpose: str
) -> Folds:
    """Assign each record the fold of its group, by a hash.

    Parameters
    ----------
    group_ids : sequence of str, length B
        The group of every record.
    n_folds : int
        Number of folds, at least 1.
    seed : int
        Seed of the experiment.
    purpose : str
        What the split is for (``"outer"``, ``"inner"``, ``"early stopping"``): splits for
        different purposes are independent of each other.

    Returns
    -------
    int64 array, shape (B,)
        A fold from 0 to ``n_folds - 1`` for every record. Folds are of equal size on average
        only; with few groups one may be empty, see `require_every_fold`.
    """
    if n_folds < 1:
        raise ValueError(f"n_folds is {n_folds}; at least 1 is needed")
    names = list(group_ids)
    if any(pd.isna(name) for name in set(names)):
        raise ValueError("a record without group_id cannot be put into a fold")
    fold_of = {name: _hash(f"{seed}\n{purpose}\n{name}") % n_folds for name in set(names)}
    return np.fromiter((fold_of[name] for name in names), np.int64, len(names))


def require_every_fold(
    fold_B: Folds, n_folds: int, group_ids: Sequence[str] | npt.NDArray[Any], purpose: str
) -> None:
    """Make sure that no fold is empty.

    Parameters
    ----------
    fold_B : int64 array, shape (B,)
        Folds as `fold_of_groups` gives them.
    n_folds : int
        Number of folds there should be.
    group_ids : sequence of str, length B
        The group of every record, for the message.
    purpose : str
        What the split is for, for the message.

    Raises
    ------
    UserError
        A fold has no record.
    """
    size_F = np.bincount(fold_B, minlength=n_folds)
    if (size_F == 0).any():
        raise UserError(
            f"{purpose} folds: {int((size_F == 0).sum())} of {n_folds} would be empty with "
            f"{pd.unique(np.asarray(group_ids, dtype=object)).size} groups (subjects); "
            "use fewer folds, another seed or more records"
        )


def outer_folds(
    index: pd.DataFrame, folds: int, fold_column: str | None, seed: int
) -> tuple[Folds, list[str]]:
    """Split the records of a store for the outer cross-validation.

    Parameters
    ----------
    index : DataFrame, B rows
        The record store's index; its column ``group_id`` is used, and `fold_column`.
    folds : int
        Number of folds, at least 2; unused where `fold_column` is given.
    fold_column : str or None
        A column that holds a published split (PTB-XL's ``strat_fold``): one fold per value. A
        group whose records stand in several published folds goes whole into the smallest of
        them; how many do is logged as a warning.
    seed : int
        Seed of the experiment; unused where `fold_column` is given.

    Returns
    -------
    int64 array, shape (B,)
        Fold of every record, from 0.
    list of str
        Name of every fold: the published values in `ordered`, else ``"0"``, ``"1"``, ….

    Raises
    ------
    UserError
        Fewer than two folds, an empty fold, or a fold column that is missing or incomplete.
    """
    group_B = index["group_id"].to_numpy()
    if fold_column is None:
        if folds < 2:
            raise UserError(f"folds is {folds}; at least 2 are needed")
        fold_B = fold_of_groups(group_B, folds, seed, "outer")
        require_every_fold(fold_B, folds, group_B, "outer")
        return fold_B, [str(fold) for fold in range(folds)]

    published_B, names = _published(index, fold_column)
    if len(names) < 2:
        raise UserError(f"fold_column {fold_column!r} has {len(names)} value; at least 2 needed")
    moved = groups_in_several_folds(index, fold_column)
    if moved:
        log.warning(
            "%d group(s) stand in several folds of %s; each is put whole into the smallest of its "
            "folds",
            moved,
            fold_column,
        )
    fold_B = pd.Series(published_B).groupby(group_B).transform("min").to_numpy(dtype=np.int64)
    require_every_fold(fold_B, len(names), group_B, fold_column)
    return fold_B, names


def ordered(names: Iterable[str]) -> list[str]:
    """Return fold names in the order people count in: ``"2"`` before ``"10"``, each once.

    Numbers go by their value, if all names are numbers; else by the numbers within names.
    """
    every = list(dict.fromkeys(map(str, names)))
    try:
        values = {name: float(name) for name in every}
    except ValueError:
        return sorted(every, key=_natural)
    if not np.isfinite(list(values.values())).all():
        return sorted(every, key=_natural)
    return sorted(every, key=lambda name: (values[name], name))


def _natural(name: str) -> tuple[list[tuple[str, int, str]], str]:
    """Text and numbers in turn; a number by its length first, so that none is too long."""
    parts = re.split(r"([0-9]+)", name)
    numbers = [number.lstrip("0") for number in parts[1::2]] + [""]
    return [(t, len(n), n) for t, n in zip(parts[::2], numbers, strict=True)], name


def groups_in_several_folds(index: pd.DataFrame, fold_column: str) -> int:
    """Count the groups that a published split tears apart (PTB-XL 145 and 463 are one).

    Parameters
    ----------
    index : DataFrame, B rows
        The record store's index, with ``group_id`` and `fold_column`.
    fold_column : str
        The column of the published split.
    """
    folds_per_group = index[fold_column].groupby(index["group_id"].to_numpy()).nunique()
    return int((folds_per_group > 1).sum())


def _published(index: pd.DataFrame, fold_column: str) -> tuple[Folds, list[str]]:
    """Number a published split's values in ascending order."""
    if fold_column not in index.columns:
        raise UserError(
            f"fold_column: the store's index has no column {brief(fold_column)}"
            f"{did_you_mean(fold_column, map(str, index.columns))}; it has "
            f"{', '.join(map(str, index.columns))}"
        )
    missing = int(index[fold_column].isna().sum())
    if missing:
        raise UserError(
            f"fold_column: column {fold_column!r} is missing in {missing} of {len(index)} records; "
            "every record needs a fold"
        )
    values = index[fold_column]
    _check_published(values)
    as_numbers = pd.to_numeric(values, errors="coerce")
    if not as_numbers.isna().any():  # text "10" sorts after "9" too
        values = as_numbers
    number_of_B, unique = pd.factorize(values.to_numpy(), sort=True)
    if as_numbers.isna().any():
        place_of = {name: place for place, name in enumerate(ordered(map(str, unique)))}
        order = np.argsort([place_of[str(value)] for value in unique], kind="stable")
        number_of_B, unique = np.argsort(order)[number_of_B], unique[order]
    if len(unique) > MOST_FOLDS:
        raise UserError(
            f"fold_column {fold_column!r} has {len(unique):,} values; at most {MOST_FOLDS:,} folds"
        )
    # A nullable integer column read as float must still be called "1", not "1.0".
    names = [
        str(int(value))
        if isinstance(value, float | np.floating) and value == int(value)
        else str(value)
        for value in unique
    ]
    for name in names:
        check_fold_name(fold_column, name)
    return number_of_B.astype(np.int64), names


def _check_published(values: pd.Series) -> None:
    """Refuse what is neither a finite number nor text."""
    for value in values.to_numpy(dtype=object):
        usable = isinstance(value, int | float | np.number) and np.isfinite(value)
        if not usable and not isinstance(value, str):
            raise UserError(
                f"fold_column {values.name!r} has the value {brief(value)}; a fold is a number or "
                "a name"
            )


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
