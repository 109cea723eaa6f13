"""DLinear: a trend and a remainder, each read by one linear layer that all leads share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.errors import UserError
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input
from enecg.experts.pooling import check_range
from enecg.experts.preparation import centred, resample_fourier

SEQ_LEN = 500
"""Samples the linear layers read: ten seconds at 50 Hz."""


class DLinear(Expert):
    """Linear forecast of every lead from its own last ten seconds.

    Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023. A moving
    average splits a lead into trend and remainder; the forecast is the sum of a linear map of
    each. The features are the forecasts in mV, lead after lead: 12 times ``pred_len``.

    Parameters
    ----------
    kernel : int
        Odd length of the moving average, in samples at 50 Hz. The published checkpoint has 1001,
        longer than the signal: its trend is mostly the repeated first and last value. Around 25
        (half a second) is a usual choice for training from scratch.
    pred_len : int
        Samples forecast per lead; 1 in the published checkpoint.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "dlinear"
    version = 1
    published: ClassVar = {"DLinear/checkpoint.pth": None}

    def __init__(self, *, kernel: int = 1001, pred_len: int = 1, seed: int = 0) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise UserError(f"expert dlinear: kernel is {kernel}; it must be odd and at least 1")
        check_range(self.name, "kernel", kernel, 1, 2 * signals.N_SAMPLES + 1)
        if pred_len < 1:
            raise UserError(f"expert dlinear: pred_len is {pred_len}; it must be at least 1")
        check_range(self.name, "pred_len", pred_len, 1, 10_000)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=50.0,
            n_samples=SEQ_LEN,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted, amplitude kept; missing samples 0",
            width=len(signals.LEADS) * pred_len,
            parameters=2 * pred_len * (SEQ_LEN + 1),
            licence="MIT (thuml/Time-Series-Library, EnECG checkpoint)",
            # EnECG does not name the ECGs it trained on; those of its paper are MIMIC-IV-ECG.
            pretraining_corpora=("mimic-iv-ecg",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("Linear_Seasonal", "Linear_Trend"),
        )
        super().__init__(spec, {"kernel": kernel, "pred_len": pred_len, "seed": seed})
        self.Linear_Seasonal = nn.Linear(SEQ_LEN, pred_len)
        self.Linear_Trend = nn.Linear(SEQ_LEN, pred_len)
        self._draw_weights(seed)
        self.register_buffer("average_TT", _moving_average(kernel), persistent=False)

    average_TT: Tensor

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Centre every lead and resample it to 50 Hz.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 500, 12)
            Millivolts at 50 Hz, time before lead as in the published model.
        """
        check_input(x_BLT)
        return resample_fourier(centred(x_BLT.float()), SEQ_LEN).transpose(1, 2)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return every lead's forecast in mV, float32 of shape (B, 12 * pred_len)."""
        return self.forecast(prepared).transpose(1, 2).flatten(1).float()

    def forecast(self, x_BTL: Tensor) -> Tensor:
        """Forecast the samples that follow.

        Parameters
        ----------
        x_BTL : float32 tensor, shape (B, 500, L)
            Any number of leads.

        Returns
        -------
        tensor, shape (B, pred_len, L)
            In the unit of the input.
        """
        x_BLT = x_BTL.transpose(1, 2)
        trend_BLT = functional.linear(x_BLT, self.average_TT)
        forecast_BLP = self.Linear_Seasonal(x_BLT - trend_BLT) + self.Linear_Trend(trend_BLT)
        return forecast_BLP.transpose(1, 2)

    def trend(self, x_BTL: Tensor) -> Tensor:
        """Return the moving average over time, of the shape (B, 500, L) of the input."""
        return functional.linear(x_BTL.transpose(1, 2), self.average_TT).transpose(1, 2)

    def _draw_weights(self, seed: int) -> None:
        """Draw weights and biases as `nn.Linear` does, but from a generator of their own."""
        generator = torch.Generator().manual_seed(seed)
        bound = SEQ_LEN**-0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound, generator=generator)


def _moving_average(kernel: int) -> Tensor:
    """Return the averaging as a matrix (500, 500): trend = matrix @ x.

    The first and the last sample are repeated (kernel - 1) / 2 times at either end.
    """
    half = (kernel - 1) // 2
    unit_TT = torch.eye(SEQ_LEN, dtype=torch.float64)
    padded_TT = functional.pad(unit_TT[:, None], (half, half), mode="replicate")
    return functional.avg_pool1d(padded_TT, kernel, stride=1)[:, 0].T.contiguous().float()
