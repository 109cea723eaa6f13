"""How much each group of records contributes to a metric: the delete-one-group jackknife.

A metric is computed again without each group in turn. How far it moves is that group's
contribution; the sum of squared contributions is the metric's variance, and their sum its bias
(Efron and Tibshirani 1993, ch. 11). Records of one patient are left out together, so they do not
count as independent evidence. No resample can lose a rare class, unless one group holds it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.evaluation.metrics import Floats
from enecg.evaluation.weighted_metrics import CELLS_AT_ONCE, weighted_scores
from enecg.tasks import Task

BLOCKS = 300
"""Most parts that groups are deleted in; more than so many groups are deleted in bundles."""


@dataclass(frozen=True)
class Contributions:
    """What the groups contribute to the mean of one metric over folds.

    Attributes
    ----------
    values : float64 array, shape (n_blocks,)
        Each block's contribution, zero where it is in no fold; squares add up to the variance.
    bias : float
        By how much the mean lies above what it estimates, as far as the test set's size explains.
    freedom : float
        Degrees of freedom of a variance made of these contributions: blocks less folds.
    """

    values: Floats
    bias: float
    freedom: float


def blocks_of_groups(group_B: Sequence[str] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number the blocks that are left out one after the other.

    Parameters
    ----------
    group_B : sequence of str, length B
        The group of every record.

    Returns
    -------
    int64 array, shape (B,)
        Every record's block. Up to `BLOCKS` groups have a block each; more are put into
        `BLOCKS` blocks by a hash of their name, so that the work stays in bounds.
    """
    names, group_of_B = np.unique(np.asarray(group_B, dtype=str), return_inverse=True)
    if names.size <= BLOCKS:
        return group_of_B.astype(np.int64)
    block_of = np.array([_block(name) for name in names.tolist()])
    return block_of[group_of_B].astype(np.int64)


@lru_cache(maxsize=50_000)  # every predictor is judged by the same groups
def _block(group: str) -> int:
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "little") % BLOCKS


def fold_contributions(
    task: Task,
    truth_B: Floats,
    prediction_BC: Floats,
    group_B: npt.NDArray[Any],
    block_B: npt.NDArray[np.int64],
    n_blocks: int,
) -> dict[str, Contributions]:
    """Return every metric's contributions in one fold.

    Parameters
    ----------
    task : Task
    truth_B, prediction_BC
        The fold's labelled records, as `metrics.labelled` returns them.
    group_B : array of str, shape (B,)
    block_B : int array, shape (B,)
        As `blocks_of_groups` gives them.
    n_blocks : int
        Number of blocks in all folds.

    Returns
    -------
    dict of str to Contributions
        The metrics that are defined with every single block left out. Empty for a single block.
    """
    present, place_B = np.unique(block_B, return_inverse=True)
    if present.size < 2:
        return {}
    first_of_group = np.unique(np.asarray(group_B, dtype=str), return_index=True)[1]
    share_M = np.bincount(place_B[first_of_group], minlength=present.size) / first_of_group.size
    at_once = max(1, CELLS_AT_ONCE // truth_B.shape[0])
    parts: list[dict[str, Floats]] = []
    for start in range(-1, present.size, at_once):  # place -1: nothing is left out
        left_out = np.arange(start, min(start + at_once, present.size))
        weight_BR = (place_B[:, None] != left_out).astype(np.float64)
        parts.append(weighted_scores(task, truth_B, prediction_BC, weight_BR))
    found: dict[str, Contributions] = {}
    for metric in parts[0]:
        whole, *without = np.concatenate([part[metric] for part in parts])
        pull_M = (1.0 - share_M) * (whole - np.array(without))
        if not np.isfinite(pull_M).all():
            continue
        n = present.size
        values = np.zeros(n_blocks)
        values[present] = (pull_M - pull_M.mean()) * np.sqrt(n / (n - 1))
        found[metric] = Contributions(values, float(-pull_M.sum()), n - 1.0)
    return found


def mean_contributions(parts: Sequence[Contributions]) -> Contributions:
    """Return the contributions to the mean over folds (or over repeats) of a metric.

    Parameters
    ----------
    parts : sequence of Contributions
        One per fold, or one per repeat.
    """
    return Contributions(
        np.mean([part.values for part in parts], axis=0),
        float(np.mean([part.bias for part in parts])),
        float(sum(part.freedom for part in parts)),
    )
