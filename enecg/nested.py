"""The nested procedure: which records may be learned from, for whom (DESIGN §7).

For every *scope* (each outer fold's training groups, and ``all`` for what gets deployed) one
model per inner fold, fitted on the other inner folds, gives the out-of-fold outputs for it;
a final model, or the inner models' mean, gives the outputs for the scope's test groups. Further
repeats deploy nothing, and have no scope ``all``.

Where the inner folds are the other outer ones, a model without two of them serves both: of the
scope of either one it is the inner model that leaves out the other. Of k outer folds that makes
k (k + 1) / 2 inner models instead of (k + 1) times the inner folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from enecg.config import Config
from enecg.errors import UserError
from enecg.evaluation.folds import fold_of_groups, outer_folds
from enecg.names import check_different

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

ALL = "all"
"""The scope that trains on every group and tests on none."""

STOPPING_FOLDS = 5
"""Parts of a model's own training groups, for early stopping and for calibration."""


@dataclass(frozen=True)
class Fit:
    """One model to be fitted: a scope, and the inner fold it leaves out (None: leaves out none)."""

    scope: str
    inner: int | None

    @property
    def key(self) -> str:
        """A name for files and tensors, for example ``0-inner2`` or ``all-final``."""
        return f"{self.scope}-{'final' if self.inner is None else f'inner{self.inner}'}"


@dataclass(frozen=True)
class Nested:
    """Who is in which fold, for N records.

    Attributes
    ----------
    group_N : array of str, shape (N,)
        Records of one group never stand on both sides of a split.
    outer_N, inner_N, stopping_N : int arrays, shape (N,)
        Outer fold, inner fold, and part of the early-stopping split.
    outer_names : tuple of str
        Names of the outer folds, in order.
    deployed : bool
        Whether something is trained on all groups.
    """

    group_N: npt.NDArray[np.object_]
    outer_N: Numbers
    inner_N: Numbers
    stopping_N: Numbers
    outer_names: tuple[str, ...]
    deployed: bool = True

    @cached_property
    def shared(self) -> bool:
        """Whether the inner folds are the outer ones, and models serve two scopes."""
        return np.array_equal(self.inner_N, self.outer_N)

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every outer fold's name, then ``all`` where something is deployed."""
        return (*self.outer_names, ALL) if self.deployed else self.outer_names

    def test(self, scope: str) -> Mask:
        """Records that the scope predicts once, at the end: bool (N,), none for ``all``."""
        if scope == ALL:
            return np.zeros(len(self.outer_N), dtype=bool)
        return self.outer_N == self.outer_names.index(scope)

    def training(self, scope: str) -> Mask:
        """Records that the scope may learn from: bool (N,)."""
        return ~self.test(scope)

    def fits(self, scope: str) -> list[Fit]:
        """The inner models of a scope."""
        own = self.outer_names.index(scope) if self.shared and scope != ALL else None
        return [Fit(scope, inner) for inner in range(self.inner_N.max() + 1) if inner != own]

    def model_of(self, fit: Fit) -> Fit:
        """The fit whose model serves this one: itself, unless an earlier scope's is the same."""
        if not self.shared or fit.inner is None or fit.scope == ALL:
            return fit
        own = self.outer_names.index(fit.scope)
        return Fit(self.outer_names[fit.inner], own) if fit.inner < own else fit

    def inner_twin(self, scope: str) -> Fit | None:
        """The inner fit that learns from all of a scope's training records, if there is one."""
        if not (self.shared and self.deployed) or scope == ALL:
            return None
        return Fit(ALL, self.outer_names.index(scope))

    @cached_property
    def inner_models(self) -> list[Fit]:
        """The inner models of all scopes that have to be fitted."""
        every = [self.model_of(fit) for scope in self.scopes for fit in self.fits(scope)]
        return list(dict.fromkeys(every))

    def learns_from(self, fit: Fit) -> Mask:
        """Records that a model learns from: bool (N,)."""
        training = self.training(fit.scope)
        return training if fit.inner is None else training & (self.inner_N != fit.inner)

    def stops_by(self, fit: Fit) -> Mask:
        """Records, one part of a model's own, whose loss decides when it stops: bool (N,)."""
        learned = self.learns_from(fit)
        return learned & (self.stopping_N == self.stopping_N[learned].min())

    def held_out(self, fit: Fit) -> Mask:
        """Training records for which a model gives the out-of-fold outputs: bool (N,)."""
        if fit.inner is None:
            return np.zeros(len(self.outer_N), dtype=bool)
        return self.training(fit.scope) & (self.inner_N == fit.inner)


def nested_folds(index: pd.DataFrame, config: Config, deployed: bool = True) -> Nested:
    """Assign every record of a store to its folds, by hashes of seed and group only.

    Parameters
    ----------
    index : DataFrame
        A record store's index (``group_id``; the config's fold column where it names one).
    config : Config
        ``folds``, ``fold_column``, ``inner_folds`` and ``seed`` are read.
    deployed : bool
        Whether something is trained on all groups.

    Raises
    ------
    UserError
        Too few groups for some fold to have any; a published fold of the name ``all``; two outer
        folds that are to be the inner ones.
    """
    group_N = index["group_id"].to_numpy(dtype=object)
    outer_N, names = outer_folds(index, config.folds, config.fold_column, config.seed)
    if config.fold_column is not None:
        check_different(f"fold_column {config.fold_column}", map(str, names))
    if ALL in names:
        raise UserError(
            f"fold_column {config.fold_column}: a fold is called {ALL!r}, which stands for all "
            "groups; give that fold another name"
        )
    outer_N = np.asarray(outer_N, dtype=np.int64)
    if config.inner_folds == "outer":
        if len(names) < 3:
            raise UserError(
                f"inner_folds: outer leaves nothing to learn from with {len(names)} outer folds; "
                "it takes 3 at least"
            )
        inner_N, kinds = outer_N, f"{len(names)} outer folds, the others as inner ones"
    else:
        inner_N = fold_of_groups(group_N, config.inner_folds, config.seed, "inner")
        kinds = f"{len(names)} outer and {config.inner_folds} inner folds"
    nested = Nested(
        group_N,
        outer_N,
        inner_N,
        fold_of_groups(group_N, STOPPING_FOLDS, config.seed, "early stopping"),
        tuple(str(name) for name in names),
        deployed,
    )
    for scope in nested.scopes:
        for fit in nested.fits(scope):
            learned = nested.learns_from(fit)
            one_part = not learned.any() or (nested.stops_by(fit) == learned).all()
            if one_part or not nested.held_out(fit).any():
                raise UserError(
                    f"{len(set(group_N))} groups are too few for {kinds}: "
                    "some part stays empty; give fewer folds or more records"
                )
    return nested
