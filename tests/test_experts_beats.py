"""Beats: what is measured is what is in the signal."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from torch import Tensor

from enecg import experts, signals
from enecg.errors import UserError
from enecg.experts import beat_measures as measures
from enecg.experts.contract import Expert
from tests.expert_signals import ecg_like


@pytest.fixture(scope="module")
def expert() -> Expert:
    """The expert."""
    return experts.load("beats")


def beats_at(seconds: np.ndarray, p_wave: float = 0.15) -> np.ndarray:
    """Twelve leads of P, QRS and T waves at these R-peaks, shape (12, 5000), in mV."""
    time_T = np.arange(signals.N_SAMPLES) / signals.SAMPLING_RATE_HZ
    away_NT = time_T - seconds[:, None]
    wave_T = sum(
        height * np.exp(-0.5 * ((away_NT - at) / width) ** 2).sum(axis=0)
        for height, at, width in ((p_wave, -0.16, 0.02), (1.0, 0.0, 0.012), (0.3, 0.28, 0.05))
    )
    random = np.random.default_rng(0)
    size_L1 = np.linspace(0.4, 1.5, 12)[:, None]
    return size_L1 * wave_T + random.normal(0, 0.01, (12, signals.N_SAMPLES))


def irregular(seed: int = 0) -> np.ndarray:
    """R-peaks at random distances."""
    return 0.4 + np.random.default_rng(seed).uniform(0.4, 1.2, 11).cumsum()


def test_r_peaks_are_where_they_were_put() -> None:
    at = irregular()
    at = at[at < 9.8]
    found = measures.r_peaks(measures.filtered(beats_at(at))) / signals.SAMPLING_RATE_HZ
    assert len(found) == len(at)
    np.testing.assert_allclose(found, at, atol=0.006)


def test_rhythm_tells_rate_and_irregularity() -> None:
    regular = measures.rhythm(np.arange(250, 5000, 400))
    assert regular[1] == pytest.approx(0.8)
    assert regular[2] == pytest.approx(1.25)
    spread, rmssd = 4, 7
    assert regular[spread] == regular[rmssd] == 0
    random = measures.rhythm((irregular() * 500).astype(int))
    assert random[spread] > 0.15
    assert random[rmssd] > 0.2
    assert not measures.rhythm(np.array([100, 500, 900])).any()


def test_p_waves_are_measured_and_found_repeatable() -> None:
    at = np.arange(0.6, 9.5, 0.8)

    def of(x_LT: np.ndarray) -> np.ndarray:
        filtered_LT = measures.filtered(x_LT)
        peaks_N = measures.r_peaks(filtered_LT)
        beats_NLT = measures.beats_of(filtered_LT, peaks_N)
        return measures.atrial(filtered_LT, peaks_N, beats_NLT)

    with_p, without = of(beats_at(at)), of(beats_at(at, p_wave=0.0))
    np.testing.assert_allclose(with_p[:, 0], 0.15 * np.linspace(0.4, 1.5, 12), rtol=0.25)
    assert (with_p[:, 0] > 1.5 * without[:, 0]).all()
    assert (with_p[:, 2] > 0.9).all()
    time_T = np.arange(signals.N_SAMPLES) / signals.SAMPLING_RATE_HZ
    waving = of(beats_at(at, p_wave=0.0) + 0.1 * np.sin(2 * np.pi * 6.1 * time_T))
    band = 5 + [low for low, _ in measures.BANDS_HZ].index(5.5)
    assert (waving[:, band] > 0.7).all(), "the frequency of fibrillatory waves"
    assert (waving[:, band] > 2 * without[:, band]).all()


def test_the_median_beat_is_the_beat_and_ignores_one_that_differs() -> None:
    at = np.arange(0.6, 9.5, 0.8)
    x_LT = beats_at(at)
    place = int(500 * at[5])
    odd_LT = x_LT.copy()
    odd_LT[:, place - 40 : place + 40] *= -2

    def beat(x_LT: np.ndarray) -> np.ndarray:
        filtered_LT = measures.filtered(x_LT)
        return measures.median_beat(measures.beats_of(filtered_LT, (500 * at).astype(int)))

    clean_LT = beat(x_LT)
    top = clean_LT[:, measures.BEFORE // measures.STEP - 3 :][:, :7].max(axis=1)
    np.testing.assert_allclose(top, np.linspace(0.4, 1.5, 12), rtol=0.2)
    assert np.abs(beat(odd_LT) - clean_LT).max() < 0.1


def test_amplitude_is_kept_in_the_waves_and_not_in_the_rhythm(expert: Expert) -> None:
    x_BLT = ecg_like(3)
    small_BD, large_BD = expert.features(x_BLT), expert.features(2 * x_BLT)
    n_waves = expert.spec.width - 8 * expert.basis_TF.shape[1]
    torch.testing.assert_close(large_BD[:, n_waves:], 2 * small_BD[:, n_waves:])
    torch.testing.assert_close(
        large_BD[:, : measures.RHYTHM], small_BD[:, : measures.RHYTHM], rtol=1e-3, atol=1e-3
    )


def test_records_without_beats_give_zeros_not_errors(expert: Expert) -> None:
    noise_LT = 1e-9 * torch.randn(12, 5000, generator=torch.Generator().manual_seed(0))
    one_beat_LT = torch.from_numpy(beats_at(np.array([5.0]))).float()
    f_BD = expert.features(torch.stack([torch.zeros(12, 5000), noise_LT, one_beat_LT]))
    assert torch.isfinite(f_BD).all()
    assert not f_BD[0, : measures.RHYTHM].any()


def test_weights_are_refused() -> None:
    with pytest.raises(UserError, match="takes no weights"):
        experts.load("beats", weights="beats.pt")


def real(name: str) -> Tensor:
    """A record of `ptb-xl`, resampled to 500 Hz by SciPy if need be: (12, 5000)."""
    folder = os.environ.get("ENECG_ECG_DIR")
    if not folder:
        pytest.skip("ENECG_ECG_DIR is not set: no real ECGs to measure")
    record = wfdb.rdrecord(str(Path(folder).resolve() / "ptb-xl" / name))
    x_LT = [signals.resample(x_T, record.fs) for x_T in record.p_signal.T]
    return torch.from_numpy(np.stack(x_LT)).float()


@pytest.mark.parametrize("number", range(1, 11))
def test_a_real_ecg_measures_about_the_same_from_its_100_hz_copy(
    expert: Expert, number: int
) -> None:
    fine_D, coarse_D = expert.features(
        torch.stack(
            [real(f"records500/00000/{number:05}_hr"), real(f"records100/00000/{number:05}_lr")]
        )
    )
    beats_per_second, middle = 0, 1
    assert coarse_D[beats_per_second] == pytest.approx(float(fine_D[beats_per_second]), abs=0.21)
    assert coarse_D[middle] == pytest.approx(float(fine_D[middle]), abs=0.03)
    waves = slice(expert.spec.width - 8 * expert.basis_TF.shape[1], None)
    assert torch.corrcoef(torch.stack([fine_D[waves], coarse_D[waves]]))[0, 1] > 0.97
