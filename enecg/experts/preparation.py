"""Steps of preparing a signal that several experts share: filling gaps and changing the rate."""

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


def resample_fourier(x_BLT: Tensor, n_samples: int) -> Tensor:
    """Lower the sampling rate by cutting the spectrum, as `scipy.signal.resample` does.

    Band-limited, without delay, differentiable. The signal is taken as periodic, so a jump
    between its two ends rings there.

    Parameters
    ----------
    x_BLT : floating tensor, shape (..., T)
        Finite samples.
    n_samples : int
        Length wanted, even and below T.

    Returns
    -------
    tensor, shape (..., n_samples)
        The same duration at the lower rate.
    """
    n_before = x_BLT.shape[-1]
    if n_samples >= n_before or n_samples % 2:
        raise ValueError(f"can shorten {n_before} samples to an even number, not to {n_samples}")
    half = n_samples // 2
    spectrum_BLF = torch.fft.rfft(x_BLT)[..., : half + 1]
    # The new Nyquist line stands for the two lines, at plus and minus that frequency, folded on it.
    weight_F = torch.ones(half + 1, dtype=x_BLT.dtype, device=x_BLT.device)
    weight_F[half] = 2.0
    return torch.fft.irfft(spectrum_BLF * weight_F, n=n_samples) * (n_samples / n_before)
