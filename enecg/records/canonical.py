"""The one form in which every record is stored: 12 leads, 500 Hz, 10 s, int16."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enecg.records.channel import Channel, Rejected, check_amplitude
from enecg.records.leads import mentioned
from enecg.signals import (
    DURATION_S,
    LARGEST,
    LARGEST_BASELINE,
    LEADS,
    MISSING,
    N_SAMPLES,
    SAMPLING_RATE_HZ,
    derived_limb_leads,
    quantise,
    resample,
)

_LIMB_LEADS = range(6)


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
    derived_L : bool array, shape (12,)
        Limb leads that it has not, computed from the first two limb leads, in the order of
        `enecg.signals.LEADS`, that it has and that carry a signal.
    changed : tuple of str
        What was done: ``resampled``, ``cropped``, ``padded``, ``requantised`` (gain or baseline
        are not the file's), ``inverted`` (a lead that the file has turned over), in this order.
    requantisation_error_uv : float or None
        The largest difference, in µV, between a recorded lead (after resampling) and what is
        stored of it; None where every lead holds the file's own samples.
    """

    signal_LT: npt.NDArray[np.int16]
    gain_L: npt.NDArray[np.float64]
    baseline_L: npt.NDArray[np.int32]
    present_L: npt.NDArray[np.bool_]
    derived_L: npt.NDArray[np.bool_]
    changed: tuple[str, ...]
    requantisation_error_uv: float | None

    def signal_sha256(self) -> str:
        """Return the SHA-256 of the samples as stored."""
        return self.sha256s()[0]

    def sha256s(self) -> tuple[str, str]:
        """Return the SHA-256 of the samples as stored, and that of samples, gain and baseline.

        The second is of what the millivolts are.
        """
        digest = hashlib.sha256(np.ascontiguousarray(self.signal_LT, dtype="<i2").data)
        samples = digest.hexdigest()
        digest.update(self.gain_L.astype("<f8").tobytes())
        digest.update(self.baseline_L.astype("<i4").tobytes())
        return samples, digest.hexdigest()


def canonical(channels: dict[int, Channel]) -> CanonicalRecord:
    """Bring a recording into the store's form, touching as little as possible.

    Parameters
    ----------
    channels : dict of int to Channel
        The leads that are there, by their place in `enecg.signals.LEADS`; as `Leads`, with the
        names of the other signals.

    Returns
    -------
    CanonicalRecord
        A lead of 500 Hz whose digital samples fit 16 bits keeps them bit for bit, however long
        it is. A lead that is not there is missing throughout.

    Raises
    ------
    Rejected
        No lead that carries a signal, or one with a voltage that no electrode delivers.
    """
    for lead, channel in channels.items():
        check_amplitude(LEADS[lead], channel)
    changed: set[str] = set()
    left_out = getattr(channels, "left_out", ())
    signal_LT = np.full((len(LEADS), N_SAMPLES), MISSING, dtype=np.int16)
    gain_L = np.full(len(LEADS), 1000.0)
    baseline_L = np.zeros(len(LEADS), dtype=np.int32)
    alive = [lead for lead in sorted(channels) if _alive(channels[lead])]
    if not alive:
        names = ", ".join(LEADS[lead] for lead in sorted(channels))
        others = ", ".join(repr(name[:60]) for name in left_out[:20])
        detail = f"none of the twelve; signals: {others}" if others else "none of the twelve"
        if names:
            detail = f"flat or missing in the first 10 s: {names}"
        raise Rejected("no usable lead", detail)
    errors = []
    for lead, channel in channels.items():
        signal_LT[lead], gain_L[lead], baseline_L[lead], error = _canonical_lead(channel, changed)
        if error is not None:
            errors.append(error)
    derived_L = np.zeros(len(LEADS), dtype=bool)
    if any(channel.inverted for channel in channels.values()):
        changed.add("inverted")
    # A signal such as "aVR (filtered)" is left out; but what was recorded is not to be computed.
    recorded = {*channels, *mentioned(left_out)}
    absent = [lead for lead in _LIMB_LEADS if lead not in recorded]
    pair = [lead for lead in alive if lead in _LIMB_LEADS][:2]
    if absent and len(pair) == 2:
        x_T, y_T = (_millivolts(signal_LT[lead], gain_L[lead], baseline_L[lead]) for lead in pair)
        all_LT = derived_limb_leads(pair[0], pair[1], x_T, y_T)
        for lead in absent:
            signal_LT[lead], gain_L[lead], baseline_L[lead] = quantise(all_LT[lead])
        derived_L[absent] = True
    order = ("resampled", "cropped", "padded", "requantised", "inverted")
    return CanonicalRecord(
        signal_LT,
        gain_L,
        baseline_L,
        np.array([lead in channels for lead in range(len(LEADS))]),
        derived_L,
        tuple(step for step in order if step in changed),
        max(errors) if errors else None,
    )


