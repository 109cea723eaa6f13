"""Size and read rate of encodings and row-group sizes of the record store, on real records.

    python benchmarks/store_encoding.py FOLDER_OF_WFDB_RECORDS [FOLDER …]

Every record below the folders that can be converted is written to one shard per setting and read
back by one thread, best of five, in seconds of CPU time (other work on the machine counts little
there); a random access reads the row group of one record.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from enecg.records import decode
from enecg.records.canonical import CanonicalRecord, canonical
from enecg.records.channel import Rejected
from enecg.records.corpus import Corpus
from enecg.records.shard_file import shard_table
from enecg.records.wfdb_record import read

RAW_MB = 12 * 5000 * 2 / 1e6
ENCODINGS: dict[str, dict[str, Any]] = {
    "delta": {"encoding": "DELTA_BINARY_PACKED", "compression": "none"},
    "delta + zstd 1": {"encoding": "DELTA_BINARY_PACKED", "compression": "zstd"},
    "delta + zstd 3": {
        "encoding": "DELTA_BINARY_PACKED",
        "compression": "zstd",
        "compression_level": 3,
    },
    "delta + zstd 9": {
        "encoding": "DELTA_BINARY_PACKED",
        "compression": "zstd",
        "compression_level": 9,
    },
    "plain + zstd 1": {"encoding": "PLAIN", "compression": "zstd"},
    "plain + zstd 3": {"encoding": "PLAIN", "compression": "zstd", "compression_level": 3},
    "plain + zstd 9": {"encoding": "PLAIN", "compression": "zstd", "compression_level": 9},
    "byte stream split + zstd 1": {"encoding": "BYTE_STREAM_SPLIT", "compression": "zstd"},
    "byte stream split + zstd 3": {
        "encoding": "BYTE_STREAM_SPLIT",
        "compression": "zstd",
        "compression_level": 3,
    },
}
ROW_GROUPS = (16, 32, 64, 128, 256)


def records_below(folder: Path) -> list[CanonicalRecord]:
    """Return what of a folder can be converted, in the order of names."""
    found = []
    for name in Corpus.at(folder).names_ending(".hea"):
        if "records100" in name:
            continue
        try:
            found.append(canonical(read(folder / name.removesuffix(".hea"))))
        except Rejected:
            continue
    return found


def best_seconds(work: Callable[[], object]) -> float:
    """Return the least of five times."""
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def measure(records: list[CanonicalRecord], setting: dict[str, Any], row_group: int) -> str:
    """Write, read whole, read one at random; return a row of the table."""
    setting = dict(setting)
    encoding = setting.pop("encoding")
    table = shard_table([str(number) for number in range(len(records))], records)
    plain = dict.fromkeys(("record_id", "gain.list.element", "baseline.list.element"), "PLAIN")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard.parquet")
        started = time.process_time()
        pq.write_table(
            table,
            path,
            row_group_size=row_group,
            use_dictionary=False,
            column_encoding={**plain, "signal.list.element": encoding},
            **setting,
        )
        written = time.process_time() - started
        whole = best_seconds(lambda: pq.read_table(path, use_threads=False))
        millivolts = best_seconds(lambda: decode(pq.read_table(path, use_threads=False)))
        one = best_seconds(lambda: pq.ParquetFile(path).read_row_group(0, use_threads=False))
        megabytes = len(records) * RAW_MB
        return (
            f"{path.stat().st_size / len(records) / 1e3:.1f} | {megabytes / written:.0f} | "
            f"{megabytes / whole:.0f} | {megabytes / millivolts:.0f} | {one * 1e3:.1f}"
        )


def main() -> None:
    """Print two Markdown tables per folder."""
    for folder in map(Path, sys.argv[1:]):
        records = records_below(folder)
        print(f"\n{folder.name}: {len(records)} records")
        heads = "kB a record | write MB/s | read MB/s | read to mV MB/s | one record, ms"
        print(f"| encoding, row groups of 64 | {heads} |\n|---|---|---|---|---|---|")
        for name, setting in ENCODINGS.items():
            print(f"| {name} | {measure(records, setting, 64)} |", flush=True)
        print(f"\n| row group, delta + zstd 1 | {heads} |\n|---|---|---|---|---|---|")
        for row_group in ROW_GROUPS:
            row = measure(records, ENCODINGS["delta + zstd 1"], row_group)
            print(f"| {row_group} | {row} |", flush=True)


if __name__ == "__main__":
    main()
