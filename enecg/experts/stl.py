"""STL: a series as the sum of a trend, a season and a remainder, by loess (statsmodels)."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


def decompose(x_NT: Floats, period: int) -> Floats:
    """Decompose series one by one with statsmodels: 11 ms each, whatever else runs.

    Parameters
    ----------
    x_NT : float64 array, shape (N, T)
        Finite.
    period : int
        Length of a season, in samples.

    Returns
    -------
    float64 array, shape (N, 3, T)
        Trend, season and remainder of each, which add up to it.
    """
    from statsmodels.tsa.seasonal import STL

    parts_N3T = np.empty((len(x_NT), 3, x_NT.shape[1]))
    for parts_3T, x_T in zip(parts_N3T, x_NT, strict=True):
        fit = STL(x_T, period=period).fit()
        parts_3T[:] = fit.trend, fit.seasonal, fit.resid
    return parts_N3T


def decompose_in_batch(x_NT: Tensor, period: int) -> Tensor:
    """Decompose series all at once, on their device.

    Without its robust weights, every step of STL is a weighted mean whose weights depend on
    places only, never on values: STL is a matrix. It is statsmodels' own answer to the unit
    series, so that the product is statsmodels' answer to any series, up to rounding in float64.

    Parameters
    ----------
    x_NT : floating tensor, shape (N, T)
        Finite.
    period : int
        Length of a season, in samples.

    Returns
    -------
    tensor, shape (N, 3, T)
        As `decompose` gives them, in the type of the input.
    """
    matrix_T3T = torch.from_numpy(_matrix(x_NT.shape[1], period)).to(x_NT.device)
    return torch.tensordot(x_NT.double(), matrix_T3T, dims=1).to(x_NT.dtype)


@cache
def _matrix(length: int, period: int) -> Floats:
    """Return the decompositions of the unit series, (T, 3, T); seconds, once a process."""
    return decompose(np.eye(length), period)
