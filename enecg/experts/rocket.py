"""Rocket: random convolution kernels over the twelve leads; nothing is learned from any data."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.errors import UserError, brief, did_you_mean
from enecg.experts.contract import Expert, ExpertSpec, check_input
from enecg.experts.pooling import check_range
from enecg.experts.preparation import centred, resample_fourier

RATE_HZ = 100
N_SAMPLES = RATE_HZ * signals.DURATION_S

# A channel is a view of all leads. Its samples are whole numbers of a step, at most 2047 of them
# either way, so that convolution with small whole weights is exact in float32 and in TF32: the
# order of summation, hence batch size, threads and device, cannot move a sample over a threshold.
AMPLITUDE, SLOPE, SHAPE = range(3)
CHANNELS = {
    "all": (AMPLITUDE, SLOPE, SHAPE),
    "raw": (AMPLITUDE,),
    "difference": (SLOPE,),
    "normalised": (SHAPE,),
}
"""What each value of the option `signal` shows to the kernels."""
STEPS = (0.005, 0.002, 0.01)
"""Size of a step per channel: mV; mV per sample; standard deviations of the lead."""
LARGEST = 2047
FLAT_MV = 0.01
"""A lead's standard deviation counts as at least this when it is divided by: flat stays flat."""

MOST_KERNELS = 50_000
TAPS = 9
LARGEST_LEAD_SET = 9
LEVELS = ((0.02, 2.0), (0.01, 0.5), (0.1, 6.0))
"""Range of the thresholds per channel, in the units of `STEPS`."""
MORPHOLOGY_DILATIONS = (1, 2, 3, 4, 6, 8)
RHYTHM_SHARE = 9
"""One kernel in so many is a rhythm kernel: more of them dilute what a head learns of shapes."""
RHYTHM_DILATIONS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96)
TIMING_DILATIONS = (1, 2, 3, 4)
TIMING_KERNELS = 10
WAITS = (20, 25, 30, 36, 42, 50, 58, 66, 76, 88, 100, 115, 135, 160, 200)
"""Lengths of the stretches that `_Timing` looks for, in samples: 0.2 to 2 s."""
CHUNK = 32
"""Records convolved at a time: enough to be efficient, few enough to stay in the cache."""


