"""A small residual network on the median beat and its measures, trained from scratch."""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.errors import UserError
from enecg.experts import beat_measures as measures
from enecg.experts.beats import MEASURES, N_LEADS, RATE_HZ, Beats
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, drawing_from
from enecg.experts.pooling import check_range
from enecg.experts.unnormalised import Block, Conv, Linear, active

STEP = 2
"""Samples of the median beat that are averaged into one of the network's."""
LENGTH = measures.BEAT // STEP
UNIT_MV = 1 / 6
"""Millivolts that are one to the network: about what a lead's samples deviate, and …"""
LARGEST = 30.0
"""… how many of those it sees at most."""
LARGEST_DEVIATION = 4.0
"""Measures are cut off here, in standard deviations of the training records'."""
SEES = 128
"""Numbers that the beat, and as many that the measures, become."""
VIEWS = (1, 3, 5)
"""Values of the option `views`: the beat itself, and as many shifted to either side."""


class BeatNet(Expert):
    """What a convolutional network sees in the median beat, beside what `Beats` measures in it.

    The median beat, all leads in millivolts, passes three residual blocks (see
    `enecg.experts.unnormalised`) and a linear layer. The measures, in deviations from the mean of
    what it learns from, pass a linear layer of their own.

    While it is trained, amplitudes are changed a little (whole beat and lead by lead), noise is
    added to beat and measures, and all beats of a batch are shifted alike, by up to 16 ms. Else it
    looks at each beat several times, shifted by 8 ms more each time, and gives the mean of what
    it sees (test-time augmentation).

    It has no output for tasks whose labels come from R-peaks. Under ``lora`` the layer on the
    measures learns.

    Parameters
    ----------
    channels : int
        Of the first block; the others have twice as many.
    dropout : float
        Of the measures, before the linear layers and after them, in training, from 0 to below 1.
    noise : float
        How strong changes of amplitude and noise are in training; 0 for none, nor shifts.
    views : int
        How many times it looks at a beat when it is not trained: 1, 3 or 5.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "beat-net"
    version = 2
    prepares_on = "cpu"
    scaled = slice(0, MEASURES)

    measure_mean: Tensor
    measure_std: Tensor

    def __init__(
        self,
        *,
        channels: int = 32,
        dropout: float = 0.3,
        noise: float = 1.0,
        views: int = 3,
        seed: int = 0,
    ) -> None:
        if channels < 1:
            raise UserError(f"expert beat-net: channels is {channels}; it must be at least 1")
        check_range(self.name, "channels", channels, 1, 4096)
        if not 0 <= dropout < 1:
            raise UserError(f"expert beat-net: dropout is {dropout}; give 0 up to below 1")
        if noise < 0:
            raise UserError(f"expert beat-net: noise is {noise}; give at least 0")
        check_range(self.name, "noise", noise, 0, 1000)
        if views not in VIEWS:
            allowed = ", ".join(map(str, VIEWS))
            raise UserError(f"expert beat-net: views is {views}; it must be one of {allowed}")
        with drawing_from(seed):
            stem = Conv(N_LEADS, channels, 7)
            blocks = nn.Sequential(
                Block(channels, channels, 5),
                Block(channels, 2 * channels, 5),
                Block(2 * channels, 2 * channels, 5),
            )
            project = Linear(2 * channels * (-(-LENGTH // 8)), SEES)
            measured = nn.Linear(MEASURES, SEES)
        layers = (stem, blocks, project, measured)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=RATE_HZ / STEP,
            n_samples=LENGTH,
            leads=signals.LEADS,
            units="mV (median beat); deviations (measures)",
            normalisation="0.5 to 40 Hz kept; the median beat's level before the QRS subtracted",
            width=2 * SEES,
            parameters=sum(p.numel() for layer in layers for p in layer.parameters()),
            licence="Apache-2.0 (nothing pretrained)",
            pretraining_corpora=(),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=True,
            lora_targets=("measured",),
        )  # fmt: skip
        options = {
            "channels": channels, "dropout": dropout, "noise": noise, "views": views, "seed": seed,
        }  # fmt: skip
        super().__init__(spec, options)
        self.stem, self.blocks, self.project, self.measured = layers
        self.dropout, self.noise = dropout, noise
        self.shifts = range(-(views // 2), views // 2 + 1)
        self.register_buffer("measure_mean", torch.zeros(MEASURES))
        self.register_buffer("measure_std", torch.ones(MEASURES))

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Measure the beats, as `Beats` does; float32 of shape (B, M + 12 × 200)."""
        return _beats().prepare(x_BLT)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what the network sees, float32 of shape (B, 256)."""
        measure_BM = (prepared[:, :MEASURES].float() - self.measure_mean) / self.measure_std
        measure_BM = measure_BM.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
        beat_BLT = prepared[:, MEASURES:].float().unflatten(1, (N_LEADS, measures.BEAT))
        x_BLT = (functional.avg_pool1d(beat_BLT, STEP) / UNIT_MV).clamp(-LARGEST, LARGEST)
        if self.training and self.noise:
            x_BLT, measure_BM = self._changed(x_BLT, measure_BM)
        seen = [self._seen(x_BLT.roll(by, -1)) for by in ((0,) if self.training else self.shifts)]
        y_BD = torch.stack(seen).mean(0)
        measure_BD = functional.gelu(self.measured(self._dropped(measure_BM)))
        return self._dropped(torch.cat([y_BD, measure_BD], dim=1)).float()

    def scale(self, mean_M: Tensor, std_M: Tensor) -> None:
        """Take over the measures' mean and deviation."""
        self.measure_mean.copy_(mean_M)
        self.measure_std.copy_(std_M)

    def preparation_fingerprint(self) -> str:
        """Return that of `Beats`: who needs both prepares a record once."""
        return _beats().preparation_fingerprint()

    def weights_fingerprint(self) -> str:
        """Return the SHA-256 of the parameters, and of name, version and options."""
        both = super().preparation_fingerprint() + super().weights_fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def _seen(self, x_BLT: Tensor) -> Tensor:
        """What the convolutions make of a beat, (B, 128)."""
        y_BD = active(self.blocks(self.stem(x_BLT))).flatten(1)
        return active(self.project(self._dropped(y_BD)))

    def _dropped(self, f_BD: Tensor) -> Tensor:
        return functional.dropout(f_BD, self.dropout, self.training)

    def _changed(self, x_BLT: Tensor, measure_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Beats as they might have looked: amplitudes, noise, where the R-peak was found."""
        overall_B11 = torch.randn_like(x_BLT[:, :1, :1])
        by_lead_BL1 = torch.randn_like(x_BLT[..., :1])
        loud_B11 = 0.18 * torch.rand_like(overall_B11)
        x_BLT = x_BLT * (self.noise * (0.1 * overall_B11 + 0.05 * by_lead_BL1)).exp()
        x_BLT = x_BLT + self.noise * loud_B11 * torch.randn_like(x_BLT)
        measure_BM = measure_BM + 0.1 * self.noise * torch.randn_like(measure_BM)
        return x_BLT.roll(int(torch.randint(-2, 3, ())), -1), measure_BM


@cache
def _beats() -> Beats:
    """What prepares; none of its tensors is used."""
    return Beats()
