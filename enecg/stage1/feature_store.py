"""Computed features of frozen backbones, on disk: each record meets each backbone once.

A folder per expert and fingerprint (name, options, version, weights) holds Parquet parts with
``physical_sha256`` (the hash of the millivolts) and ``features`` (float32). Parts appear by
atomic rename under a name that their content gives, so a killed computation loses only the part
it was writing, and two that run at once cannot disagree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.files import replacing


@dataclass(frozen=True)
class FeatureStore:
    """Features of one expert.

    Attributes
    ----------
    folder : Path
    """

    folder: Path

    @classmethod
    def of(cls, root: Path, name: str, fingerprint: str) -> FeatureStore:
        """Return the store of an expert below a root folder; nothing is created yet."""
        return cls(Path(root) / f"{name}-{fingerprint[:16]}")

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

    def add(self, keys: list[str], f_BD: npt.NDArray[np.float32]) -> Path:
        """Write features of some records as one part.

        Parameters
        ----------
        keys : list of str
            ``physical_sha256`` of the records.
        f_BD : float32 array, shape (B, D)
        """
        tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(f_BD))
        table = pa.table({"physical_sha256": pa.array(keys, pa.string()), "features": tensor})
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:24]
        path = self.folder / f"part-{name}.parquet"
        with replacing(path) as temporary:
            pq.write_table(table, temporary, compression="none", use_dictionary=False)
        return path
