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
LARGEST_BASELINE = 2**24 - 2**16
"""Up to here the difference of sample and baseline is exact in float32."""


_POSITION = {name.lower(): place for place, name in enumerate(LEADS)}


def lead_position(name: str) -> int | None:
    """Return a lead's place in `LEADS` by its name, or None for any other signal.

    Any case, and with the words that some exports put in front: ``aVR``, ``AVR``, ``Lead I``,
    ``ECG V1``, ``ECG_II``. Names that only look alike are other signals: ``MLII`` is not II.
    """
    spelled = name.strip(" \t,").lower()
    place = _POSITION.get(spelled)
    if place is None:
        for word in ("lead", "ecg"):
            if spelled.startswith((f"{word} ", f"{word}_")):
                return _POSITION.get(spelled[len(word) + 1 :].strip())
    return place


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
) -> tuple[npt.NDArray[np.int16], float, int]:
    """Turn millivolts into stored samples.

    Parameters
    ----------
    x_T : float64 array, shape (T,)
        One signal in mV, NaN where missing.
    gain : float
        Digital steps per millivolt that are wanted.

    Returns
    -------
    digital : int16 array, shape (T,)
        `MISSING` where ``x_T`` is NaN; nothing is clipped.
    gain : float
        The gain used: the wanted one, or the largest at which the signal fits.
    baseline : int
        The digital value of 0 mV: 0 where the signal fits so, else it takes up the offset.
    """
    present = np.isfinite(x_T)
    low, high = (float(f(x_T[present])) if present.any() else 0.0 for f in (np.min, np.max))
    baseline = 0
    if max(abs(low), abs(high)) * gain > LARGEST:
        middle, reach = (low + high) / 2, (high - low) / 2
        if abs(middle) * gain > LARGEST_BASELINE:
            gain = LARGEST_BASELINE / abs(middle)
        if reach * gain > LARGEST - 1:
            gain = (LARGEST - 1) / reach
        baseline = -round(middle * gain)
    digital = np.full(len(x_T), MISSING, dtype=np.int16)
    digital[present] = (np.rint(x_T[present] * gain) + baseline).astype(np.int16)
    return digital, gain, baseline


# Rows: I, II, III, aVR, aVL, aVF as sums of I and II (Einthoven 1912, Goldberger 1942).
_LIMB = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]])


def derived_limb_leads(
    one: int, other: int, x_T: npt.NDArray[np.float64], y_T: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Compute all six limb leads from any two of them.

    III = II − I, aVR = −(I + II)/2, aVL = I − II/2, aVF = II − I/2, and their inverses: no two
    limb leads look in the same direction, so any two determine the others.

    Parameters
    ----------
    one, other : int
        Places of two different limb leads in `LEADS`, 0 to 5.
    x_T, y_T : float64 arrays, shape (T,)
        The two leads in mV on the same grid, NaN where missing.

    Returns
    -------
    float64 array, shape (6, T)
        mV, in the order of `LEADS`; NaN where either lead is missing.
    """
    mixing = _LIMB @ np.linalg.inv(_LIMB[[one, other]])
    return mixing[:, :1] * x_T + mixing[:, 1:] * y_T
