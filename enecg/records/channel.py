"""What a source's reader hands over of one recording: its leads, or why it cannot be used."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from enecg.signals import DURATION_S

HEAD_S = DURATION_S + 1.0
"""Of a long recording nothing after this is kept: ten seconds, and what resampling leans on."""
SLOWEST_HZ, FASTEST_HZ = 50.0, 50_000.0
WEAKEST_GAIN, STRONGEST_GAIN = 1e-6, 1e12
LARGEST_MILLIVOLTS = 1000.0
"""No ECG has a sample beyond. Electrodes may stand at 300 mV of direct voltage (IEC 60601-2-25),
waves are a few mV high, pacing spikes and rails some tens (16 mV is the most in 2,900 records of
PTB-XL and the Challenges); three times the offset is left as a margin. Beyond it stands what a
wrong gain, unit or baseline made of the samples."""


LONGEST_DETAIL = 500
"""Characters of why a record was rejected."""


class Rejected(Exception):
    """A record that cannot be used: a short reason that can be counted, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = detail if len(detail) <= LONGEST_DETAIL else f"{detail[: LONGEST_DETAIL - 1]}…"
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[Rejected], tuple[str, str]]:
        return Rejected, (self.reason, self.detail)


@dataclass(frozen=True)
class Channel:
    """One lead as its file holds it.

    Attributes
    ----------
    digital_T : integer array, shape (T,); float where a corpus stores physical values
        Samples of the first `HEAD_S` seconds, or of the whole recording where it is shorter.
    missing_T : bool array, shape (T,)
        Where the file says that there is no sample.
    gain : float
        Digital steps per millivolt.
    baseline : int
        The digital value of 0 mV.
    rate_hz : float
        Sampling rate.
    n_samples : int
        Length of the whole recording.
    inverted : bool
        The file has the lead turned over (``-aVR``), and `gain` the other sign for that.
    """

    digital_T: npt.NDArray[Any]
    missing_T: npt.NDArray[np.bool_]
    gain: float
    baseline: int
    rate_hz: float
    n_samples: int
    inverted: bool = False

    @cached_property
    def has_gaps(self) -> bool:
        """Whether any sample is missing."""
        return bool(self.missing_T.any())

    def millivolts(self) -> npt.NDArray[np.float64]:
        """Return the signal in mV, shape (T,), NaN where missing."""
        x_T = (self.digital_T.astype(np.float64) - self.baseline) / self.gain
        x_T[self.missing_T] = np.nan
        return x_T


def check_amplitude(name: str, channel: Channel) -> None:
    """Reject a lead with a sample that no electrode delivers; missing ones do not count.

    Raises
    ------
    Rejected
        A sample is further than `LARGEST_MILLIVOLTS` from 0 mV.
    """
    samples = channel.digital_T
    if channel.has_gaps:
        samples = samples[~channel.missing_T]
    if len(samples) == 0:
        return
    ends = (float(samples.min()), float(samples.max()))
    largest = max((abs(end - channel.baseline) / abs(channel.gain) for end in ends), key=_nan_last)
    if not largest <= LARGEST_MILLIVOLTS:
        raise Rejected(
            "implausible amplitude",
            f"{name}: {largest:g} mV; taken: up to {LARGEST_MILLIVOLTS:,.0f} from 0 (are gain, "
            "unit and baseline right?)",
        )


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


class Leads(dict[int, Channel]):
    """The leads of a recording by their place in `enecg.signals.LEADS`.

    Attributes
    ----------
    left_out : tuple of str
        Names of the recording's other signals.
    """

    def __init__(self, channels: dict[int, Channel], left_out: Iterable[str] = ()) -> None:
        super().__init__(channels)
        self.left_out = tuple(dict.fromkeys(left_out))


def head_length(rate_hz: float) -> int:
    """Return how many samples `HEAD_S` seconds are."""
    return math.ceil(HEAD_S * rate_hz)


def check_plausible(name: str, rate_hz: float, gain: float) -> None:
    """Reject a lead whose sampling rate or gain no electrocardiograph has.

    Outside of these millivolts would leave the range in which everything after this computes.

    Raises
    ------
    Rejected
        Rate or gain out of range, or not a number.
    """
    if not SLOWEST_HZ <= rate_hz <= FASTEST_HZ:
        raise Rejected(
            "unusable sampling rate",
            f"{name}: {rate_hz:g} Hz; taken: {SLOWEST_HZ:g} to {FASTEST_HZ:g}",
        )
    if not WEAKEST_GAIN <= abs(gain) <= STRONGEST_GAIN:
        raise Rejected("unusable gain", f"{name}: {gain:g} steps per mV")