def _millivolts(
    digital_T: npt.NDArray[np.int16], gain: float, baseline: int
) -> npt.NDArray[np.float64]:
    x_T = (digital_T.astype(np.float64) - baseline) / gain
    x_T[digital_T == MISSING] = np.nan
    return x_T


def _alive(channel: Channel) -> bool:
    """Whether the first 10 s hold at least two different samples."""
    used = slice(0, math.ceil(DURATION_S * channel.rate_hz))
    samples = channel.digital_T[used]
    if channel.has_gaps:
        samples = samples[~channel.missing_T[used]]
    # Nearly always the first few samples tell.
    return len(samples) > 0 and bool(
        (samples[:64] != samples[0]).any() or (samples != samples[0]).any()
    )


def _canonical_lead(
    channel: Channel, changed: set[str]
) -> tuple[npt.NDArray[np.int16], float, int, float | None]:
    """Return one lead's stored samples, gain, baseline, and error in µV where requantised.

    What was done is noted in ``changed``.
    """
    length = round(channel.n_samples * SAMPLING_RATE_HZ / channel.rate_hz)
    if length > N_SAMPLES:
        changed.add("cropped")
    if length < N_SAMPLES:
        changed.add("padded")
    if channel.rate_hz == SAMPLING_RATE_HZ and _fits(channel, needs_zero=length < N_SAMPLES):
        used = min(length, N_SAMPLES)
        if used == N_SAMPLES and not channel.has_gaps:
            kept_T = channel.digital_T[:used].astype(np.int16, copy=False)
            return kept_T, channel.gain, channel.baseline, None
        # Format 16 marks missing samples as the store does; other formats have other marks.
        kept_T = np.full(N_SAMPLES, channel.baseline if used < N_SAMPLES else 0, dtype=np.int16)
        kept_T[:used] = channel.digital_T[:used]
        kept_T[:used][channel.missing_T[:used]] = MISSING
        return kept_T, channel.gain, channel.baseline, None
    x_T = channel.millivolts()
    if channel.rate_hz != SAMPLING_RATE_HZ:
        changed.add("resampled")
        x_T = resample(x_T, channel.rate_hz)
    x_T = np.pad(x_T[:N_SAMPLES], (0, max(0, N_SAMPLES - len(x_T))))
    digital_T, gain, baseline = quantise(x_T)
    if (gain, baseline) != (channel.gain, channel.baseline):
        changed.add("requantised")
    difference_T = np.abs(_millivolts(digital_T, gain, baseline) - x_T)
    largest = difference_T.max(initial=0.0, where=np.isfinite(x_T))
    return digital_T, gain, baseline, float(largest) * 1000.0


def _fits(channel: Channel, needs_zero: bool) -> bool:
    """Whether the samples can be stored as they are: -32768 is taken, it means missing."""
    if channel.digital_T.dtype.kind != "i":
        return False
    samples = channel.digital_T[:N_SAMPLES]
    if channel.has_gaps:
        samples = samples[~channel.missing_T[:N_SAMPLES]]
    narrow = samples.dtype.itemsize <= 2
    in_range = len(samples) == 0 or (
        samples.min() > MISSING and (narrow or samples.max() <= LARGEST)
    )
    zero = LARGEST if needs_zero else LARGEST_BASELINE
    return bool(in_range and abs(channel.baseline) <= zero)
