"""Preparation in batch against SciPy, on real recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal
import torch
import wfdb
from torch import Tensor
from torch.nn import functional

from enecg import experts
from enecg.experts import filters
from enecg.experts.filters import median_of_windows, running_median, sosfiltfilt
from enecg.experts.preparation import resample_fourier, z_scored
from tests.expert_signals import ecg_like
from tests.small_experts import SMALL

BAND = {"N": 4, "Wn": [0.67, 40], "btype": "bandpass", "fs": 500}
NOTCH = scipy.signal.iirnotch(50, 30, fs=500)


@pytest.fixture(scope="module")
def x_BLT(real_ecgs: Path) -> Tensor:
    """Real recordings at 500 Hz: eight of PTB-XL, and four of Ningbo, some with flat leads."""
    headers = sorted((real_ecgs / "ptb-xl" / "records500").rglob("*.hea"))[:8]
    headers += sorted((real_ecgs / "challenge-2021" / "ningbo").rglob("*.hea"))[:4]
    records = [wfdb.rdrecord(str(h.with_suffix(""))).p_signal.T for h in headers]
    return torch.from_numpy(np.stack([record[:, :5000] for record in records])).float()


def agree(ours: Tensor, wanted: npt.NDArray[np.floating]) -> None:
    """Fail unless both agree to 1e-4, the unit being mV or standard deviations."""
    np.testing.assert_allclose(ours.double().numpy(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_samples", [336, 500, 512, 1000, 2501, 6000])
def test_resampling_is_scipys(x_BLT: Tensor, n_samples: int) -> None:
    wanted = scipy.signal.resample(x_BLT.double().numpy(), n_samples, axis=-1)
    agree(resample_fourier(x_BLT, n_samples), wanted)


def test_filters_are_scipys(x_BLT: Tensor) -> None:
    x = x_BLT.double().numpy()
    notched_BLT = sosfiltfilt(scipy.signal.tf2sos(*NOTCH), x_BLT)
    agree(notched_BLT, scipy.signal.filtfilt(*NOTCH, x, axis=-1))
    sos = scipy.signal.butter(**BAND, output="sos")
    passed_BLT = sosfiltfilt(sos, x_BLT)
    agree(passed_BLT, scipy.signal.filtfilt(*scipy.signal.butter(**BAND), x, axis=-1))
    exact = scipy.signal.sosfiltfilt(sos, x, axis=-1)
    np.testing.assert_allclose(passed_BLT.numpy(), exact, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_samples", [28, 64, 65, 333])
def test_filters_are_scipys_at_any_length(x_BLT: Tensor, n_samples: int) -> None:
    sos = scipy.signal.butter(**BAND, output="sos")
    x_BLT = x_BLT[:2, :3, :n_samples]
    exact = scipy.signal.sosfiltfilt(sos, x_BLT.double().numpy(), axis=-1)
    np.testing.assert_allclose(sosfiltfilt(sos, x_BLT).numpy(), exact, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="27 samples are too short: over 27 needed"):
        sosfiltfilt(sos, x_BLT[..., :27])


@pytest.mark.parametrize("width", [1, 3, 201, 999])
def test_the_running_median_is_scipys(
    x_BLT: Tensor, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_BLT = x_BLT[:2, :3, :1500]
    wanted = scipy.signal.medfilt(x_BLT.double().numpy(), (1, 1, width))
    assert np.array_equal(running_median(x_BLT.double(), width).numpy(), wanted)
    # What runs on other devices than the CPU, in chunks.
    monkeypatch.setattr(filters, "WINDOWS", 2000)
    padded_NT = functional.pad(x_BLT.reshape(-1, 1500), (width // 2, width // 2))
    assert np.array_equal(median_of_windows(padded_NT, width).reshape(x_BLT.shape).numpy(), wanted)


def test_ecgfounders_preparation_is_the_one_with_scipy(x_BLT: Tensor) -> None:
    x = x_BLT.double().numpy()
    x = scipy.signal.filtfilt(*NOTCH, x, axis=-1)
    x = scipy.signal.filtfilt(*scipy.signal.butter(**BAND), x, axis=-1)
    x -= scipy.signal.medfilt(x, (1, 1, 201))
    x = (x - x.mean((1, 2), keepdims=True)) / (x.std((1, 2), keepdims=True) + 1e-8)
    prepared_BLT = experts.load("ecgfounder", **SMALL["ecgfounder"]).prepare(x_BLT)
    agree(prepared_BLT, x)


def test_z_scores() -> None:
    x_BLT = ecg_like(2)
    x = x_BLT.double().numpy()
    agree(z_scored(x_BLT), (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True))
    over = {"axis": (1, 2), "keepdims": True}
    agree(z_scored(x_BLT, together=True, least=1.0), (x - x.mean(**over)) / (x.std(**over) + 1))
    x_BLT[0, 2], x_BLT[0, 3], x_BLT[1] = 0.1, torch.nan, 0.1
    for together in (False, True):
        scaled_BLT = z_scored(x_BLT, together=together)
        assert torch.isfinite(scaled_BLT).all()
        assert (scaled_BLT[0, 3] == 0).all()
        assert (scaled_BLT[1] == 0).all()
        assert together or (scaled_BLT[0, 2] == 0).all()
