"""Beats: rhythm, atrial activity and the median beat as numbers; nothing is learned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from enecg import signals
from enecg.errors import UserError
from enecg.experts import beat_measures as measures
from enecg.experts.contract import Expert, ExpertSpec, check_input

RATE_HZ = signals.SAMPLING_RATE_HZ / measures.STEP
INDEPENDENT = tuple(signals.LEADS.index(name) for name in ("I", "II", *signals.LEADS[6:]))
"""The leads that are no sums of others."""
WAVES = ((-0.3, -0.06, 8), (-0.06, 0.09, 14), (0.09, 0.5, 12))
"""Stretches of the median beat, in seconds from the R-peak, and in how many cosines each is
written: P wave, QRS complex, ST segment and T wave."""
N_LEADS = len(signals.LEADS)
MORPHOLOGY = 9
"""Numbers that `morphology` gives, per lead."""
OVERALL = 10
"""Numbers that `overall` gives."""
MEASURES = measures.RHYTHM + N_LEADS * (measures.ATRIAL + MORPHOLOGY) + OVERALL
ANGLE_PLANE = tuple(signals.LEADS.index(name) for name in ("I", "aVF"))


class Beats(Expert):
    """What a cardiologist measures: intervals between beats, P waves, and the shape of a beat.

    R-peaks are found by NeuroKit2 (Makowski et al., Behav. Res. Methods 2021) in all leads
    together. Per record: statistics of the R–R intervals; per lead, how high and how repeatable
    the P wave is, and the spectrum of what is left without beats (fibrillatory waves); the median
    beat's extremes and areas per lead, and its P, QRS and T stretches as coefficients of cosines
    in millivolts. See `enecg.experts.beat_measures`.

    It has no output for tasks whose labels come from R-peaks.
    """

    name = "beats"
    version = 1
    prepares_on = "cpu"

    basis_TF: Tensor

    def __init__(self) -> None:
        basis_TF = _cosines()
        n_cosines = basis_TF.shape[1]
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=RATE_HZ,
            n_samples=measures.BEAT,
            leads=signals.LEADS,
            units="mV (median beat); seconds, ratios, logarithms (measures)",
            normalisation="0.5 to 40 Hz kept; the median beat's level before the QRS subtracted",
            width=MEASURES + len(INDEPENDENT) * n_cosines,
            parameters=0,
            licence="Apache-2.0 (nothing pretrained)",
            pretraining_corpora=(),
            adaptations=("head", "head_lora"),
            needs_weights=False,
            uses_r_peaks=True,
        )  # fmt: skip
        super().__init__(spec, {})
        self.register_buffer("basis_TF", torch.from_numpy(basis_TF).float())

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Find and measure the beats, record by record.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, M + 12 × 200)
            Measures, and the median beat (lead by lead, 250 Hz).
        """
        check_input(x_BLT)
        rows_BM = np.zeros((len(x_BLT), MEASURES + N_LEADS * measures.BEAT), dtype=np.float32)
        for row_M, x_LT in zip(rows_BM, x_BLT.cpu().numpy(), strict=True):
            row_M[:] = measured(x_LT)
        return torch.from_numpy(rows_BM).to(x_BLT.device)

    def embed(self, prepared: Tensor) -> Tensor:
        """Write the median beat in cosines; float32 of shape (B, D)."""
        with torch.autocast(prepared.device.type, enabled=False):
            measured_BM = prepared[:, :MEASURES].float()
            beat_BLT = prepared[:, MEASURES:].float().unflatten(1, (N_LEADS, measures.BEAT))
            # Products summed over time one by one: the same numbers in a batch of any size.
            waves_BLF = (beat_BLT[:, INDEPENDENT, :, None] * self.basis_TF).sum(2)
            return torch.cat([measured_BM, waves_BLF.flatten(1)], dim=1)

    def load_weights(self, path: object) -> None:
        """Refuse: there are no weights to load."""
        raise UserError(f"expert beats takes no weights (it measures, nothing is learned): {path}")


