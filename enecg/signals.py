"""What an ECG array is here, and pure functions on such arrays.

Every 12-lead array is ``x_BLT``: batch, lead (in the order of `LEADS`), time; float32 millivolts
at 500 Hz, NaN where a sample is missing.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SAMPLING_RATE_HZ = 500
DURATION_S = 10
N_SAMPLES = SAMPLING_RATE_HZ * DURATION_S
MISSING = -32768
"""The stored int16 value that stands for a missing sample."""
LARGEST = 32767
"""The largest stored int16 value."""


def lead_position(name: str) -> int | None:
    """Return a lead's place in `LEADS` by its name in any case, or None for any other signal."""
    wanted = name.strip().lower()
    return next((place for place, lead in enumerate(LEADS) if lead.lower() == wanted), None)


def to_millivolts(
    digital_BLT: npt.NDArray[np.int16],
    gain_BL: npt.NDArray[np.floating],
    baseline_BL: npt.NDArray[np.floating | np.integer],
) -> npt.NDArray[np.float32]:
    """Turn stored samples into millivolts.

    Parameters
    ----------
    digital_BLT : int16 array, shape (B, 12, T)
        Stored samples; `MISSING` stands for a missing one.
    gain_BL : array, shape (B, 12)
        Digital steps per millivolt.
    baseline_BL : array, shape (B, 12)
        The digital value of 0 mV.

    Returns
    -------
    float32 array, shape (B, 12, T)
        ``(digital - baseline) / gain`` in mV, NaN where missing.
    """
    x_BLT = digital_BLT.astype(np.float32)
    x_BLT -= baseline_BL.astype(np.float32)[:, :, None]
    x_BLT /= gain_BL.astype(np.float32)[:, :, None]
    x_BLT[digital_BLT == MISSING] = np.nan
    return x_BLT


def gaps_bridged(x_T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a copy in which missing samples are joined by straight lines.

    Parameters
    ----------
    x_T : float64 array, shape (T,)
        One signal, NaN where a sample is missing.

    Returns
    -------
    float64 array, shape (T,)
        Finite everywhere; zeros where the whole signal is missing.
    """
    present = np.isfinite(x_T)
    if present.all():
        return x_T.copy()
    if not present.any():
        return np.zeros_like(x_T)
    time = np.arange(len(x_T))
    return np.interp(time, time[present], x_T[present])


def resample(
    x_T: npt.NDArray[np.float64], rate_in: float, rate_out: float = SAMPLING_RATE_HZ
) -> npt.NDArray[np.float64]:
    """Change the sampling rate of one signal, band-limited.

    Parameters
    ----------
    x_T : float64 array, shape (T,)
        One signal, NaN where a sample is missing.
    rate_in, rate_out : float
        Sampling rates in Hz. Their ratio is taken to the nearest fraction with a denominator of
        at most 30,000, so that no sample of a 10-second recording shifts by more than 0.4 ms;
        for every whole rate it is exact.

    Returns
    -------
    float64 array, shape (round(T * rate_out / rate_in),)
        NaN where a sample needed on either side was missing.
    """
    ratio = Fraction(rate_out / rate_in).limit_denominator(30_000)
    length = round(len(x_T) * rate_out / rate_in)
    # Extending by the line from first to last sample keeps an offset from ringing at the ends.
    y_T = resample_poly(gaps_bridged(x_T), ratio.numerator, ratio.denominator, padtype="line")
    y_T = np.pad(y_T[:length], (0, max(0, length - len(y_T))), mode="edge")
    missing = ~np.isfinite(x_T)
    if missing.any():
        place = np.arange(length) * (rate_in / rate_out)
        before = np.minimum(np.floor(place).astype(np.int64), len(x_T) - 1)
        after = np.minimum(np.ceil(place).astype(np.int64), len(x_T) - 1)
        y_T[missing[before] | missing[after]] = np.nan
    return y_T


def quantise(
    x_T: npt.NDArray[np.float64], gain: float = 1000.0
) -> tuple[npt.NDArray[np.int16], float]:
    """Turn millivolts into stored samples with baseline 0.

    Parameters
    ----------
    x_T : float64 array, shape (T,)
        One signal in mV, NaN where missing.
    gain : float
        Digital steps per millivolt that are wanted.

    Returns
    -------
    digital : int16 array, shape (T,)
        `MISSING` where ``x_T`` is NaN.
    gain : float
        The gain used: the wanted one, or the largest at which the signal fits.
    """
    present = np.isfinite(x_T)
    peak = float(np.abs(x_T[present]).max(initial=0.0))
    if peak * gain > LARGEST:
        gain = LARGEST / peak
    digital = np.full(len(x_T), MISSING, dtype=np.int16)
    digital[present] = np.rint(x_T[present] * gain).astype(np.int16)
    return digital, gain
