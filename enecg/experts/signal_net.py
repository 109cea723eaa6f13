"""A small residual network on the whole signal, trained from scratch."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.errors import UserError
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.pooling import check_range
from enecg.experts.preparation import centred, resample_fourier
from enecg.experts.unnormalised import Block, Conv, active

RATE_HZ = 100
N_SAMPLES = RATE_HZ * signals.DURATION_S
UNIT_MV = 1 / 6
"""Millivolts that are one to the network: about what a lead's samples deviate, and …"""
LARGEST = 60.0
"""… how many of those it sees at most."""
SEEN = 800
"""Samples that it sees at a time: 8 s."""
MOST_WINDOWS = 9
WIDTHS = (1, 1.5, 2, 3, 4)
"""Channels of the stem and of each block, as multiples of the option `channels`."""
KERNEL = 7
LONG = 3.0
"""How much longer the convolutions' initial weights are than usual. Standardised weights have a
direction alone, and Adam's steps turn longer ones less: at usual length some copies blow their
features up within a hundred steps, whereupon the head's normalisation hides them from the loss."""


class SignalNet(Expert):
    """What a convolutional network finds in the signal by itself, with nothing measured before.

    All leads at 100 Hz, in millivolts, pass a convolution and four residual blocks (see
    `enecg.experts.unnormalised`). Mean and maximum over time of what these give pass a linear
    layer.

    While it is trained it sees 8 s of the signal, from the same random start for all records of a
    batch, changed a little: amplitude, noise, a wandering baseline, a lead missing now and then.
    Else it looks at several such windows, and gives the mean of what it sees (test-time
    augmentation).

    Parameters
    ----------
    channels : int
        Of the first convolution, even; the last block has four times as many.
    dropout : float
        Of means and maxima, in training, from 0 to below 1.
    noise : float
        How strong the changes in training are; 0 for none.
    windows : int
        At how many windows it looks when it is not trained, 1 to 9.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "signal-net"
    version = 2

    def __init__(
        self,
        *,
        channels: int = 32,
        dropout: float = 0.3,
        noise: float = 1.0,
        windows: int = 2,
        seed: int = 0,
    ) -> None:
        if channels < 2 or channels % 2:
            raise UserError(f"expert signal-net: channels is {channels}; it must be even, above 0")
        check_range(self.name, "channels", channels, 1, 4096)
        if not 0 <= dropout < 1:
            raise UserError(f"expert signal-net: dropout is {dropout}; give 0 up to below 1")
        if noise < 0:
            raise UserError(f"expert signal-net: noise is {noise}; give at least 0")
        check_range(self.name, "noise", noise, 0, 1000)
        if not 1 <= windows <= MOST_WINDOWS:
            raise UserError(f"expert signal-net: windows is {windows}; give 1 to {MOST_WINDOWS}")
        widths = [int(times * channels) for times in WIDTHS]
        with drawing_from(seed):
            stem = Conv(len(signals.LEADS), widths[0], 15, stride=2)
            blocks = nn.Sequential(*(Block(a, b, KERNEL) for a, b in pairwise(widths)))
            project = nn.Linear(2 * widths[-1], 2 * widths[-1])
            for module in (stem, *blocks.modules()):
                if isinstance(module, Conv):
                    module.weight.data *= LONG
        layers = (stem, blocks, project)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(RATE_HZ),
            n_samples=N_SAMPLES,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted; missing samples 0",
            width=2 * widths[-1],
            parameters=sum(p.numel() for layer in layers for p in layer.parameters()),
            licence="Apache-2.0 (nothing pretrained)",
            pretraining_corpora=(),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("project",),
        )
        options = {
            "channels": channels, "dropout": dropout, "noise": noise, "windows": windows,
            "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
        self.stem, self.blocks, self.project = layers
        self.dropout, self.noise = dropout, noise
        spare = N_SAMPLES - SEEN
        self.starts = [spare // 2]
        if windows > 1:
            self.starts = [spare * n // (windows - 1) for n in range(windows)]

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Centre the leads and resample them to 100 Hz; hum of just 50 Hz stays in part.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 12, 1000)
            Millivolts.
        """
        check_input(x_BLT)
        return resample_fourier(centred(x_BLT), N_SAMPLES)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what the network sees, float32 of shape (B, 8 × channels)."""
        x_BLT = (prepared.float() / UNIT_MV).clamp(-LARGEST, LARGEST)
        if not self.training:
            windows = [self._seen(x_BLT[..., start : start + SEEN]) for start in self.starts]
            return torch.stack(windows).mean(0)
        if self.noise:
            x_BLT = self._changed(x_BLT)
        start = int(torch.randint(N_SAMPLES - SEEN + 1, ()))
        return self._seen(x_BLT[..., start : start + SEEN])

    def _seen(self, x_BLT: Tensor) -> Tensor:
        """What the network makes of one window."""
        y_BCT = active(self.blocks(self.stem(x_BLT)))
        f_BD = torch.cat([y_BCT.mean(-1), y_BCT.amax(-1)], dim=1)
        f_BD = functional.dropout(f_BD, self.dropout, self.training)
        return functional.gelu(self.project(f_BD)).float()

    def _changed(self, x_BLT: Tensor) -> Tensor:
        """Signals as they might have been recorded."""
        loud_B11, slow_B11, phase_B11 = torch.rand((3, len(x_BLT), 1, 1), device=x_BLT.device)
        x_BLT = x_BLT * (0.1 * self.noise * torch.randn_like(loud_B11)).exp()
        x_BLT = x_BLT + 0.18 * self.noise * loud_B11 * torch.randn_like(x_BLT)
        time_T = torch.arange(N_SAMPLES, device=x_BLT.device) / RATE_HZ
        wave_B1T = torch.sin(2 * math.pi * ((0.05 + 0.45 * slow_B11) * time_T + phase_B11))
        wander_BL1 = 0.3 * self.noise * (2 * torch.rand_like(x_BLT[..., :1]) - 1)
        kept_BL1 = torch.rand_like(x_BLT[..., :1]) >= 0.05 * min(self.noise, 1.0)
        return (x_BLT + wander_BL1 * wave_B1T) * kept_BL1