def measured(x_LT: np.ndarray) -> np.ndarray:
    """Measure one record: rhythm, atria, morphology, median beat, in one row of numbers."""
    filtered_LT = measures.filtered(x_LT)
    peaks_N = measures.r_peaks(filtered_LT)
    beats_NLT = measures.beats_of(filtered_LT, peaks_N)
    beat_LT = measures.median_beat(beats_NLT)
    parts = [
        measures.rhythm(peaks_N),
        measures.atrial(filtered_LT, peaks_N, beats_NLT).ravel(),
        morphology(beat_LT).ravel(),
        overall(beat_LT, beats_NLT),
        beat_LT.ravel(),
    ]
    return np.concatenate(parts)


def _place(seconds: float) -> int:
    """A time from the R-peak as a place in the median beat."""
    return round(seconds * RATE_HZ) + measures.BEFORE // measures.STEP


def morphology(beat_LT: np.ndarray) -> np.ndarray:
    """Measure a median beat lead by lead: mV, mV s, s; shape (L, MORPHOLOGY)."""
    p_LT = beat_LT[:, _place(-0.28) : _place(-0.07)]
    qrs_LT = beat_LT[:, _place(-0.07) : _place(0.09)]
    st_LT = beat_LT[:, _place(0.09) : _place(0.13)]
    t_LT = beat_LT[:, _place(0.13) : _place(0.48)]
    largest_L = np.abs(t_LT).argmax(axis=1)
    return np.column_stack(
        [
            np.ptp(p_LT, axis=1),
            qrs_LT.max(axis=1),
            qrs_LT.min(axis=1),
            qrs_LT.sum(axis=1) / RATE_HZ,
            np.abs(np.diff(qrs_LT, axis=1)).max(axis=1),
            st_LT.mean(axis=1),
            np.take_along_axis(t_LT, largest_L[:, None], axis=1)[:, 0],
            t_LT.sum(axis=1) / RATE_HZ,
            largest_L / RATE_HZ,
        ]
    )


def overall(beat_LT: np.ndarray, beats_NLT: np.ndarray) -> np.ndarray:
    """Measure all leads together: width of the QRS complex, end of T, axes; shape (OVERALL,)."""
    size_T = np.sqrt((np.diff(beat_LT, axis=1) ** 2).sum(axis=0))
    qrs_T = size_T[_place(-0.1) : _place(0.14)]
    fast_T = qrs_T > 0.15 * max(qrs_T.max(), 1e-6)
    height_T = np.sqrt((beat_LT**2).sum(axis=0))
    t_T = height_T[_place(0.16) :]
    after = np.flatnonzero(t_T > 0.3 * max(t_T.max(), 1e-6))
    axes = []
    for start, stop in ((-0.07, 0.09), (0.13, 0.48), (-0.28, -0.07)):
        x, y = beat_LT[ANGLE_PLANE, _place(start) : _place(stop)].sum(axis=1)
        length = np.hypot(x, y) + 1e-6
        axes += [x / length, y / length]
    spread = 0.0
    if len(beats_NLT) > 1:
        middle_LT = np.median(beats_NLT, axis=0)
        spread = np.log(np.median(np.abs(beats_NLT - middle_LT).mean(axis=(1, 2))) + 1e-3)
    return np.array(
        [fast_T.sum() / RATE_HZ, len(after) and after[-1] / RATE_HZ, t_T.argmax() / RATE_HZ,
         spread, *axes]
    )  # fmt: skip


def _cosines() -> np.ndarray:
    """Orthonormal cosines (DCT-II) over each of `WAVES`, shape (BEAT, number of cosines)."""
    columns = []
    for start, stop, n in WAVES:
        first, last = _place(start), _place(stop)
        place_T = (np.arange(last - first) + 0.5) / (last - first)
        for order in range(n):
            column_T = np.zeros(measures.BEAT)
            wave_T = np.cos(np.pi * order * place_T)
            column_T[first:last] = wave_T / np.linalg.norm(wave_T)
            columns.append(column_T)
    return np.stack(columns, axis=1)
