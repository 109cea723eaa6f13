"""The fast path: signal files of 16-bit samples, read by NumPy in a small part of wfdb's time.

Most corpora are written so: MIMIC-IV-ECG, PTB-XL, and the PhysioNet Challenges, whose ``.mat``
files are format 16 with a MATLAB header of 24 bytes in front.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

FORMATS = {"16": "<i2", "61": ">i2"}
"""WFDB formats → how NumPy calls them."""
_CHUNK = 1 << 22  # samples in memory at a time, 8 MB


def read_frames(
    file: Path, kind: str, offset: int, n_frames: int, width: int, keep: int
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint16]]:
    """Read a whole signal file, piece by piece, and keep its beginning.

    Parameters
    ----------
    file : Path
        Holds at least ``n_frames`` frames.
    kind : str
        Of `FORMATS`.
    offset : int
        Bytes before the first frame.
    n_frames, width : int
        Frames, and samples per frame.
    keep : int
        Frames to keep.

    Returns
    -------
    head : int16 array, shape (width, min(keep, n_frames))
        The first frames, place in the frame by time.
    sums : uint16 array, shape (width,)
        Sum over all frames of each place, modulo 65536: what checksums are.
    """
    keep = min(keep, n_frames)
    sums = np.zeros(width, dtype=np.uint16)
    head = np.empty((width, 0), dtype=np.int16)
    per_chunk = max(keep, _CHUNK // width)
    with open(file, "rb", buffering=0) as data:
        data.seek(offset)
        for start in range(0, n_frames, per_chunk):
            count = min(per_chunk, n_frames - start) * width
            frames = np.fromfile(data, FORMATS[kind], count).reshape(-1, width)
            places = np.empty(frames.shape[::-1], dtype=np.int16)
            places[...] = frames.T  # a third of the time that ascontiguousarray takes
            # 16 bits wrap around as checksums do, and need no widening.
            sums += places.view(np.uint16).sum(axis=1, dtype=np.uint16)
            if start == 0:
                head = places[:, :keep]
    return head, sums
