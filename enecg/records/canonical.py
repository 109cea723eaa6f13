"""The one form in which every record is stored: 12 leads, 500 Hz, 10 s, int16."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enecg.records.channel import Channel, Rejected
from enecg.signals import (
    DURATION_S,
    LARGEST,
    LEADS,
    MISSING,
    N_SAMPLES,
    SAMPLING_RATE_HZ,
    quantise,
    resample,
)

_MARGIN_S = 1.0  # beyond the tenth second, so that the resampling filter sees a real signal there


@dataclass(frozen=True)
class CanonicalRecord:
    """A record in the store's form.

    Attributes
    ----------
    signal_LT : int16 array, shape (12, 5000)
        Digital samples in the order of `enecg.signals.LEADS`; -32768 where missing.
    gain_L : float64 array, shape (12,)
        Digital steps per millivolt.
    baseline_L : int32 array, shape (12,)
        The digital value of 0 mV.
    present_L : bool array, shape (12,)
        Which leads the recording has.
    changed : tuple of str
        What was done: ``resampled``, ``cropped``, ``padded``, ``requantised`` (gain or baseline
        are not the file's), in this order.
    """

    signal_LT: npt.NDArray[np.int16]
    gain_L: npt.NDArray[np.float64]
    baseline_L: npt.NDArray[np.int32]
    present_L: npt.NDArray[np.bool_]
    changed: tuple[str, ...]

    def signal_sha256(self) -> str:
        """Return the SHA-256 of the samples as stored."""
        return hashlib.sha256(self.signal_LT.astype("<i2").tobytes()).hexdigest()

    def physical_sha256(self) -> str:
        """Return the SHA-256 of samples, gain and baseline: of what the millivolts are."""
        digest = hashlib.sha256(self.signal_LT.astype("<i2").tobytes())
        digest.update(self.gain_L.astype("<f8").tobytes())
        digest.update(self.baseline_L.astype("<i4").tobytes())
        return digest.hexdigest()


def canonical(channels: dict[int, Channel]) -> CanonicalRecord:
    """Bring a recording into the store's form, touching as little as possible.

    Parameters
    ----------
    channels : dict of int to Channel
        The leads that are there, by their place in `enecg.signals.LEADS`.

    Returns
    -------
    CanonicalRecord
        A lead of 500 Hz whose digital samples fit 16 bits keeps them bit for bit, however long
        it is. A lead that is not there is missing throughout.

    Raises
    ------
    Rejected
        No lead that carries a signal.
    """
    changed: set[str] = set()
    signal_LT = np.full((len(LEADS), N_SAMPLES), MISSING, dtype=np.int16)
    gain_L = np.full(len(LEADS), 1000.0)
    baseline_L = np.zeros(len(LEADS), dtype=np.int32)
    if not any(_alive(channel) for channel in channels.values()):
        names = ", ".join(LEADS[lead] for lead in sorted(channels))
        detail = f"flat or missing in the first 10 s: {names}" if names else "none of the twelve"
        raise Rejected("no usable lead", detail)
    for lead, channel in channels.items():
        signal_LT[lead], gain_L[lead], baseline_L[lead] = _canonical_lead(channel, changed)
    order = ("resampled", "cropped", "padded", "requantised")
    return CanonicalRecord(
        signal_LT,
        gain_L,
        baseline_L,
        np.isin(np.arange(len(LEADS)), list(channels)),
        tuple(step for step in order if step in changed),
    )


def _alive(channel: Channel) -> bool:
    """Whether the first 10 s hold at least two different samples."""
    used = slice(0, math.ceil(DURATION_S * channel.rate_hz))
    samples = channel.digital_T[used][~channel.missing_T[used]]
    return len(samples) > 0 and bool((samples != samples[0]).any())


def _canonical_lead(
    channel: Channel, changed: set[str]
) -> tuple[npt.NDArray[np.int16], float, int]:
    """Return one lead's stored samples, gain and baseline; note in ``changed`` what was done."""
    length = round(channel.n_samples * SAMPLING_RATE_HZ / channel.rate_hz)
    if length > N_SAMPLES:
        changed.add("cropped")
    if length < N_SAMPLES:
        changed.add("padded")
    if channel.rate_hz == SAMPLING_RATE_HZ and _fits(channel, needs_zero=length < N_SAMPLES):
        kept_T = np.full(N_SAMPLES, channel.baseline if length < N_SAMPLES else 0, dtype=np.int64)
        used = min(length, N_SAMPLES)
        kept_T[:used] = np.where(channel.missing_T[:used], MISSING, channel.digital_T[:used])
        return kept_T.astype(np.int16), channel.gain, channel.baseline
    x_T = channel.millivolts()[: math.ceil((DURATION_S + _MARGIN_S) * channel.rate_hz)]
    if channel.rate_hz != SAMPLING_RATE_HZ:
        changed.add("resampled")
        x_T = resample(x_T, channel.rate_hz)
    x_T = np.pad(x_T[:N_SAMPLES], (0, max(0, N_SAMPLES - len(x_T))))
    digital_T, gain = quantise(x_T)
    if (gain, 0) != (channel.gain, channel.baseline):
        changed.add("requantised")
    return digital_T, gain, 0


def _fits(channel: Channel, needs_zero: bool) -> bool:
    """Whether the samples can be stored as they are: -32768 is taken, it means missing."""
    samples = channel.digital_T[:N_SAMPLES][~channel.missing_T[:N_SAMPLES]]
    in_range = len(samples) == 0 or (samples.min() > MISSING and samples.max() <= LARGEST)
    zero = abs(channel.baseline) <= LARGEST if needs_zero else abs(channel.baseline) < 2**31
    return bool(in_range and zero and math.isfinite(channel.gain) and channel.gain != 0)
