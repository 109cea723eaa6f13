"""The record store on disk: what its files hold, and how to read them (contract: DESIGN §5)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from enecg.checked_files import DamagedFile
from enecg.errors import UserError, one_line
from enecg.files import sha256_of_file
from enecg.names import shown
from enecg.records.description import DESCRIPTION as DESCRIPTION
from enecg.records.description import FORMAT as FORMAT
from enecg.records.description import FORMAT_VERSION as FORMAT_VERSION
from enecg.records.description import INDEX as INDEX
from enecg.records.description import REJECTED as REJECTED
from enecg.records.description import parse_description
from enecg.records.shard_check import check_shards, damaged
from enecg.signals import to_millivolts
from enecg.storage import Folder, Place

if TYPE_CHECKING:
    import ray.data

UNFINISHED = ".unfinished"
"""Folder in a store that is being made: its arguments, and a file for every shard that is done."""
REPLACEMENT = ".replacement"
"""Folder in a store with another one that is being made and will take its place."""
RELABELLED = ".relabelled"
"""Folder with a new index and description on their way into the store: what is there counts."""
SIGNAL_COLUMNS = ("record_id", "signal", "gain", "baseline")


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
    """A finished record store, for reading, on disk or in object storage; made by `open`.

    Attributes
    ----------
    folder : Folder
        Where it is.
    index : DataFrame
        One row per record in file order (by shard, then row): see DESIGN §5.
    rejected : DataFrame
        ``record_id``, ``path``, ``reason``, ``detail`` of what was listed but is not in the store.
    description : dict
        ``dataset.json``: counts, SHA-256 per file, label statistics, source, versions.
    fingerprint : str
        SHA-256 of ``dataset.json``: changes with anything in the store, since that file has the
        SHA-256 of every other one, and each is compared with it where it is read.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        content = folder.read(self.place_in(folder, DESCRIPTION))
        self.description = parse_description(content, folder.uri_of(DESCRIPTION))
        self.fingerprint = hashlib.sha256(content).hexdigest()
        self.index: pd.DataFrame = self.table(INDEX).to_pandas()
        self.rejected: pd.DataFrame = self.table(REJECTED).to_pandas()
        self._check_counts()

    @classmethod
    def open(cls, place: Place | Folder) -> RecordStore:
        """Open a finished store at a path or URI.

        Raises
        ------
        UserError
            No store there, an unfinished one, one of a newer format, or one whose index, list of
            rejects or description is not what it was. Shards are checked where they are read.
        """
        folder = place if isinstance(place, Folder) else Folder.at(place)
        open_description(folder)
        try:
            store = cls(folder)
            if strange := set(store.index["shard"]) - set(store.shards):
                raise OSError(f"{INDEX} names {shown(strange.pop())}, which is none of its files")
            return store
        except (OSError, pa.ArrowException, DamagedFile) as error:
            what = f"{error.place} {error.problem}" if isinstance(error, DamagedFile) else error
            raise UserError(
                f"{folder.uri}: this record store is damaged: {' '.join(str(what).split())}; "
                f"convert.py --verify {folder.uri} tells more"
            ) from error

    @property
    def uri(self) -> str:
        """Where it is: a path or URI that `open` takes."""
        return self.folder.uri

    @property
    def path(self) -> Path:
        """The folder of a store on disk."""
        return self.folder.path

    @staticmethod
    def place_in(folder: Folder, name: str) -> str:
        """Return where a file's current version is: new labels may still be on their way in."""
        moving = name in (DESCRIPTION, INDEX) and folder.exists(f"{RELABELLED}/{DESCRIPTION}")
        return f"{RELABELLED}/{name}" if moving else name

    def table(self, name: str) -> pa.Table:
        """Read ``index.parquet`` or ``rejected.parquet``.

        Raises
        ------
        DamagedFile
            Its bytes are not those that ``dataset.json`` has the SHA-256 of.
        """
        content = self.folder.read(self.place_in(self.folder, name))
        if hashlib.sha256(content).hexdigest() != self.description["files"][name]:
            raise damaged(self.folder, name)
        return pq.read_table(pa.BufferReader(content))

    def check_shards(self, shards: Collection[str] | None = None) -> None:
        """Compare shards with their SHA-256, each once per process unless it changes.

        `dataset` and `signals` call this, in the process that calls them; workers that read
        afterwards, on other machines perhaps, do not repeat it.

        Parameters
        ----------
        shards : collection of str, optional
            Names of the files to check; all by default.

        Raises
        ------
        DamagedFile
            A shard is gone, is not what it was, or has other rows than the index says.
        """
        rows = Counter(self.index["shard"])
        files = self.description["files"]
        wanted = {name: files[name] for name in self.shards if shards is None or name in shards}
        check_shards(self.folder, wanted, rows)

    def _check_counts(self) -> None:
        """Refuse an index or a list of rejects that contradicts the description."""
        counts = self.description["counts"]
        for name, table, word in (
            (INDEX, self.index, "accepted"),
            (REJECTED, self.rejected, "rejected"),
        ):
            if len(table) != counts[word]:
                raise damaged(
                    self.folder, name, f"has {len(table)} rows, {DESCRIPTION} says {counts[word]}"
                )
        if strange := set(self.index["shard"].unique()) - set(self.shards):
            raise damaged(
                self.folder, INDEX, f"names a shard that {DESCRIPTION} does not: {min(strange)}"
            )

    @property
    def shards(self) -> list[str]:
        """The names of the signal files, in order."""
        return [name for name in self.description["files"] if name.startswith("shard-")]

    def dataset(
        self, columns: Sequence[str] = SIGNAL_COLUMNS, shards: Collection[str] | None = None
    ) -> ray.data.Dataset:
        """Return the signals as a Ray Dataset; `decode` turns its batches into millivolts.

        Parameters
        ----------
        columns : sequence of str
            Columns of the shards. Rows need not come in the order of `index`: read ``record_id``
            with them.
        shards : collection of str, optional
            Names of the files to read; all by default.

        Raises
        ------
        DamagedFile
            A shard is not what it was.
        """
        from enecg.cluster import read_parquet

        self.check_shards(shards)
        return read_parquet(
            [self.folder.key(n) for n in self.shards if shards is None or n in shards],
            columns,
            self.folder.filesystem if self.folder.remote else None,
        )

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
        DamagedFile
            A shard is not what it was.
        """
        wanted = self.index
        if record_ids is not None:
            asked = set(record_ids)
            wanted = self.index[self.index["record_id"].isin(asked)]
            if len(wanted) < len(asked):
                strange = min(asked - set(wanted["record_id"]))
                raise UserError(f"{self.uri}: no record {strange!r} in this store")
        for shard, rows in wanted.groupby("shard", sort=True)["row"]:
            self.check_shards([str(shard)])
            with self.folder.open(str(shard)) as opened, pq.ParquetFile(opened) as file:
                yield from _batches(file, np.sort(rows.to_numpy()), batch_size)


def open_description(folder: Folder) -> dict[str, Any]:
    """Read the ``dataset.json`` of a finished store.

    Raises
    ------
    UserError
        No store there, an unfinished one, one of a newer format, or a damaged description.
    """
    where = folder.uri
    try:
        names = folder.names()
        if {UNFINISHED, REPLACEMENT} & set(names) and DESCRIPTION not in names:
            raise UserError(f"{where}: this record store is unfinished; run its convert.py again")
        if DESCRIPTION not in names:
            raise UserError(
                f"{where}: no record store here (no {DESCRIPTION}); convert.py makes one"
            )
        content = folder.read(RecordStore.place_in(folder, DESCRIPTION))
    except OSError as error:
        raise UserError(f"{where}: {one_line(error)}") from None
    return parse_description(content, folder.uri_of(DESCRIPTION))


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


def write_table(folder: Folder, name: str, table: pa.Table) -> str:
    """Write a table without signals; return its SHA-256. The same rows give the same bytes."""
    with folder.replacing(name) as temporary:
        whole = table.replace_schema_metadata(None).combine_chunks()  # chunks would show in bytes
        pq.write_table(whole, temporary, compression="zstd")
        return sha256_of_file(temporary)
