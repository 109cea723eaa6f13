"""Reading one WFDB record, verified: what its header promises is what its files hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import wfdb

from enecg.errors import one_line
from enecg.signals import LEADS, lead_position

# How each WFDB format writes "no sample here"; formats that are not listed cannot.
_NO_SAMPLE = {
    "16": -(2**15), "24": -(2**23), "32": -(2**31), "61": -(2**15), "80": -(2**7),
    "160": -(2**15), "212": -(2**11), "310": -(2**9), "311": -(2**9), "508": -(2**7),
    "516": -(2**15), "524": -(2**23),
}  # fmt: skip
# Bytes per sample; compressed formats have no fixed number.
_BYTES = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5,
    "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
# Units of a signal → how many of them make one millivolt. Both signs for micro are in use.
_PER_MILLIVOLT = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "v": 1e-3}
_HEAD_S = 11.0  # of a long recording nothing after this is used
_SLOWEST_HZ, _FASTEST_HZ = 50.0, 50_000.0


class Rejected(Exception):
    """A record that cannot be used: a short reason that can be counted, and the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Channel:
    """One lead as its file holds it.

    Attributes
    ----------
    digital_T : int64 array, shape (T,)
        Digital samples.
    missing_T : bool array, shape (T,)
        Where the file says that there is no sample.
    gain : float
        Digital steps per millivolt.
    baseline : int
        The digital value of 0 mV.
    rate_hz : float
        Sampling rate.
    """

    digital_T: npt.NDArray[np.int64]
    missing_T: npt.NDArray[np.bool_]
    gain: float
    baseline: int
    rate_hz: float

    def millivolts(self) -> npt.NDArray[np.float64]:
        """Return the signal in mV, shape (T,), NaN where missing."""
        x_T = (self.digital_T - self.baseline) / self.gain
        x_T[self.missing_T] = np.nan
        return x_T


def read(path: Path) -> dict[int, Channel]:
    """Read and verify one WFDB record.

    Parameters
    ----------
    path : Path
        The record's header without ``.hea``.

    Returns
    -------
    dict of int to Channel
        The leads that are there, by their place in `enecg.signals.LEADS`, each in full length.

    Raises
    ------
    Rejected
        Unreadable, checksum or length not as in the header, unusable unit or sampling rate.
    """
    if not Path(f"{path}.hea").is_file():
        raise Rejected("unreadable", f"no header {path.name}.hea")
    try:
        # Skew is ignored at first: a checksum is over the samples as they stand in the file.
        record = _load(path, ignore_skew=True)
        if isinstance(record, wfdb.MultiRecord):
            return _joined(record, path.parent)
        _verify(record)
        return _channels(_load(path) if any(record.skew or ()) else record, path)
    except Rejected:
        raise
    except Exception as error:  # wfdb raises anything at all on a malformed file
        _check_sizes(path)
        detail = one_line(error).replace(f"{os.fspath(path.parent)}{os.sep}", "")
        raise Rejected("unreadable", f"{type(error).__name__}: {detail}"[:500]) from error


def _load(path: Path, ignore_skew: bool = False) -> Any:
    """Return wfdb's record with every sample of every signal in ``e_d_signal``."""
    name = os.fspath(path)
    try:
        return wfdb.rdrecord(
            name, physical=False, smooth_frames=False, m2s=False, ignore_skew=ignore_skew
        )
    except ValueError:
        # wfdb 4.3.1 cannot widen big-endian samples (format 61) unless it also smooths frames,
        # which changes nothing where a frame is one sample.
        header = wfdb.rdheader(name)
        if "61" not in (header.fmt or ()) or any((n or 1) > 1 for n in header.samps_per_frame):
            raise
        record = wfdb.rdrecord(name, physical=False, ignore_skew=ignore_skew)
        record.e_d_signal = list(record.d_signal.T)
        return record


def _check_sizes(path: Path) -> None:
    """Say so where a record cannot be read because a file is missing or too short."""
    try:
        header = wfdb.rdheader(os.fspath(path))
        needed: dict[str, float] = {}
        for place, name in enumerate(header.file_name):
            samples = header.sig_len * (header.samps_per_frame[place] or 1)
            offset = header.byte_offset[place] or 0
            width = _BYTES.get(header.fmt[place], 0.0)
            needed[name] = max(needed.get(name, 0.0), offset) + samples * width
    except Exception:  # then the header itself is what is wrong
        return
    for name, size in needed.items():
        if not (path.parent / name).is_file():
            raise Rejected("unreadable", f"no file {name}")
        found = (path.parent / name).stat().st_size
        if found < int(size):
            raise Rejected("wrong length", f"{name}: {found} bytes, the header asks for {size:.0f}")