class Rocket(Expert):
    """Random convolution kernels, pooled so that a linear head can read rate, shape and rhythm.

    In the tradition of ROCKET (Dempster et al., Data Min. Knowl. Discov. 2020), MiniRocket
    (Dempster et al., KDD 2021: weights -1 and 2, proportion of positive values) and MultiRocket
    (Tan et al., Data Min. Knowl. Discov. 2022: differences, lengths of stretches), with three
    departures: lead sets have signs; thresholds are drawn on the scale of millivolts instead of
    from the data's quantiles; and the pooling includes survival functions of waiting times.

    - Eight ninths of the kernels have short dilations and give the square root of the share of
      samples above a fixed level: how high and how wide waves are. By default a third each sees
      amplitudes, slopes, and leads scaled to unit variance.
    - One ninth has dilations up to 0.96 s and a level relative to the record's own, and gives
      the longest stretch below it: how regular the rhythm is.
    - Ten further kernels give the shares of 0.2 to 2 s windows that stay below a level: how
      fast it is. No beat is located.

    Parameters
    ----------
    kernels : int
        Number of kernels (and features) besides the timing ones, at least 4.
    seed : int
        Seed of the kernels.
    signal : {"all", "raw", "difference", "normalised"}
        What the kernels see: all three channels, or one of them alone – amplitudes, slopes, or
        leads scaled to unit variance –, so that several Rockets see different things.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "rocket"
    version = 1

    def __init__(self, *, kernels: int = 1850, seed: int = 0, signal: str = "all") -> None:
        if kernels < 4:
            raise UserError(f"expert rocket: kernels is {kernels}; it must be at least 4")
        check_range(self.name, "kernels", kernels, 4, MOST_KERNELS)
        if not 0 <= seed < 2**32:
            raise UserError(f"expert rocket: seed is {seed}; it must be from 0 to 2**32 - 1")
        if signal not in CHANNELS:
            raise UserError(
                f"expert rocket: signal is {brief(signal)}{did_you_mean(str(signal), CHANNELS)} "
                f"(allowed: {', '.join(CHANNELS)})"
            )
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(RATE_HZ),
            n_samples=N_SAMPLES,
            leads=signals.LEADS,
            units="whole steps of 5 uV, of 2 uV per sample, and of 0.01 standard deviations",
            normalisation=(
                "each lead's mean subtracted; as amplitudes, first differences, "
                "and amplitudes divided by the lead's standard deviation; missing samples 0"
            ),
            width=kernels + TIMING_KERNELS * len(WAITS),
            parameters=0,
            licence="Apache-2.0 (nothing pretrained)",
            pretraining_corpora=(),
            adaptations=("head", "head_lora"),
            needs_weights=False,
            uses_r_peaks=False,
        )
        super().__init__(spec, {"kernels": kernels, "seed": seed, "signal": signal})
        # RandomState, since NumPy promises that its streams never change.
        random = np.random.RandomState(seed)
        rhythm = max(1, kernels // RHYTHM_SHARE)
        channels = CHANNELS[signal]
        of_rhythm = SLOPE if signal == "all" else channels[0]
        banks: list[_Bank] = []
        for channel, n_channel in _spread(kernels - rhythm, channels):
            for dilation, n in _spread(n_channel, MORPHOLOGY_DILATIONS):
                banks.append(_ShareAbove(channel, dilation, n, random))
        for dilation, n in _spread(rhythm, RHYTHM_DILATIONS):
            banks.append(_LongestBelow(of_rhythm, dilation, n, random))
        for dilation, n in _spread(TIMING_KERNELS, TIMING_DILATIONS):
            banks.append(_SharesOfWaits(of_rhythm, dilation, n, random))
        self.banks = nn.ModuleList(banks)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Centre the leads, resample them to 100 Hz and make the three channels.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 3, 12, 1000)
            Whole numbers from -2047 to 2047: amplitude, slope and shape in their `STEPS`.
        """
        check_input(x_BLT)
        # In float64, rounding to whole steps comes out the same however the sums are ordered.
        x_BLT = resample_fourier(centred(x_BLT.double()), N_SAMPLES)
        slope_BLT = functional.pad(x_BLT.diff(dim=-1), (0, 1))
        spread_BL1 = x_BLT.std(dim=-1, keepdim=True, correction=0)
        shape_BLT = x_BLT / spread_BL1.clamp(min=FLAT_MV)
        channels = (x_BLT, slope_BLT, shape_BLT)
        stacked = torch.stack([c / step for c, step in zip(channels, STEPS, strict=True)], dim=1)
        return stacked.round().clamp(-LARGEST, LARGEST).float()

    def embed(self, prepared: Tensor) -> Tensor:
        """Convolve and pool; float32 of shape (B, kernels + 150)."""
        with torch.autocast(prepared.device.type, enabled=False):
            parts = [
                torch.cat([bank(chunk) for bank in self.banks], dim=1)
                for chunk in prepared.float().split(CHUNK)
            ]
        return torch.cat(parts)

    def preparation_fingerprint(self) -> str:
        """Return the SHA-256 of name and version: who needs several prepares a record once."""
        return hashlib.sha256(f"{self.name} {self.version}".encode()).hexdigest()

    def weights_fingerprint(self) -> str:
        """Return the SHA-256 of the kernels, and of the options, which say how they are used."""
        both = super().preparation_fingerprint() + super().weights_fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def load_weights(self, path: object) -> None:
        """Refuse: there are no weights to load."""
        raise UserError(f"expert rocket takes no weights (its kernels come from `seed`): {path}")


