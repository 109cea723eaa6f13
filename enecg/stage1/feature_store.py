"""Computed features of frozen backbones, on disk: each record meets each backbone once.

A folder per expert, weights, preparation and number format holds ``expert.json`` (which expert, and
the hashes of its weight files) and Parquet parts with ``physical_sha256`` (the hash of the
millivolts) and ``features``. Parts appear by atomic rename under a name that their content gives,
so a killed computation loses only what it had not yet written, and two that run at once cannot
disagree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.errors import JobFailed, one_line
from enecg.experts.contract import Expert
from enecg.files import read_json, replacing, write_json

Format = Literal["float32", "float16"]
RATE = "rate.json"


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
        return sorted(self.folder.glob("part-*.parquet"))

    def keys(self) -> set[str]:
        """Hashes of the records whose features are here."""
        found: set[str] = set()
        for part in self.parts:
            found.update(pq.read_table(part, columns=["physical_sha256"])[0].to_pylist())
        return found

    def rows(self, keys: list[str]) -> npt.NDArray[np.float32]:
        """Return the features of some records that are here, shape (N, D)."""
        row_of = {key: row for row, key in enumerate(keys)}
        same = np.array([row_of[key] for key in keys])  # records of the same signals share a row
        found_ND: npt.NDArray[np.float32] | None = None
        for part in self.parts:
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
        path = self.folder / f"part-{name}.parquet"
        try:
            with replacing(path) as temporary:
                pq.write_table(table, temporary, compression="none", use_dictionary=False)
        except OSError as error:  # a full disk, a lost mount
            raise JobFailed(
                f"features cannot be kept in {self.folder}: {one_line(error)}"
            ) from error
        return path

    def note_rate(self, records_per_second: float) -> None:
        """Keep how fast features were computed last, for the next plan."""
        write_json(self.folder / RATE, {"records_per_second": records_per_second})

    def rate(self) -> float | None:
        """Records per second when features were computed last; None if they never were."""
        path = self.folder / RATE
        return float(read_json(path)["records_per_second"]) if path.exists() else None