def _verify(record: wfdb.Record) -> None:
    """Check lengths and checksums of a single segment against its header."""
    signals = record.e_d_signal or []
    if not signals:
        raise Rejected("unreadable", "the header lists no signals")
    for place, samples in enumerate(signals):
        expected = record.sig_len * (record.samps_per_frame[place] or 1)
        if len(samples) != expected:
            raise Rejected(
                "wrong length",
                f"{record.sig_name[place]}: {len(samples)} samples, the header says {expected}",
            )
        stated = record.checksum[place] if record.checksum else None
        # The checksum is 16 bits wide; writers differ in whether they show it as signed.
        if stated is not None and (int(np.sum(samples, dtype=np.int64)) - stated) % 65536:
            raise Rejected(
                "checksum mismatch",
                f"{record.sig_name[place]}: {int(np.sum(samples, dtype=np.int64)) % 65536}, "
                f"the header says {stated % 65536}",
            )


def _units(record: wfdb.Record, path: Path) -> list[str]:
    """Return the unit of each signal as the header has it.

    wfdb drops every character that is not ASCII, so that µV would become V.
    """
    raw = path.with_name(f"{path.name}.hea").read_bytes()
    if raw.isascii():
        return [unit or "mV" for unit in record.units]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    gains = [line.split()[2:3] for line in lines[1 : 1 + record.n_sig]]
    return [gain[0].partition("/")[2] or "mV" if gain else "mV" for gain in gains]


def _channels(record: wfdb.Record, path: Path) -> dict[int, Channel]:
    """Return the ECG leads of a single segment, by name; of two alike the first counts."""
    found: dict[int, Channel] = {}
    units = _units(record, path)
    for place, name in enumerate(record.sig_name):
        lead = lead_position(name or "")
        if lead is None or lead in found:
            continue
        unit = units[place].lower()
        if unit not in _PER_MILLIVOLT:
            raise Rejected("unknown unit", f"{name}: {units[place]!r}; known: mV, µV, V")
        rate = float(record.fs) * (record.samps_per_frame[place] or 1)
        if not _SLOWEST_HZ <= rate <= _FASTEST_HZ:
            raise Rejected("unusable sampling rate", f"{name}: {rate:g} Hz")
        samples = np.asarray(record.e_d_signal[place], dtype=np.int64)
        nothing = _NO_SAMPLE.get(record.fmt[place])
        found[lead] = Channel(
            samples,
            samples == nothing if nothing is not None else np.zeros(len(samples), dtype=bool),
            float(record.adc_gain[place]) * _PER_MILLIVOLT[unit],
            int(record.baseline[place]),
            rate,
        )
    return found


def _joined(record: Any, folder: Path) -> dict[int, Channel]:
    """Verify the segments of a multi-segment record and put each lead's pieces in a row."""
    pieces: dict[int, list[tuple[int, Channel]]] = {}
    start = 0
    for segment, length in zip(record.segments, record.seg_len, strict=True):
        if segment is not None and length:  # length 0: the layout of a variable-layout record
            if segment.sig_len != length:
                raise Rejected(
                    "wrong length",
                    f"segment {segment.record_name}: {segment.sig_len} samples, the record's "
                    f"header says {length}",
                )
            _verify(segment)
            for lead, channel in _channels(segment, folder / segment.record_name).items():
                pieces.setdefault(lead, []).append((start, channel))
        start += length
    if start != record.sig_len:
        raise Rejected(
            "wrong length", f"segments hold {start} samples, the header says {record.sig_len}"
        )
    return {
        lead: _in_a_row(LEADS[lead], found, record.sig_len, float(record.fs))
        for lead, found in pieces.items()
    }


def _in_a_row(
    name: str, pieces: list[tuple[int, Channel]], frames: int, frame_rate: float
) -> Channel:
    """Join one lead's pieces, each with its first frame; what no piece covers is missing."""
    first = pieces[0][1]
    if any(
        (piece.rate_hz, piece.gain, piece.baseline) != (first.rate_hz, first.gain, first.baseline)
        for start, piece in pieces
        if start < _HEAD_S * frame_rate
    ):
        raise Rejected("unreadable", f"{name}: segments differ in gain, baseline or sampling rate")
    per_frame = round(first.rate_hz / frame_rate)
    digital_T = np.zeros(frames * per_frame, dtype=np.int64)
    missing_T = np.ones(frames * per_frame, dtype=bool)
    for start, piece in pieces:
        where = slice(start * per_frame, start * per_frame + len(piece.digital_T))
        digital_T[where] = piece.digital_T
        missing_T[where] = piece.missing_T
    return Channel(digital_T, missing_T, first.gain, first.baseline, first.rate_hz)
