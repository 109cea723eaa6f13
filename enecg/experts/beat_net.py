"""A small residual network on the median beat, trained from scratch."""

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

STEP = 2
"""Samples of the median beat that are averaged into one of the network's."""
LENGTH = measures.BEAT // STEP
UNIT_MV = 0.5
"""Millivolts that are one to the network, and …"""
LARGEST = 10.0
"""… how many of those it sees at most."""
FEATURES = 128


class BeatNet(Expert):
    """What a convolutional network sees in the median beat: shapes that no one has named.

    The median beat of `Beats`, all leads in millivolts, passes three residual blocks of two
    convolutions (He et al., CVPR 2016; activation before convolution, each block's branch scaled
    by a learned number instead of normalised, so that amplitudes are kept) and one linear layer.
    While it is trained, amplitudes are changed a little (whole beat and lead by lead), noise is
    added, and all beats of a batch are shifted alike, by up to 16 ms.

    Not for tasks whose labels come from R-peaks.

    Parameters
    ----------
    channels : int
        Of the first block; the others have twice as many.
    dropout : float
        Before the linear layer and after it, in training, from 0 to below 1.
    noise : float
        How strong changes of amplitude and noise are in training; 0 for none, nor shifts.
    seed : int
        Seed of the initial weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "beat-net"
    version = 1
    prepares_on = "cpu"

    def __init__(
        self, *, channels: int = 32, dropout: float = 0.3, noise: float = 1.0, seed: int = 0
    ) -> None:
        if channels < 1:
            raise UserError(f"expert beat-net: channels is {channels}; it must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"expert beat-net: dropout is {dropout}; give 0 up to below 1")
        if noise < 0:
            raise UserError(f"expert beat-net: noise is {noise}; give at least 0")
        with drawing_from(seed):
            stem = nn.Conv1d(N_LEADS, channels, 7, padding=3)
            blocks = nn.Sequential(
                _Block(channels, channels),
                _Block(channels, 2 * channels),
                _Block(2 * channels, 2 * channels),
            )
            project = nn.Linear(2 * channels * (-(-LENGTH // 8)), FEATURES)
        layers = (stem, blocks, project)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=RATE_HZ / STEP,
            n_samples=LENGTH,
            leads=signals.LEADS,
            units="mV (median beat)",
            normalisation="0.5 to 40 Hz kept; the median beat's level before the QRS subtracted",
            width=FEATURES,
            parameters=sum(p.numel() for layer in layers for p in layer.parameters()),
            licence="Apache-2.0 (nothing pretrained)",
            pretraining_corpora=(),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=True,
            lora_targets=("project",),
        )  # fmt: skip
        options = {"channels": channels, "dropout": dropout, "noise": noise, "seed": seed}
        super().__init__(spec, options)
        self.stem, self.blocks, self.project = layers
        self.dropout, self.noise = dropout, noise

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Find the median beat, as `Beats` does; float32 of shape (B, M + 12 × 200)."""
        return _beats().prepare(x_BLT)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what the network sees, float32 of shape (B, 128)."""
        beat_BLT = prepared[:, MEASURES:].float().unflatten(1, (N_LEADS, measures.BEAT))
        x_BLT = functional.avg_pool1d(beat_BLT / UNIT_MV, STEP).clamp(-LARGEST, LARGEST)
        if self.training and self.noise:
            x_BLT = self._changed(x_BLT)
        f_BD = functional.gelu(self.blocks(self.stem(x_BLT))).flatten(1)
        f_BD = functional.gelu(self.project(self._dropped(f_BD)))
        return self._dropped(f_BD).float()

    def preparation_fingerprint(self) -> str:
        """Return that of `Beats`: who needs both prepares a record once."""
        return _beats().preparation_fingerprint()

    def weights_fingerprint(self) -> str:
        """Return the SHA-256 of the parameters, and of name, version and options."""
        both = super().preparation_fingerprint() + super().weights_fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def _dropped(self, f_BD: Tensor) -> Tensor:
        return functional.dropout(f_BD, self.dropout, self.training)

    def _changed(self, x_BLT: Tensor) -> Tensor:
        """Beats as they might have looked: amplitudes, noise, where the R-peak was found."""
        overall_B11 = torch.randn_like(x_BLT[:, :1, :1])
        by_lead_BL1 = torch.randn_like(x_BLT[..., :1])
        loud_B11 = 0.06 * torch.rand_like(overall_B11)
        x_BLT = x_BLT * (self.noise * (0.1 * overall_B11 + 0.05 * by_lead_BL1)).exp()
        x_BLT = x_BLT + self.noise * loud_B11 * torch.randn_like(x_BLT)
        return x_BLT.roll(int(torch.randint(-2, 3, ())), -1)


@cache
def _beats() -> Beats:
    """What prepares; none of its tensors is used."""
    return Beats()


class _Block(nn.Module):
    """Two convolutions beside a shortcut; halves the length."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(width_in, width, 5, stride=2, padding=2)
        self.second = nn.Conv1d(width, width, 5, padding=2)
        self.shortcut = nn.Conv1d(width_in, width, 1, stride=2)
        self.share = nn.Parameter(torch.tensor([0.3]))

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return shape (B, C, T / 2)."""
        y_BCT = self.first(functional.gelu(x_BCT))
        return self.shortcut(x_BCT) + self.share * self.second(functional.gelu(y_BCT))
