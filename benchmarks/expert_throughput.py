"""Measure how many records a second each expert turns into features, at published size.

On a GPU under bfloat16, with the share of its peak that the backbone's multiplications reach; on a
CPU in float32, on one core and in CPU seconds, so that other work on the machine disturbs little.
`features` is `prepare` and then `embed`, timed apart. Weights are random: they do not change the
speed.

    python benchmarks/expert_throughput.py [--batch N] [--experts NAME,NAME] [--seconds S]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from enecg import experts, signals

PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10G": 70e12}
"""Dense bfloat16 operations a second, by part of the device's name, from NVIDIA's data sheets."""


def measure(name: str, batch: int, seconds: float) -> str:
    """Return one row of the table; this process's peak memory is that expert's."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    expert = experts.load(name).to(device)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, len(signals.LEADS), signals.N_SAMPLES)
    x_BLT = 0.3 * torch.randn(shape, generator=generator).to(device)

    @torch.no_grad()
    def rate(step: str, given: torch.Tensor) -> float:
        run = getattr(expert, step)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            rounds, started = 0, _now(device)
            while rounds == 0 or _now(device) - started < seconds:
                run(given)
                rounds += 1
            return rounds * batch / (_now(device) - started)

    # Counting is the warm-up too.
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        prepared = expert.prepare(x_BLT)
        before = counted.get_total_flops()
        expert.embed(prepared)
    per_record = (counted.get_total_flops() - before) / batch
    prepares, embeds = rate("prepare", x_BLT), rate("embed", prepared)
    both = 1 / (1 / prepares + 1 / embeds)
    memory = _peak_gb(device)
    cells = [
        f"`{name}`", f"{expert.spec.parameters:,}", _number(both), _number(prepares),
        _number(embeds), f"{per_record / 1e9:.2g}", _number(embeds * per_record / 1e9),
        f"{memory:.1f}",
    ]  # fmt: skip
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK_BF16.items() if part in kind), None)
        cells.append("?" if peak is None else f"{embeds * per_record / peak:.1%}")
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _now(device: torch.device) -> float:
    """Return a clock's time, after the device has done what it was given."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Measure every expert in a process of its own and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4, help="records at a time (default: 4)")
    parser.add_argument("--seconds", type=float, default=3.0, help="time per figure (default: 3)")
    parser.add_argument("--experts", default=",".join(experts.names()), help="default: all")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(measure(given.one, given.batch, given.seconds))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, batches of {given.batch}, torch {torch.__version__}")  # fmt: skip
    columns = ["expert", "parameters", "features, records/s", "prepare, records/s",
               "embed, records/s", "GFLOP/record", "GFLOP/s", "memory, GB"]  # fmt: skip
    columns += ["of peak"] if torch.cuda.is_available() else []
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in given.experts.split(","):
        command = [sys.executable, __file__, "--one", name, "--batch", str(given.batch),
                   "--seconds", str(given.seconds)]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        print(done.stdout.strip() or f"| `{name}` | failed |", flush=True)


if __name__ == "__main__":
    main()
