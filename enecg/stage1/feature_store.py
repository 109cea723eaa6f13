"""Computed features of frozen backbones, on disk: each record meets each backbone once.

A folder per expert, weights, preparation and number format holds ``expert.json`` (which expert, and
the hashes of its weight files) and Parquet parts with ``physical_sha256`` (the hash of the
millivolts) and ``features``. Parts appear by atomic rename under a name that says of which records
they are and what the file's SHA-256 is, so a killed computation loses only what it had not yet
written, two that run at once cannot disagree, and a part that is not what it was is noticed.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.checked_files import (
    DamagedFile,
    read_sealed_json,
    sha256_once,
    write_sealed_json,
)
from enecg.errors import JobFailed, one_line
from enecg.experts.contract import Expert
from enecg.files import put_in_place, sha256_of_file

Format = Literal["float32", "float16"]
RATE = "rate.json"
_PART = re.compile(r"part-[0-9a-f]{24}(-[0-9a-f]{64})?\.parquet")
"""The second number is the file's SHA-256; earlier versions wrote parts without."""


@dataclass(frozen=True)
class FeatureStore:
    """Features of one expert.

    Attributes
    ----------
    folder : Path
    format : {"float32", "float16"}
        How the numbers are stored; readers get float32.
    """

    folder: Path
    format: Format = "float32"

    @classmethod
    def of(cls, root: Path, expert: Expert, format: Format = "float32") -> FeatureStore:
        """Return the store of an expert below a root folder; nothing is created yet.

        Its name says whose features these are: other weights, another preparation or another
        number format have a folder of their own.
        """
        weights, prepared = expert.weights_fingerprint(), expert.preparation_fingerprint()
        name = f"{expert.name}-weights-{weights[:16]}-prepared-{prepared[:16]}-{format}"
        return cls(Path(root) / name, format)

    @property
    def parts(self) -> list[Path]:
        """The Parquet files, in a fixed order."""
        return sorted(p for p in self.folder.glob("part-*.parquet") if _PART.fullmatch(p.name))

    def damaged(self) -> list[Path]:
        """Parts that are not what they were; each is read once per process, unless it changes."""
        return [part for part in self.parts if not _is_whole(part)]

    def unchecked(self) -> list[Path]:
        """Parts of an earlier version, whose names have no checksum."""
        return [part for part in self.parts if _digest_of(part) is None]

    def keys(self, compared: bool = False) -> set[str]:
        """Hashes of the records whose features are here; damaged parts do not count.

        ``compared`` says that another process has just compared the parts with their checksums.
        """
        found: set[str] = set()
        for part in self.parts:
            if compared or _is_whole(part):
                table = pq.read_table(part, columns=["physical_sha256"])
                found.update(table[0].to_pylist())
        return found

    def rows(self, keys: list[str]) -> npt.NDArray[np.float32]:
        """Return the features of some records that are here, shape (N, D).

        Raises
        ------
        DamagedFile
            A part is not what it was.
        JobFailed
            Some are not here.
        """
        row_of = {key: row for row, key in enumerate(keys)}
        same = np.array([row_of[key] for key in keys])  # records of the same signals share a row
        found_ND: npt.NDArray[np.float32] | None = None
        for part in reversed(self.parts):  # what the first part has of a record counts
            if not _is_whole(part):
                raise DamagedFile(
                    part,
                    "is damaged (its SHA-256 is not the one in its name)",
                    "remove it and run again: its features are computed again",
                )
            table = pq.read_table(part)
            f_BD = table["features"].combine_chunks().to_numpy_ndarray()
            if found_ND is None:
                found_ND = np.full((len(keys), f_BD.shape[1]), np.nan, dtype=np.float32)
            rows = [row_of.get(key, -1) for key in table["physical_sha256"].to_pylist()]
            here = np.array(rows) >= 0
            found_ND[np.array(rows)[here]] = f_BD[here]
        if found_ND is None or np.isnan(found_ND[same, 0]).any():
            raise JobFailed(f"{self.folder}: features of some records are not here")
        return found_ND[same]

    def add(self, keys: list[str], f_BD: npt.NDArray[np.float32]) -> Path:
        """Write features of some records as one part.

        Parameters
        ----------
        keys : list of str
            ``physical_sha256`` of the records.
        f_BD : float32 array, shape (B, D)

        Raises
        ------
        JobFailed
            A feature is not finite, or too large for float16; or the part cannot be written.
        """
        with np.errstate(over="ignore"):
            stored_BD = np.ascontiguousarray(f_BD, dtype=self.format)
        if not (finite_B := np.isfinite(stored_BD).all(1)).all():
            first = int(np.argmin(finite_B))
            told = "not finite" if not np.isfinite(f_BD[first]).all() else "too large for float16"
            raise JobFailed(f"{self.folder.name}: features of record {keys[first]} are {told}")
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(stored_BD)
        table = pa.table({"physical_sha256": pa.array(keys, pa.string()), "features": tensor})
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The file's own hash is part of its name, which is therefore known last.
            half = self.folder / f".part-{name}.{os.getpid()}.tmp"
            try:
                pq.write_table(table, half, compression="none", use_dictionary=False)
                path = self.folder / f"part-{name}-{sha256_of_file(half)}.parquet"
                put_in_place(half, path)
            finally:
                half.unlink(missing_ok=True)
        except OSError as error:  # a full disk, a lost mount
            raise JobFailed(
                f"features cannot be kept in {self.folder}: {one_line(error)}"
            ) from error
        return path

    def note_rate(self, records_per_second: float) -> None:
        """Keep how fast features were computed last, for the next plan."""
        write_sealed_json(self.folder / RATE, {"records_per_second": records_per_second})

    def rate(self) -> float | None:
        """Records per second when features were computed last; None if that is not known."""
        try:
            return float(read_sealed_json(self.folder / RATE)["records_per_second"])
        except (FileNotFoundError, DamagedFile):  # measured anew before it is needed
            return None


def _digest_of(part: Path) -> str | None:
    """Return the SHA-256 that a part's name has; None of a part of an earlier version."""
    found = _PART.fullmatch(part.name)
    return found[1][1:] if found is not None and found[1] is not None else None


def _is_whole(part: Path) -> bool:
    """Whether a part is what its name says; of an earlier version's, whether it can be read."""
    digest = _digest_of(part)
    try:
        if digest is not None:
            return sha256_once(part) == digest
        pq.read_metadata(part)
    except (OSError, pa.ArrowException):
        return False
    return True
