"""Steps of preparing a signal that several experts share: gaps, scale and sampling rate."""

from __future__ import annotations

import torch
from torch import Tensor


def centred(x_BLT: Tensor) -> Tensor:
    """Subtract each lead's mean and put 0, that mean, where samples are missing.

    Parameters
    ----------
    x_BLT : floating tensor, shape (B, L, T)
        Any unit; NaN or infinite where missing.

    Returns
    -------
    tensor, shape (B, L, T)
        Finite, same unit and type; a lead without any sample is 0 throughout.
    """
    present_BLT = torch.isfinite(x_BLT)
    filled_BLT = torch.where(present_BLT, x_BLT, 0.0)
    n_BL1 = present_BLT.sum(dim=-1, keepdim=True).clamp(min=1)
    mean_BL1 = filled_BLT.sum(dim=-1, keepdim=True) / n_BL1
    return torch.where(present_BLT, filled_BLT - mean_BL1, 0.0)


def z_scored(x_BLT: Tensor, *, together: bool = False, least: float = 0.0) -> Tensor:
    """Subtract the mean and divide by the population standard deviation, per lead or record.

    Parameters
    ----------
    x_BLT : floating tensor, shape (B, L, T)
        Any unit; NaN or infinite where missing.
    together : bool
        One mean and deviation for all leads of a record, so that their sizes stay in proportion.
    least : float
        Added to the deviation.

    Returns
    -------
    tensor, shape (B, L, T)
        Finite, of the same type; 0 where a sample is missing, and where nothing varies.
    """
    shape = x_BLT.shape
    # In float64 the mean of equal samples is exact, so that a constant comes out as 0, not noise.
    wide_BLT = x_BLT.double().flatten(1)[:, None] if together else x_BLT.double()
    present_BLT = torch.isfinite(wide_BLT)
    n_BL1 = present_BLT.sum(dim=-1, keepdim=True).clamp(min=1)
    away_BLT = centred(wide_BLT)
    std_BL1 = (away_BLT.square().sum(dim=-1, keepdim=True) / n_BL1).sqrt() + least
    scaled_BLT = away_BLT / torch.where(std_BL1 > 0, std_BL1, 1.0)
    return scaled_BLT.reshape(shape).to(x_BLT.dtype)


def resample_fourier(x_BLT: Tensor, n_samples: int) -> Tensor:
    """Change the sampling rate by cutting or padding the spectrum, as `scipy.signal.resample` does.

    Band-limited, without delay, differentiable. The signal is taken as periodic, so a jump
    between its two ends rings there.

    Parameters
    ----------
    x_BLT : floating tensor, shape (..., T)
        Finite samples.
    n_samples : int
        Length wanted, at least 1.

    Returns
    -------
    tensor, shape (..., n_samples)
        The same duration at the other rate.
    """
    n_before = x_BLT.shape[-1]
    if n_samples < 1:
        raise ValueError(f"cannot resample to {n_samples} samples")
    if n_samples == n_before:
        return x_BLT
    shared = min(n_before, n_samples)
    spectrum_BLF = torch.fft.rfft(x_BLT)[..., : shared // 2 + 1]
    if shared % 2 == 0:
        # The Nyquist line of the shorter signal stands for two lines of the longer one, at plus
        # and minus that frequency: folded on it when shortening, halved when lengthening.
        weight_F = torch.ones(shared // 2 + 1, dtype=x_BLT.dtype, device=x_BLT.device)
        weight_F[-1] = 2.0 if n_samples < n_before else 0.5
        spectrum_BLF = spectrum_BLF * weight_F
    return torch.fft.irfft(spectrum_BLF, n=n_samples) * (n_samples / n_before)
