"""The record store on disk: what its files hold, and how to read them (contract: DESIGN §5)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.errors import UserError
from enecg.files import read_json, replacing
from enecg.records.canonical import CanonicalRecord
from enecg.signals import LEADS, N_SAMPLES, to_millivolts

FORMAT = "enecg-records"
FORMAT_VERSION = 1
DESCRIPTION, INDEX, REJECTED = "dataset.json", "index.parquet", "rejected.parquet"
UNFINISHED = ".unfinished"
"""Folder in a store that is being made: its arguments, and a file for every shard that is done."""
REMNANT = ".unfinished.tmp"
"""The same folder once the store is finished, for the moment until it is removed."""
ROW_GROUP = 64
"""Records per row group: about 3 MB on disk, 8 MB in memory."""

SHARD_SCHEMA = pa.schema(
    [
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("signal", pa.fixed_shape_tensor(pa.int16(), [len(LEADS), N_SAMPLES])),
        pa.field("gain", pa.fixed_shape_tensor(pa.float64(), [len(LEADS)])),
        pa.field("baseline", pa.fixed_shape_tensor(pa.int32(), [len(LEADS)])),
    ]
)


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.parquet"


def write_shard(path: Path, record_ids: Sequence[str], records: Sequence[CanonicalRecord]) -> None:
    """Write one shard atomically; the same records give the same bytes."""

    def stacked(arrays: list[npt.NDArray[Any]], shape: tuple[int, ...], kind: str) -> pa.Array:
        block = np.stack(arrays).astype(kind) if arrays else np.zeros((0, *shape), kind)
        if len(block):
            return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(block))
        empty = pa.list_(pa.from_numpy_dtype(kind), int(np.prod(shape)))
        tensor = pa.fixed_shape_tensor(pa.from_numpy_dtype(kind), list(shape))
        return pa.ExtensionArray.from_storage(tensor, pa.array([], type=empty))

    table = pa.Table.from_arrays(
        [
            pa.array(record_ids, pa.string()),
            stacked([r.signal_LT for r in records], (len(LEADS), N_SAMPLES), "int16"),
            stacked([r.gain_L for r in records], (len(LEADS),), "float64"),
            stacked([r.baseline_L for r in records], (len(LEADS),), "int32"),
        ],
        schema=SHARD_SCHEMA,
    )
    with replacing(path) as temporary:
        # Measured on 256 records of PTB-XL: 44.9 kB a record, read at 320 MB/s a core. The deltas
        # without zstd take 49.6 kB, PLAIN with zstd 64.7 kB at 150 MB/s.
        pq.write_table(
            table,
            temporary,
            row_group_size=ROW_GROUP,
            use_dictionary=False,
            compression="zstd",
            column_encoding={
                "record_id": "PLAIN",
                "signal.list.element": "DELTA_BINARY_PACKED",
                "gain.list.element": "PLAIN",
                "baseline.list.element": "PLAIN",
            },
        )


def decode(
    batch: Mapping[str, npt.NDArray[Any]] | pa.Table | pa.RecordBatch,
) -> npt.NDArray[np.float32]:
    """Turn rows of a shard into millivolts.

    Parameters
    ----------
    batch : mapping of arrays, Table or RecordBatch
        The columns ``signal`` (B, 12, 5000), ``gain`` and ``baseline`` (B, 12): as Ray Data's
        ``batch_format="numpy"`` or as PyArrow gives them.

    Returns
    -------
    float32 array, shape (B, 12, 5000)
        mV at 500 Hz in the order of `enecg.signals.LEADS`, NaN where missing.
    """
    if isinstance(batch, pa.Table | pa.RecordBatch):
        signal, gain, baseline = (_array(batch, name) for name in ("signal", "gain", "baseline"))
    else:
        signal, gain, baseline = batch["signal"], batch["gain"], batch["baseline"]
    return to_millivolts(signal, gain, baseline)


def _array(batch: pa.Table | pa.RecordBatch, name: str) -> npt.NDArray[Any]:
    column = batch[name]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values: npt.NDArray[Any] = column.to_numpy_ndarray()
    return values


class RecordStore:
    """A finished record store, for reading; made by `RecordStore.open`.

    Attributes
    ----------
    path : Path
        The store's folder.
    index : DataFrame
        One row per record in file order (by shard, then row): see DESIGN §5.
    rejected : DataFrame
        ``record_id``, ``path``, ``reason``, ``detail`` of what was listed but is not in the store.
    description : dict
        ``dataset.json``: counts, SHA-256 per file, label statistics, source, versions.
    fingerprint : str
        SHA-256 of ``dataset.json``: changes with anything in the store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description: dict[str, Any] = read_json(path / DESCRIPTION)
        self.fingerprint = hashlib.sha256((path / DESCRIPTION).read_bytes()).hexdigest()
        self.index: pd.DataFrame = pq.read_table(path / INDEX).to_pandas()
        self.rejected: pd.DataFrame = pq.read_table(path / REJECTED).to_pandas()

    @classmethod
    def open(cls, path: str | Path) -> RecordStore:
        """Open a finished store.

        Raises
        ------
        UserError
            No store there, an unfinished one, or one of a newer format.
        """
        path = Path(path)
        if (path / UNFINISHED).is_dir() and not (path / DESCRIPTION).is_file():
            raise UserError(f"{path}: this record store is unfinished; run its convert.py again")
        if not (path / DESCRIPTION).is_file():
            raise UserError(
                f"{path}: no record store here (no {DESCRIPTION}); convert.py makes one"
            )
        try:
            found = read_json(path / DESCRIPTION)
            known = found["format"] == FORMAT and found["format_version"] == FORMAT_VERSION
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise UserError(
                f"{path / DESCRIPTION}: not a record store of format version {FORMAT_VERSION}"
            )
        try:
            return cls(path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path}: this record store is damaged: {error}") from error

    @property
    def shard_paths(self) -> list[Path]:
        """The signal files, in order."""
        return [self.path / name for name in self.description["files"] if "shard-" in name]

    def signals(
        self, record_ids: Collection[str] | None = None, batch_size: int = 256
    ) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        """Read signals in the order of `index`, through plain PyArrow.

        Parameters
        ----------
        record_ids : collection of str, optional
            Which records; all by default. Row groups without any are not read.
        batch_size : int
            Records per batch at most; a batch never spans two shards.

        Yields
        ------
        record_ids : list of str, length B
        x_BLT : float32 array, shape (B, 12, 5000)
            mV, NaN where missing.

        Raises
        ------
        UserError
            A record that is not in the store.
        """
        wanted = self.index
        if record_ids is not None:
            asked = set(record_ids)
            wanted = self.index[self.index["record_id"].isin(asked)]
            if len(wanted) < len(asked):
                strange = min(asked - set(wanted["record_id"]))
                raise UserError(f"{self.path}: no record {strange!r} in this store")
        for shard, rows in wanted.groupby("shard", sort=True)["row"]:
            with pq.ParquetFile(self.path / str(shard)) as file:
                yield from _batches(file, np.sort(rows.to_numpy()), batch_size)


def _batches(
    file: pq.ParquetFile, rows: npt.NDArray[np.int64], batch_size: int
) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
    """Read some rows of one shard, row group by row group."""
    starts = np.cumsum(
        [0] + [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    )
    for first in range(0, len(rows), batch_size):
        asked = rows[first : first + batch_size]
        group_of = np.searchsorted(starts, asked, side="right") - 1
        pieces = []
        for group in np.unique(group_of):
            table = file.read_row_group(int(group), use_threads=False)
            pieces.append(table.take(asked[group_of == group] - starts[group]))
        table = pa.concat_tables(pieces)
        yield table["record_id"].to_pylist(), decode(table)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table without signals atomically; the same rows give the same bytes."""
    with replacing(path) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")
