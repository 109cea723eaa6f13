"""SciPy's zero-phase filter and running median, for whole batches on any device.

SciPy filters one sample after the other. Here a signal is cut into blocks: within a block the
output is a small matrix times the input, and only the filter's few states pass from block to
block. In float64 both give the same numbers to about 1e-11 of the signal's size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal
import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 64
"""Samples per block."""
WINDOWS = 2**22
"""Windows whose medians are found at a time: what bounds the memory needed on a device."""

Sections = tuple[tuple[float, ...], ...]


def sosfiltfilt(sos: npt.NDArray[np.float64], x_BLT: Tensor) -> Tensor:
    """Filter forwards and backwards, as `scipy.signal.sosfiltfilt` does by default.

    So does `scipy.signal.filtfilt` with the same filter as polynomials (b, a), up to 1e-6: there
    the rounding errors of clustered poles show. The ends are extended by their point reflection,
    and the filter starts in the state of a signal that has always been at its first value.

    Parameters
    ----------
    sos : float array, shape (n, 6)
        Second-order sections, none of them of first order.
    x_BLT : floating tensor, shape (..., T)
        Finite, longer than the extension of 3 * (2 n + 1) samples.

    Returns
    -------
    float64 tensor, shape (..., T)
    """
    sections = tuple(tuple(map(float, section)) for section in sos)
    edge = 3 * (2 * len(sections) + 1)
    if x_BLT.shape[-1] <= edge:
        raise ValueError(f"signals of {x_BLT.shape[-1]} samples are too short: over {edge} needed")
    x_BLT = x_BLT.double()
    before = 2 * x_BLT[..., :1] - x_BLT[..., 1 : edge + 1].flip(-1)
    after = 2 * x_BLT[..., -1:] - x_BLT[..., -edge - 1 : -1].flip(-1)
    y_BLT = _forwards(sections, torch.cat([before, x_BLT, after], dim=-1))
    y_BLT = _forwards(sections, y_BLT.flip(-1)).flip(-1)
    return y_BLT[..., edge:-edge]


def running_median(x_BLT: Tensor, width: int) -> Tensor:
    """Return the median over windows centred on each sample, as `scipy.signal.medfilt` does.

    Parameters
    ----------
    x_BLT : tensor, shape (..., T)
        Finite.
    width : int
        Odd number of samples; the signal is taken as 0 beyond its ends.
    """
    padded_NT = functional.pad(x_BLT.reshape(-1, x_BLT.shape[-1]), (width // 2, width // 2))
    if x_BLT.device.type == "cpu":
        # End to end the padded signals are one long one, in which SciPy moves a sorted window.
        joined = scipy.ndimage.median_filter(padded_NT.numpy().ravel(), width, mode="constant")
        median_NT = torch.from_numpy(joined).reshape(padded_NT.shape)
        return median_NT[:, width // 2 : -(width // 2) or None].reshape(x_BLT.shape)
    return median_of_windows(padded_NT, width).reshape(x_BLT.shape)


def median_of_windows(x_NT: Tensor, width: int) -> Tensor:
    """Return the median of every window of an odd number of samples, shape (N, T - width + 1)."""
    windows_NTW = x_NT.unfold(-1, width, 1)
    chunks = windows_NTW.split(max(1, WINDOWS // windows_NTW.shape[1]))
    return torch.cat([chunk.median(dim=-1).values for chunk in chunks])


def _forwards(sections: Sections, x_BLT: Tensor) -> Tensor:
    """Filter forwards, starting in the state of a signal that was always at its first value."""
    n_samples = x_BLT.shape[-1]
    n_blocks = -(-n_samples // BLOCK)
    x_NT = functional.pad(x_BLT.reshape(-1, n_samples), (0, n_blocks * BLOCK - n_samples))
    x_NMK = x_NT.unflatten(-1, (n_blocks, BLOCK))
    direct_KK, entered_KS, seen_SK, kept_SS, rest_S = (
        matrix.to(x_BLT.device) for matrix in _block(sections)
    )
    entered_NMS = x_NMK @ entered_KS
    state_NS = x_NT[:, :1] * rest_S
    states = []
    for block in range(n_blocks):
        states.append(state_NS)
        state_NS = state_NS @ kept_SS + entered_NMS[:, block]
    y_NMK = x_NMK @ direct_KK + torch.stack(states, dim=1) @ seen_SK
    return y_NMK.flatten(1)[:, :n_samples].reshape(x_BLT.shape)


@lru_cache(maxsize=8)
def _block(sections: Sections) -> tuple[Tensor, ...]:
    """Return what a filter does to a block of K samples with S states, as float64 matrices.

    Returns
    -------
    (K, K), (K, S)
        What the block's input adds to its output, and to the state after it.
    (S, K), (S, S)
        What the state before it adds to them.
    (S,)
        The state that goes with a constant input of 1.
    """
    sos = np.array(sections)
    n_states = 2 * len(sos)
    # SciPy itself tells, by unit impulses and unit states; it keeps states as (n, signal, 2).
    empty = np.zeros((len(sos), BLOCK, 2))
    direct_KK, entered = scipy.signal.sosfilt(sos, np.eye(BLOCK), zi=empty)
    unit = np.eye(n_states).reshape(n_states, len(sos), 2).swapaxes(0, 1)
    seen_SK, kept = scipy.signal.sosfilt(sos, np.zeros((n_states, BLOCK)), zi=unit)
    as_rows = (state.swapaxes(0, 1).reshape(-1, n_states) for state in (entered, kept))
    entered_KS, kept_SS = as_rows
    rest_S = scipy.signal.sosfilt_zi(sos).ravel()
    parts = (direct_KK, entered_KS, seen_SK, kept_SS, rest_S)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in parts)
