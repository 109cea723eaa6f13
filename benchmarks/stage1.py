"""Stage 1's memory, delivery and workers, as ratios.

    python benchmarks/stage1.py memory      peak anonymous memory at 1,000, 5,000, 20,000 records
    python benchmarks/stage1.py delivery    Ray Data against bare PyArrow on the same shards
    python benchmarks/stage1.py workers     one worker against two

The records are copies of a few simulated ones, each counted as another recording.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

SHARD = 1000


def make_store(folder: Path, n: int) -> Path:
    """A record store of ``n`` records that costs little to make."""
    from enecg.checked_files import read_sealed_json, write_sealed_json
    from enecg.files import sha256_of_file
    from enecg.records.convert import convert
    from enecg.records.shard_file import ROW_GROUP, shard_name
    from enecg.records.store import DESCRIPTION, INDEX, REJECTED
    from enecg.records.synthetic import write_synthetic_cohort

    seed = folder.parent / "seed"
    if not seed.exists():
        labels = write_synthetic_cohort(folder.parent / "wfdb", n_records=24, seed=1)
        convert("wfdb", folder.parent / "wfdb", seed, labels)
    folder.mkdir()
    known = pq.read_table(seed / INDEX).to_pandas()
    signals = pq.read_table(sorted(seed.glob("shard-*.parquet"))[0])
    source = np.arange(n) % len(signals)
    index = known.iloc[source].reset_index(drop=True)
    names = [f"r{number}" for number in range(n)]
    index["record_id"] = index["subject_id"] = index["group_id"] = names
    index["physical_sha256"] = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    index["shard"] = [shard_name(number // SHARD) for number in range(n)]
    index["row"] = np.arange(n) % SHARD
    index["age"] = np.random.default_rng(0).uniform(20, 90, n)
    index["gender"] = np.where(np.arange(n) % 2, "male", "female")
    pq.write_table(pa.Table.from_pandas(index, preserve_index=False), folder / INDEX)
    (folder / REJECTED).write_bytes((seed / REJECTED).read_bytes())
    files = {}
    for first in range(0, n, SHARD):
        part = signals.take(source[first : first + SHARD])
        ids = pa.array(names[first : first + SHARD])
        part = part.set_column(part.schema.get_field_index("record_id"), "record_id", ids)
        path = folder / shard_name(first // SHARD)
        pq.write_table(
            part, path, row_group_size=ROW_GROUP, use_dictionary=False, compression="zstd",
            compression_level=3,
            column_encoding={"record_id": "PLAIN", "signal.list.element": "DELTA_BINARY_PACKED",
                             "gain.list.element": "PLAIN", "baseline.list.element": "PLAIN"},
        )  # fmt: skip
        files[path.name] = sha256_of_file(path)
    files |= {name: sha256_of_file(folder / name) for name in (INDEX, REJECTED)}
    description = read_sealed_json(seed / DESCRIPTION)
    counts = description["counts"] | {"accepted": n}
    counts["listed"] = n + counts["rejected"]
    write_sealed_json(folder / DESCRIPTION, description | {"files": files, "counts": counts})
    return folder


class Memory:
    """Peaks of the anonymous memory of a process and its descendants, by looking often."""

    def __init__(self, process: int) -> None:
        self.root, self.driver, self.together = psutil.Process(process), 0.0, 0.0
        self.others: dict[str, float] = {}

    def look(self) -> None:
        """Take note of how much there is now, in MB."""
        together = 0.0
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                name = process.cmdline()[0].split("(")[0].split(".")[0]
            except (OSError, IndexError, psutil.Error):  # it has ended
                continue
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            size = int(found[1]) * 1024 / 1e6 if found else 0.0
            together += size
            if process == self.root:
                self.driver = max(self.driver, size)
            elif name.startswith("ray::"):
                self.others[name[5:]] = max(self.others.get(name[5:], 0.0), size)
        self.together = max(self.together, together)


def train(store: Path, run: Path, expert: dict[str, Any], **stage1: Any) -> dict[str, Any]:
    """Run stage 1 in a process of its own.

    Returns the job's facts, records/s of its epochs, and peaks of anonymous memory.
    """
    config = {
        "records": str(store), "run_dir": str(run), "tasks": ["age", "gender"], "folds": 2,
        "inner_folds": 2, "experts": expert, "features": str(run.parent / f"{run.name}-features"),
        "stage1": {"heads": ["ffn"], "batch_size": 256} | stage1,
    }  # fmt: skip
    run.parent.mkdir(exist_ok=True, parents=True)
    path = run.parent / f"{run.name}.yaml"
    path.write_text(json.dumps(config))
    root = Path(__file__).resolve().parent.parent
    log = path.with_suffix(".log")
    with open(log, "w") as said:
        running = subprocess.Popen(
            [sys.executable, "ray_jobs/train_experts.py", "--config", path],
            cwd=root, stdout=said, stderr=said, env=os.environ | {"PYTHONPATH": str(root)},
        )  # fmt: skip
    memory = Memory(running.pid)
    while running.poll() is None:
        memory.look()
        time.sleep(0.3)
    if running.returncode:
        raise SystemExit(log.read_text()[-3000:])
    facts: dict[str, Any] = json.loads(next(run.glob("experts/*/done.json")).read_text())
    rates = re.findall(r"([\d,]+) records/s", log.read_text())
    return facts | {"rates": [float(rate.replace(",", "")) for rate in rates], "memory": memory}


def memory(folder: Path) -> None:
    """Peak anonymous memory of the driver, the Train worker, any other process, and all together.

    The frozen backbone's heads are `ridge` and `ffn`.
    """
    table = []
    experts: dict[str, dict[str, Any]] = {
        "frozen (rocket, 40 kernels)": {"rocket": {"kernels": 40}},
        "trained (dlinear)": {"dlinear": {"adaptation": "full", "kernel": 25, "pred_len": 2}},
    }
    for n in (1000, 5000, 20000):
        store = make_store(folder / f"store-{n}", n)
        for name, expert in experts.items():
            facts = train(store, folder / f"run-{n}-{next(iter(expert))}", expert, epochs=1,
                          heads=["ridge", "ffn"])  # fmt: skip
            peaks: Memory = facts["memory"]
            trainer = peaks.others.pop("RayTrainWorker", 0.0)
            largest = max(peaks.others, key=lambda name: peaks.others[name])
            table.append(
                {
                    "records": n, "expert": name, "driver_mb": round(peaks.driver),
                    "train_worker_mb": round(trainer),
                    "largest_other": f"{largest} {peaks.others[largest]:.0f}",
                    "all_processes_mb": round(peaks.together), "seconds": facts["seconds"],
                }
            )  # fmt: skip
            print(json.dumps(table[-1]), flush=True)
    print(pd.DataFrame(table).to_string(index=False))


def delivery(folder: Path) -> None:
    """Records per second, once started."""
    from enecg.cluster import connect, read_parquet
    from enecg.records.store import decode

    store = make_store(folder / "store", 6000)
    shards = sorted(str(path) for path in store.glob("shard-*.parquet"))
    columns = ["record_id", "signal", "gain", "baseline"]

    def bare() -> float:
        started, n = time.monotonic(), 0
        for shard in shards:
            for batch in pq.ParquetFile(shard).iter_batches(256, columns=columns):
                n += len(decode(batch))
        return n / (time.monotonic() - started)

    def by_ray() -> float:
        dataset = read_parquet(shards, columns)
        started, n = 0.0, 0
        for batch in dataset.iter_batches(batch_size=256, batch_format="numpy"):
            decode(batch)
            if not started:
                started = time.monotonic()  # the first batch is the start
            else:
                n += len(batch["record_id"])
        return n / (time.monotonic() - started)

    bare()  # into the page cache
    connect()
    by_ray()  # its processes start
    ratios = []
    for _ in range(3):
        pyarrow, ray_data = bare(), by_ray()
        ratios.append(ray_data / pyarrow)
        print(f"PyArrow {pyarrow:,.0f} records/s, Ray Data {ray_data:,.0f}: {ratios[-1]:.2f}×")
    print(f"delivery, median of 3: {np.median(ratios):.2f}×")


def workers(folder: Path) -> None:
    """Records per second of an epoch with one worker and with two."""
    store = make_store(folder / "store", 4000)
    expert = {"dlinear": {"adaptation": "full", "kernel": 25, "pred_len": 16}}
    found = {}
    for count in (1, 2):
        facts = train(store, folder / f"run-{count}", expert, epochs=6, workers=count,
                      checkpoint_seconds=600)  # fmt: skip
        found[count] = (facts["seconds"], float(np.median(facts["rates"])))
        print(f"{count} workers: job {found[count][0]:.0f} s, epochs {found[count][1]:,.0f}/s")
    print(f"1 → 2 workers: epochs {found[2][1] / found[1][1]:.2f}×, "
          f"whole job {found[1][0] / found[2][0]:.2f}×")  # fmt: skip


if __name__ == "__main__":
    chosen = {"memory": memory, "delivery": delivery, "workers": workers}[sys.argv[1]]
    with tempfile.TemporaryDirectory(prefix="enecg-stage1-") as temporary:
        from enecg.cluster import connect

        connect()  # for the conversion
        make_store(Path(temporary) / "first", 24)
        import ray

        ray.shutdown()
        chosen(Path(temporary))
