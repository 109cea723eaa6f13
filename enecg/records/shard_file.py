"""The Parquet file of a shard: its schema, its encoding, its writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.records.canonical import CanonicalRecord
from enecg.signals import LEADS, N_SAMPLES

ROW_GROUP = 32
"""Records per row group: about 1.4 MB on disk, 4 MB in memory. Sizes from 16 to 256 take the same
room and read at the same rate; reading one record costs its row group."""
_COMPRESSION = {"compression": "zstd", "compression_level": 3}
"""On deltas: the smallest that costs no reading speed (the table: benchmarks/README.md)."""

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


def shard_table(record_ids: Sequence[str], records: Sequence[CanonicalRecord]) -> pa.Table:
    """Return records as the rows of a shard."""
    return pa.Table.from_arrays(
        [
            pa.array(record_ids, pa.string()),
            _tensors([r.signal_LT for r in records], (len(LEADS), N_SAMPLES), "int16"),
            _tensors([r.gain_L for r in records], (len(LEADS),), "float64"),
            _tensors([r.baseline_L for r in records], (len(LEADS),), "int32"),
        ],
        schema=SHARD_SCHEMA,
    )


def write_shard(path: Path, record_ids: Sequence[str], records: Sequence[CanonicalRecord]) -> None:
    """Write one shard; the same records give the same bytes."""
    pq.write_table(
        shard_table(record_ids, records),
        path,
        row_group_size=ROW_GROUP,
        use_dictionary=False,
        **_COMPRESSION,
        column_encoding={
            "record_id": "PLAIN",
            "signal.list.element": "DELTA_BINARY_PACKED",
            "gain.list.element": "PLAIN",
            "baseline.list.element": "PLAIN",
        },
    )


def _tensors(arrays: list[npt.NDArray[Any]], shape: tuple[int, ...], kind: str) -> pa.Array:
    """Return arrays of one shape as a tensor column, also if there is none of them."""
    if arrays:
        block = np.ascontiguousarray(np.stack(arrays).astype(kind))
        return pa.FixedShapeTensorArray.from_numpy_ndarray(block)
    value = pa.from_numpy_dtype(kind)
    empty = pa.array([], type=pa.list_(value, int(np.prod(shape))))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(value, list(shape)), empty)
