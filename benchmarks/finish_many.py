"""Time and memory of the last step of a conversion, which sees all records at once.

    python benchmarks/finish_many.py [RECORDS …]

Made-up outcomes (5 % rejected, 1 % repeated ids, 5 records a subject, 2 % identical signals) and a
listing with two labels and three metadata columns; no signals. Each size in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from enecg.cluster import peak_memory_mb
from enecg.records import sources
from enecg.records.convert import RECORDS_PER_SHARD, _dealt, _listing_fingerprint
from enecg.records.finish import finish
from enecg.records.parts import OUTCOME_SCHEMA, claim
from enecg.records.shard_file import shard_name
from enecg.records.store import RecordStore
from enecg.storage import Folder


def made_up(n: int) -> tuple[sources.Listing, pa.Table, np.ndarray]:
    """Return a listing, the outcomes of its records, and which is which."""
    rng = np.random.default_rng(0)
    ids = np.arange(n)
    ids[rng.random(n) < 0.01] = 7
    table = pd.DataFrame(
        {
            "record_id": pd.Series(ids).astype(str).astype(object),
            "subject_id": pd.Series(rng.integers(0, n // 5 + 1, n)).astype(str).astype(object),
            "path": [f"files/p{i // 1000:04d}/{i}" for i in range(n)],
            "age": rng.uniform(18, 90, n),
            "gender": rng.choice(["male", "female"], n),
            "ecg_time": pd.Series(rng.integers(0, 2**40, n)).astype(str),
            "p_onset": rng.integers(0, 30000, n),
            "report_0": rng.choice(["Sinus rhythm", "Atrial fibrillation"], n),
        }
    )
    listing = sources.Listing(table, ("age", "gender"), ("ecg_time", "p_onset", "report_0"))
    dealt = _dealt(table, 1)
    m = len(dealt)
    bad = rng.random(m) < 0.05
    hashes = np.array([f"{i:064x}" for i in range(m)], dtype=object)
    hashes[rng.random(m) < 0.02] = hashes[0]
    shards = np.arange(m) // RECORDS_PER_SHARD
    leads = np.ones(12, dtype=bool)
    columns = {
        "record_id": table["record_id"].to_numpy()[dealt],
        "path": table["path"].to_numpy()[dealt],
        "reason": np.where(bad, "unreadable", None),
        "detail": np.where(bad, "no file x.dat", None),
        "shard": [shard_name(shard) for shard in shards],
        "row": np.arange(m) % RECORDS_PER_SHARD,
        "sampling_rate_hz": np.where(bad, np.nan, 500.0),
        "n_samples": np.full(m, 5000),
        "lead_present": [leads] * m,
        "lead_derived": [~leads] * m,
        "changed": [[]] * m,
        "requantisation_error_uv": np.full(m, np.nan),
        "signal_sha256": hashes,
        "physical_sha256": hashes,
        "shard_sha256": [f"{shard:064x}" for shard in shards],
        "rr_interval": np.full(m, np.nan),
    }
    outcomes = pa.table(
        {f.name: pa.array(columns[f.name], f.type, from_pandas=True) for f in OUTCOME_SCHEMA}
    )
    return listing, outcomes, dealt


def measure(n: int) -> None:
    """Print seconds and memory for one size."""
    listing, outcomes, dealt = made_up(n)
    before = peak_memory_mb()
    with tempfile.TemporaryDirectory() as place:
        store = Folder.at(Path(place, "store"))
        started = time.perf_counter()
        fingerprint = _listing_fingerprint(listing.table)
        listed = time.perf_counter()
        finish(claim(store, {"listing": fingerprint}, False), outcomes, listing, dealt,
               {"source": "wfdb"})  # fmt: skip
        finished = time.perf_counter()
        after = peak_memory_mb()
        opened = RecordStore.open(store)
        end = time.perf_counter()
        counts = opened.description["counts"]
        assert counts["listed"] == n
        print(
            f"| {n:,} | {listed - started:.1f} | {finished - listed:.1f} | "
            f"{after - before:,.0f} ({before:,.0f} before) | {end - finished:.1f} | "
            f"{peak_memory_mb():,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    sizes = sys.argv[1:] or ["10000", "100000", "1000000"]
    if len(sizes) == 1:
        measure(int(sizes[0]))
    else:
        print(
            "| records | fingerprint of the listing, s | finish, s | more peak memory, MB | "
            "open the store, s | peak memory then, MB |\n"
            "|---|---|---|---|---|---|",
            flush=True,
        )
        for size in sizes:
            subprocess.run([sys.executable, __file__, size], check=True)