class _Bank(nn.Module):
    """Kernels of one dilation over one channel; a subclass says how their outputs are pooled.

    A kernel has MiniRocket's nine weights (three times 2, six times -1, so a constant gives 0) on
    each lead of a random set, with a random sign per lead.
    """

    weights_KLW: Tensor

    def __init__(self, channel: int, dilation: int, n: int, random: np.random.RandomState) -> None:
        super().__init__()
        self.channel = channel
        self.dilation = dilation
        patterns = list(itertools.combinations(range(TAPS), 3))
        weights_KLW = np.zeros((n, len(signals.LEADS), TAPS), dtype=np.float32)
        for kernel_LW in weights_KLW:
            taps_W = np.full(TAPS, -1.0)
            taps_W[list(patterns[random.randint(len(patterns))])] = 2.0
            # Log-uniform: small sets of leads are as frequent as large ones.
            size = int(2 ** random.uniform(0, np.log2(LARGEST_LEAD_SET + 1)))
            for lead in random.permutation(len(signals.LEADS))[:size]:
                kernel_LW[lead] = taps_W * random.choice((-1.0, 1.0))
        self.register_buffer("weights_KLW", torch.from_numpy(weights_KLW))

    def sizes(self) -> Tensor:
        """Return the square root of the number of leads per kernel: how outputs scale."""
        return self.weights_KLW.abs().amax(dim=2).gt(0).sum(dim=1).sqrt()

    def forward(self, channels_BCLT: Tensor) -> Tensor:
        """Return the pooled outputs, one row per record."""
        y_BKT = functional.conv1d(
            channels_BCLT[:, self.channel],
            self.weights_KLW,
            dilation=self.dilation,
            padding=(TAPS // 2) * self.dilation,
        )
        return self.pool(y_BKT)

    def pool(self, y_BKT: Tensor) -> Tensor:
        """Return finite features, shape (B, …)."""
        raise NotImplementedError


class _ShareAbove(_Bank):
    """The square root of the share of samples above (or above minus) a fixed level."""

    level_K: Tensor

    def __init__(self, channel: int, dilation: int, n: int, random: np.random.RandomState) -> None:
        super().__init__(channel, dilation, n, random)
        lowest, highest = LEVELS[channel]
        level_K = np.exp(random.uniform(np.log(lowest), np.log(highest), n))
        level_K *= random.choice((-1.0, 1.0), n) / STEPS[channel]
        # Halfway between whole numbers, where no output can be.
        halfway_K = torch.floor(torch.from_numpy(level_K) * self.sizes()) + 0.5
        self.register_buffer("level_K", halfway_K.float())

    def pool(self, y_BKT: Tensor) -> Tensor:
        """Return (B, K)."""
        above_BKT = torch.empty_like(y_BKT)  # compared straight into numbers, which is faster
        torch.gt(y_BKT, self.level_K[:, None], out=above_BKT)
        return above_BKT.mean(dim=-1).sqrt()


class _Relative(_Bank):
    """A level per kernel in root mean squares of the record's own output."""

    factor_K: Tensor
    lowest: float
    highest: float

    def __init__(self, channel: int, dilation: int, n: int, random: np.random.RandomState) -> None:
        super().__init__(channel, dilation, n, random)
        factor_K = torch.from_numpy(random.uniform(self.lowest, self.highest, n))
        self.register_buffer("factor_K", factor_K)

    def above(self, y_BKT: Tensor) -> Tensor:
        """Return where the output is above its level, bool (B, K, T)."""
        # Sums of squared whole numbers are exact in float64.
        rms_BK = y_BKT.double().square().mean(dim=-1).sqrt()
        level_BK = torch.floor(rms_BK * self.factor_K) + 0.5
        return y_BKT > level_BK.float()[..., None]


class _LongestBelow(_Relative):
    """The logarithm of the longest stretch at or below the level, in seconds."""

    lowest, highest = -1.0, 2.0

    def pool(self, y_BKT: Tensor) -> Tensor:
        """Return (B, K)."""
        above_BKT = self.above(y_BKT)
        time_T = torch.arange(1, N_SAMPLES + 1, device=y_BKT.device, dtype=torch.int32)
        last_BKT = torch.where(above_BKT, time_T, 0).cummax(dim=-1).values
        longest_BK = (time_T - last_BKT).amax(dim=-1)
        return torch.log((longest_BK + 1).float() / RATE_HZ)


class _SharesOfWaits(_Relative):
    """Of all windows of each length in `WAITS`, the share that stays at or below the level.

    For events at equal distances d this is 1 - length / d (or 0): linear in the event rate.
    """

    lowest, highest = 0.5, 3.0

    def pool(self, y_BKT: Tensor) -> Tensor:
        """Return (B, K * len(WAITS))."""
        count_BKT = functional.pad(self.above(y_BKT).float().cumsum(dim=-1), (1, 0))
        shares = [
            (count_BKT[..., wait:] == count_BKT[..., :-wait]).float().mean(dim=-1) for wait in WAITS
        ]
        return torch.stack(shares, dim=-1).flatten(1)


def _spread(n: int, kinds: Sequence[int]) -> list[tuple[int, int]]:
    """Share n kernels among kinds as evenly as possible: (kind, how many), none empty."""
    each, rest = divmod(n, len(kinds))
    counts = [each + (place < rest) for place in range(len(kinds))]
    return [(kind, count) for kind, count in zip(kinds, counts, strict=True) if count]
