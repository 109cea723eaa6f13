"""Signal files of every other format, read by the wfdb package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import wfdb

from enecg.errors import one_line
from enecg.records.channel import Rejected, head_length
from enecg.records.wfdb_header import Header, Signal

NO_SAMPLE = {
    "16": -(2**15), "24": -(2**23), "32": -(2**31), "61": -(2**15), "80": -(2**7),
    "160": -(2**15), "212": -(2**11), "310": -(2**9), "311": -(2**9), "508": -(2**7),
    "516": -(2**15), "524": -(2**23),
}  # fmt: skip
"""How each WFDB format writes "no sample here"; formats that are not listed cannot."""
BYTES = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5,
    "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
"""Bytes per sample; compressed formats have no fixed number."""
_COMPRESSED = ("508", "516", "524")
_MOST_SAMPLES = 1 << 27  # wfdb holds all of them at once, in up to 8 bytes each


def read_signals(
    path: Path, header: Header, n_frames: int, places: list[int]
) -> tuple[list[npt.NDArray[np.integer]], list[int]]:
    """Read a record of one segment through wfdb.

    Parameters
    ----------
    path : Path
        The record's header without ``.hea``.
    header : Header
        What it says, found to agree with the size of the files.
    n_frames : int
        Length.
    places : list of int
        Which of the header's signals: all those of some files.

    Returns
    -------
    samples : list of integer arrays
        The beginning of each of them, skew undone.
    sums : list of int
        The sum of all samples of each signal, as they stand in the file.

    Raises
    ------
    Rejected
        wfdb cannot read it, or understands the header in another way.
    """
    signals = [header.signals[place] for place in places]
    total = n_frames * sum(signal.per_frame for signal in signals)
    if total > _MOST_SAMPLES:
        raise Rejected("too long", f"{total} samples in a format that is read as a whole")
    for signal in signals:
        if signal.format not in (*BYTES, *_COMPRESSED):
            raise Rejected("unreadable", f"{signal.name}: unknown format {signal.format}")
    try:
        # A checksum is over the samples as they stand in the file: skew is ignored at first.
        record = _rdrecord(path, places, ignore_skew=True)
        _check_same(record, signals, n_frames)
        sums = [int(samples.sum(dtype=np.int64)) for samples in record.e_d_signal]
        if any(signal.skew for signal in signals):
            record = _rdrecord(path, places, ignore_skew=False)
    except Rejected:
        raise
    except Exception as error:  # wfdb raises anything at all on a malformed file
        detail = one_line(error).replace(f"{os.fspath(path.parent)}{os.sep}", "")
        raise Rejected("unreadable", f"{type(error).__name__}: {detail}"[:500]) from error
    keep = head_length(header.rate_hz)
    return [
        np.array(samples[: keep * signal.per_frame])
        for signal, samples in zip(signals, record.e_d_signal, strict=True)
    ], sums


def _rdrecord(path: Path, places: list[int], ignore_skew: bool) -> Any:
    return wfdb.rdrecord(
        os.fspath(path), channels=places, physical=False, smooth_frames=False, m2s=False,
        ignore_skew=ignore_skew,
    )  # fmt: skip


def _check_same(record: Any, signals: list[Signal], n_frames: int) -> None:
    """Make sure that wfdb took the header for what it is here."""
    read = [
        (name, form, per_frame or 1, skew or 0, offset or 0, len(samples))
        for name, form, per_frame, skew, offset, samples in zip(
            record.file_name, record.fmt, record.samps_per_frame, record.skew,
            record.byte_offset, record.e_d_signal, strict=True,
        )
    ]  # fmt: skip
    for mine, theirs in zip(signals, read, strict=True):
        length = n_frames * mine.per_frame
        if (mine.file, mine.format, mine.per_frame, mine.skew, mine.offset, length) != theirs:
            raise Rejected(
                "wrong length" if length != theirs[-1] else "unreadable header",
                f"{mine.name}: {theirs[-1]} samples of format {theirs[1]}, the header says "
                f"{length} of format {mine.format}",
            )
