"""Conversion against the plain loop: the same records, one process, one core.

python benchmarks/convert_speed.py path/to/ptb-xl [--records 256] [--repeats 3]

The plain loop is what a notebook does: ``wfdb.rdsamp`` of each record, then one Parquet file with
a list column (float32, zstd). Ours is what `enecg.records.shard_task.convert_shard` does with the
same records: read, checksums verified, brought into the store's form, hashed, written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import wfdb

from enecg.records.canonical import canonical
from enecg.records.rr import rr_interval_ms
from enecg.records.shard_file import write_shard
from enecg.records.wfdb_record import read


def plain(paths: list[Path], output: Path) -> None:
    signals = [wfdb.rdsamp(os.fspath(path))[0].astype(np.float32).ravel() for path in paths]
    table = pa.table({"record_id": [path.name for path in paths], "signal": signals})
    pq.write_table(table, output, compression="zstd")


def ours(paths: list[Path], output: Path, rr: bool = False) -> None:
    records = []
    for path in paths:
        channels = read(path)
        records.append(canonical(channels))
        records[-1].sha256s()
        if rr:
            rr_interval_ms(channels)
    write_shard(output, [path.name for path in paths], records)


def reading(paths: list[Path], output: Path) -> None:
    for path in paths:
        canonical(read(path))


def reading_wfdb(paths: list[Path], output: Path) -> None:
    for path in paths:
        wfdb.rdsamp(os.fspath(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    found = sorted(arguments.folder.rglob("*.hea"))[: arguments.records]
    paths = [path.with_suffix("") for path in found]
    ways: dict[str, Callable[[list[Path], Path], None]] = {
        "wfdb.rdsamp + Parquet": plain,
        "ours, without R-R": ours,
        "ours, with R-R": lambda paths, output: ours(paths, output, rr=True),
        "wfdb.rdsamp alone": reading_wfdb,
        "ours, reading alone": reading,
    }
    best = dict.fromkeys(ways, float("inf"))
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats + 1):
            for name, way in ways.items():
                start = time.process_time()
                way(paths, Path(folder, "file.parquet"))
                if repeat:  # the first round warms the page cache and the imports
                    best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        reference = best["wfdb.rdsamp alone" if "alone" in name else "wfdb.rdsamp + Parquet"]
        print(
            f"{name:24} {seconds / len(paths) * 1000:6.2f} ms of CPU a record, "
            f"{reference / seconds:5.1f} times the plain loop"
        )


if __name__ == "__main__":
    main()
