"""95 % intervals for a training procedure, its models trained anew on other patients.

The variance has three parts, and for metrics of answers a fourth:

* The test records: jackknife over groups (`jackknife`).
* Training anew: a group that is tested in one fold is trained on in the others, and folds share
  training groups. Nadeau and Bengio (Machine Learning 52, 2003) therefore add the ratio
  n_test / n_train to the 1 / K of K independent folds. Here that factor enlarges the variance from
  the records: a variance of two or three fold values would be too uncertain.
* Unstable training: by how much the variance between folds exceeds what the test records explain,
  such as models that depend on their random start. It has few degrees of freedom, and the
  interval's quantile is that of the mixture (Satterthwaite, Biometrics 2, 1946).
* Shifts of thresholds: see `threshold_shift`.

`docs/intervals.md` shows what they cover in simulations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from enecg.evaluation.jackknife import Contributions, mean_contributions
from enecg.evaluation.metrics import REGRESSION_METRICS, Floats

LEVEL = 0.95
_ROUNDING = 1e-16
"""Variances of shares below this are rounding errors."""


def retraining_factor(test_sizes: Sequence[int] | npt.NDArray[np.integer]) -> float:
    """Return what a test-set variance is multiplied by for models trained anew.

    Parameters
    ----------
    test_sizes : sequence of int
        Labelled records of each fold; each fold's models learned from all the others.

    Returns
    -------
    float
        1 + the sum over K folds of n_test / n_train, which is Nadeau and Bengio's
        (1 / K + n_test / n_train) over 1 / K: 2.5 for 3 equal folds, 2.25 for 5. 1 for a single
        fold, where a finished model is judged and nothing is trained.
    """
    size_K = np.asarray(test_sizes, dtype=np.float64)
    if size_K.size < 2:
        return 1.0
    return float(1.0 + (size_K / (size_K.sum() - size_K)).sum())


def metric_interval(
    metric: str,
    fold_RK: Floats,
    parts: Sequence[Contributions],
    factor: float,
    least_n: float,
    moved: float = 0.0,
) -> list[float] | None:
    """Return the 95 % interval of a metric's mean over folds.

    ``accuracy``, ``precision``, ``recall``, ``f1``, ``auroc``, ``auprc``: the score interval of
    Wilson (JASA 22, 1927) with the effective number of observations p (1 − p) / variance, as for
    shares in cluster samples (Korn and Graubard, Survey Methodology 24, 1998). It stays inside 0
    to 1 and has a width where no mistake was seen. ``mae``, ``mse``: symmetric on the logarithmic
    scale. ``r2``: the same for 1 − R². All are centred on the mean less its jackknife bias.

    Parameters
    ----------
    metric : str
        One of `metrics.score`'s, but not ``ece``.
    fold_RK : float64 array, shape (R, K)
        The metric in every fold of every repeat.
    parts : sequence of R Contributions
        Of the groups, to each repeat's mean over folds.
    factor : float
        What `retraining_factor` gives.
    least_n : float
        Effective number of observations where the contributions show no spread at all.
    moved : float
        A further part of the variance: see `Judged.moved`.

    Returns
    -------
    list of two floats, or None
        None where every error is exactly 0, so that nothing can be said.
    """
    mean, bias = float(fold_RK.mean()), mean_contributions(parts).bias
    variance, freedom = _variance(fold_RK, parts, factor, moved)
    quantile = float(stdtrit(freedom, 0.5 + LEVEL / 2))
    if metric not in REGRESSION_METRICS:
        low, high = _wilson(mean - bias, variance, quantile, least_n / factor)
    elif metric == "r2":
        high, low = (1.0 - end for end in _logarithmic(1.0 - mean, -bias, variance, quantile))
    else:
        low, high = _logarithmic(mean, bias, variance, quantile)
    if np.isnan([low, high]).any():
        return None
    return [min(low, mean), max(high, mean)]


def difference_interval(
    fold_RK: Floats, parts: Sequence[Contributions], factor: float
) -> list[float]:
    """Return the 95 % interval of a paired difference of two means over folds.

    What both predictors get wrong alike cancels in each group's contribution. Symmetric about the
    difference less its jackknife bias, with Student's t.

    Parameters
    ----------
    fold_RK : float64 array, shape (R, K)
        Ours − theirs in every fold of every repeat.
    parts : sequence of R Contributions
        Ours − theirs.
    factor : float
        What `retraining_factor` gives.
    """
    mean, bias = float(fold_RK.mean()), mean_contributions(parts).bias
    variance, freedom = _variance(fold_RK, parts, factor)
    half = float(stdtrit(freedom, 0.5 + LEVEL / 2) * np.sqrt(variance))
    return [min(mean - bias - half, mean), max(mean - bias + half, mean)]


def _variance(
    fold_RK: Floats, parts: Sequence[Contributions], factor: float, moved: float = 0.0
) -> tuple[float, float]:
    """Return the variance of the grand mean over folds, and its degrees of freedom.

    The contributions of R repeats are averaged by group: repeats reduce what chance in the folds
    and in training adds, and leave what the sample of patients does.
    """
    n_repeats, n_folds = fold_RK.shape
    of_mean = mean_contributions(parts)
    test = factor * float(np.square(of_mean.values).sum())
    test_freedom = _freedom(of_mean)
    if n_folds < 2:
        return test + moved, test_freedom
    between = float(fold_RK.var(axis=1, ddof=1).mean()) / n_folds
    within = float(np.mean([np.square(part.values).sum() for part in parts]))
    excess = max(0.0, between - within) / n_repeats
    if test + excess <= 0.0:
        return moved, test_freedom
    total = test + excess + moved
    freedom = total**2 / (test**2 / test_freedom + excess**2 / (n_repeats * (n_folds - 1)))
    return total, freedom


def _freedom(found: Contributions) -> float:
    """Degrees of freedom of the jackknife's variance.

    2 · variance² / (variance of the variance), the latter from the contributions' fourth powers:
    few where few groups make up most of the variance.
    """
    square_M = np.square(found.values[found.values != 0.0])
    total = square_M.sum()
    spread = np.square(square_M).sum() - total**2 / max(square_M.size, 1)
    most = max(found.freedom, 2.0)
    # Compared with its parts, so that rounding does not decide.
    return float(np.clip(2.0 * total**2 / spread, 2.0, most)) if spread > 1e-9 * total**2 else most


def _wilson(share: float, variance: float, quantile: float, least_n: float) -> tuple[float, float]:
    share = min(max(share, 0.0), 1.0)
    binomial = share * (1.0 - share)
    spread = variance > _ROUNDING and binomial > 0.0
    n = binomial / variance if spread else max(least_n, 1.0)
    z2 = quantile**2
    middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n)
    half = quantile * (binomial / n + z2 / (4.0 * n**2)) ** 0.5 / (1.0 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _logarithmic(size: float, bias: float, variance: float, quantile: float) -> tuple[float, float]:
    """Interval of a positive number; NaN where it is 0, which has no logarithm."""
    if size <= 0.0 or size - bias <= 0.0:
        return float("nan"), float("nan")
    reach = float(np.exp(quantile * np.sqrt(variance) / size))
    return (size - bias) / reach, (size - bias) * reach
