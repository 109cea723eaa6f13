"""What is measured on one record's beats: rhythm, atrial activity, median beat. Pure NumPy."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfiltfilt

from enecg.signals import DURATION_S, SAMPLING_RATE_HZ, gaps_bridged

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

STEP = 2
"""Every second sample is kept of a beat: 250 Hz, far above the low-pass."""
BEFORE, AFTER = 150, 250
"""Samples of a beat before and after its R-peak: 0.3 s and 0.5 s."""
BEAT = (BEFORE + AFTER) // STEP
P_FROM, P_TO = -140, -40
"""Where a P wave is looked for, in samples from the R-peak."""
QRS = 30
"""Samples on either side of the R-peak that are left out when the atria are looked at."""
FADE = 25
"""Samples over which a beat that is subtracted begins and ends."""
BANDS_HZ = ((2.0, 4.0), (4.0, 5.5), (5.5, 7.0), (7.0, 9.0), (9.0, 12.0), (12.0, 20.0))
"""Of atrial activity: fibrillatory waves lie at 4 to 9 Hz (Bollmann et al., Europace 2006)."""
RATIOS = np.linspace(0.05, 0.95, 7)
RHYTHM = 18 + len(RATIOS)
"""Numbers that `rhythm` gives."""
ATRIAL = 5 + len(BANDS_HZ)
"""Numbers that `atrial` gives, per lead."""


def filtered(x_LT: npt.NDArray[np.floating]) -> Array:
    """Bridge gaps, and keep 0.5 to 40 Hz (Butterworth of order 2, forwards and backwards).

    Parameters
    ----------
    x_LT : array, shape (L, 5000)
        mV, not finite where missing.

    Returns
    -------
    float64 array, shape (L, 5000)
        Finite; zeros for a lead without samples.
    """
    bridged_LT = np.stack([gaps_bridged(x_T) for x_T in x_LT.astype(np.float64)])
    centred_LT = bridged_LT - bridged_LT.mean(axis=1, keepdims=True)
    return np.asarray(sosfiltfilt(_band_pass(), centred_LT, axis=1))


@lru_cache(maxsize=1)
def _band_pass() -> Array:
    return np.asarray(butter(2, (0.5, 40.0), "bandpass", output="sos", fs=SAMPLING_RATE_HZ))


def r_peaks(x_LT: Array) -> Places:
    """Find the beats by NeuroKit2's detector, in the root mean square of all leads.

    There every QRS complex points upwards, whichever leads are there.

    Parameters
    ----------
    x_LT : float64 array, shape (L, 5000)
        What `filtered` gives.

    Returns
    -------
    int array, shape (N,)
        Samples, in order; empty where nothing is found.
    """
    from neurokit2 import ecg_findpeaks  # slow to import

    size_T = np.sqrt((x_LT**2).mean(axis=0))
    if np.ptp(size_T) < 1e-6:
        return np.zeros(0, dtype=np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ecg_findpeaks(size_T, sampling_rate=SAMPLING_RATE_HZ)
    except (ValueError, IndexError, ZeroDivisionError):
        # NeuroKit2 fails in these ways where it finds too few peaks to work with.
        return np.zeros(0, dtype=np.int64)
    return np.asarray(found["ECG_R_Peaks"], dtype=np.int64)


def rhythm(peaks_N: Places) -> Array:
    """Return statistics of the R–R intervals, shape (RHYTHM,); zeros for fewer than four beats.

    Rate and spread; how successive intervals differ (RMSSD, pNN50, Poincaré's axes); quantiles
    of the intervals and of their successive ratios; turning points; autocorrelation.
    """
    if len(peaks_N) < 4:
        return np.zeros(RHYTHM)
    rr_N = np.diff(peaks_N) / SAMPLING_RATE_HZ
    middle = np.median(rr_N)
    away_N, step_N = rr_N / middle - 1, np.diff(rr_N) / middle
    turns = np.mean(step_N[1:] * step_N[:-1] < 0)
    centred_N = rr_N - rr_N.mean()
    power = max(float(centred_N @ centred_N), 1e-9)
    lags = [
        float(centred_N[lag:] @ centred_N[:-lag]) / power if len(rr_N) > lag else 0.0
        for lag in (1, 2)
    ]
    sd1 = step_N.std() / np.sqrt(2)
    sd2 = np.sqrt(max(2 * away_N.var() - sd1**2, 0.0))
    numbers = [
        len(peaks_N) / DURATION_S, middle, 1 / middle, rr_N.mean(), away_N.std(),
        np.abs(away_N).mean(), np.median(np.abs(away_N)), np.sqrt((step_N**2).mean()),
        np.median(np.abs(step_N)), np.mean(np.abs(np.diff(rr_N)) > 0.05),
        np.mean(np.abs(step_N) > 0.1), np.mean(np.abs(away_N) < 0.05), sd1, sd2,
        np.log((sd1 + 0.01) / (sd2 + 0.01)), turns, *lags,
    ]  # fmt: skip
    return np.array([*numbers, *np.quantile(away_N, RATIOS)])


def beats_of(x_LT: Array, peaks_N: Places) -> Array:
    """Cut out the beats that lie in the record as a whole, shape (N, L, 400)."""
    inside = (peaks_N >= BEFORE) & (peaks_N + AFTER <= x_LT.shape[1])
    places_NT = peaks_N[inside, None] + np.arange(-BEFORE, AFTER)
    return x_LT[:, places_NT].transpose(1, 0, 2)


def median_beat(beats_NLT: Array) -> Array:
    """Return the median beat at 250 Hz, level before the P wave taken off, shape (L, 200)."""
    if not len(beats_NLT):
        return np.zeros((beats_NLT.shape[1], BEAT))
    beat_LT = np.median(beats_NLT, axis=0)[:, ::STEP]
    level_L1 = np.median(beat_LT[:, (BEFORE - 35) // STEP : (BEFORE - 20) // STEP], axis=1)
    return np.asarray(beat_LT - level_L1[:, None])


def atrial(x_LT: Array, peaks_N: Places, beats_NLT: Array) -> Array:
    """Measure the P waves, and what is left of the signal without beats, per lead.

    Returns
    -------
    float64 array, shape (L, ATRIAL)
        Of the stretch before the R-peaks: height of the mean P wave, its area, how much of the
        energy is the same in every beat, and the logarithm of what is not. Of the record, median
        beats subtracted and QRS complexes blanked: its logarithmic size, and the share of each
        band of `BANDS_HZ`. Zeros for fewer than two beats.
    """
    if len(beats_NLT) < 2:
        return np.zeros((len(x_LT), ATRIAL))
    waves_NLT = beats_NLT[:, :, BEFORE + P_FROM : BEFORE + P_TO]
    rising_T = np.linspace(0, 1, waves_NLT.shape[2])
    first, last = waves_NLT[..., :10].mean(-1), waves_NLT[..., -10:].mean(-1)
    waves_NLT = waves_NLT - (first[..., None] * (1 - rising_T) + last[..., None] * rising_T)
    mean_LT = np.median(waves_NLT, axis=0)
    common_L = (mean_LT**2).mean(1)
    other_L = np.median(((waves_NLT - mean_LT) ** 2).mean(2), axis=0)
    rest_LT = without_beats(x_LT, peaks_N, np.median(beats_NLT, axis=0))
    power_LF = np.abs(np.fft.rfft(rest_LT, axis=1)) ** 2
    hertz_F = np.fft.rfftfreq(rest_LT.shape[1], 1 / SAMPLING_RATE_HZ)
    bands_LB = np.stack(
        [power_LF[:, (hertz_F >= low) & (hertz_F < high)].sum(1) for low, high in BANDS_HZ], axis=1
    )
    return np.column_stack(
        [
            np.ptp(mean_LT, axis=1),
            mean_LT.mean(1),
            common_L / (common_L + other_L + 1e-6),
            np.log(other_L + 1e-6),
            np.log(rest_LT.std(1) + 1e-3),
            bands_LB / (bands_LB.sum(1, keepdims=True) + 1e-9),
        ]
    )


def without_beats(x_LT: Array, peaks_N: Places, beat_LT: Array) -> Array:
    """Subtract a beat at every R-peak, and put straight lines where QRS complexes were."""
    rest_LT = x_LT.copy()
    blank_T = np.zeros(x_LT.shape[1], dtype=bool)
    from_end_T = np.minimum(np.arange(BEFORE + AFTER), np.arange(BEFORE + AFTER)[::-1])
    beat_LT = beat_LT * np.minimum(1, from_end_T / FADE)
    for place, following in zip(peaks_N, [*peaks_N[1:], x_LT.shape[1] + BEFORE], strict=True):
        start, stop = max(0, place - BEFORE), min(place + AFTER, following - BEFORE, x_LT.shape[1])
        if stop > start:
            rest_LT[:, start:stop] -= beat_LT[:, start - place + BEFORE : stop - place + BEFORE]
        blank_T[max(0, place - QRS) : place + QRS] = True
    time_T = np.arange(x_LT.shape[1])
    if blank_T.all():
        return np.zeros_like(rest_LT)
    for rest_T in rest_LT:
        rest_T[blank_T] = np.interp(time_T[blank_T], time_T[~blank_T], rest_T[~blank_T])
    return rest_LT
