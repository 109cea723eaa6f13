"""Peak memory and rate of a conversion by size of the corpus, and from one worker to two.

    python benchmarks/convert_memory.py [--records 50000] [--folder FOLDER] [--keep]

Writes a corpus of WFDB records (12 leads, 10 s, 500 Hz, format 16: 120 kB each; a few simulated
ones, every copy with other samples), converts its first 1/50, 1/10 and all with two workers, and
1/10 with one, each on a cluster of its own, and removes everything. Memory is the largest that
each process ever held resident (VmHWM), of the driver and of the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from enecg.records.synthetic_beats import Patient, simulate
from enecg.signals import LEADS

ONE_RUN = """
import json, os, sys, time
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
from enecg.records.convert import convert
started = time.monotonic()
convert("wfdb", sys.argv[1], sys.argv[2], limit=int(sys.argv[3]), workers=int(sys.argv[4]))
print(json.dumps({"seconds": time.monotonic() - started}))
"""


def write_corpus(folder: Path, n: int) -> None:
    """Write ``n`` different records quickly: some signals, shifted in time and level."""
    rng = np.random.default_rng(0)
    patterns = [np.asarray(x).astype("<i2") for x in some_signals(rng)]
    for number in range(n):
        part = folder / f"p{number // 1000:04d}"
        if number % 1000 == 0:
            part.mkdir(parents=True)
        x_TL = np.roll(patterns[number % len(patterns)], number // len(patterns), axis=0)
        x_TL = x_TL + np.int16(number % 89)
        sums = x_TL.sum(axis=0, dtype=np.int64) % 65536
        name = f"r{number:06d}"
        lines = [f"{name} 12 500 5000"] + [
            f"{name}.dat 16 1000(0)/mV 16 0 {x_TL[0, lead]} {sums[lead]} 0 {LEADS[lead]}"
            for lead in range(12)
        ]
        (part / f"{name}.hea").write_text("\n".join(lines) + "\n")
        (part / f"{name}.dat").write_bytes(x_TL.tobytes())


def some_signals(rng: np.random.Generator) -> list[np.ndarray]:
    """Return a few simulated recordings, µV, shape (5000, 12)."""
    found = []
    for number in range(8):
        person = Patient(str(number), 40.0 + number, "female", "normal", number)
        x_LT, _ = simulate(person, "SR", 60.0 + 5 * number, rng)
        found.append(np.round(x_LT.T * 1000))
    return found


class Watch(threading.Thread):
    """Follows a process and its children; keeps the largest resident memory of each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peaks, self.running = psutil.Process(pid), {}, True

    def run(self) -> None:
        """Look five times a second."""
        while self.running:
            for process in (self.root, *self.children()):
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    name = "driver" if process == self.root else process.name()
                except (OSError, psutil.NoSuchProcess):
                    continue
                high = [line for line in status.splitlines() if line.startswith("VmHWM")]
                if high and (name == "driver" or name.startswith("ray::convert")):
                    key = (name.split("::")[0], process.pid)
                    self.peaks[key] = int(high[0].split()[1]) * 1024 / 1e6
            time.sleep(0.2)

    def children(self) -> list[psutil.Process]:
        """Return what the process has started, at any depth."""
        try:
            return self.root.children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def measure(corpus: Path, n: int, workers: int) -> None:
    """Convert the first ``n`` records; print a row of the table."""
    with tempfile.TemporaryDirectory(dir=corpus.parent) as place:
        command = [sys.executable, "-c", ONE_RUN, corpus, f"{place}/store", str(n), str(workers)]
        job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        watch = Watch(job.pid)
        watch.start()
        out, _ = job.communicate()
        watch.running = False
        seconds = json.loads(out.splitlines()[-1])["seconds"]
        driver = max(mb for (what, _), mb in watch.peaks.items() if what == "driver")
        worker = max(mb for (what, _), mb in watch.peaks.items() if what == "ray")
    print(f"| {n:,} | {workers} | {n / seconds:,.0f} | {driver:,.0f} | {worker:,.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    root = given.folder or Path(tempfile.mkdtemp(prefix="enecg-many-"))
    try:
        if not (root / "corpus").exists():
            write_corpus(root / "corpus", given.records)
        print("| records | workers | records/s | driver peak MB | largest worker peak MB |")
        print("|---|---|---|---|---|")
        for share, workers in ((50, 2), (10, 2), (1, 2), (10, 1)):
            measure(root / "corpus", given.records // share, workers)
    finally:
        if not given.keep:
            shutil.rmtree(root)
    os.sync()
