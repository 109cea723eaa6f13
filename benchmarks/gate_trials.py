"""How long a gate trial takes: the shipped space, 2,000 records, four tasks, one core.

OMP_NUM_THREADS=1 python benchmarks/gate_trials.py [--trials N]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from enecg.gate.space import Space
from enecg.gate.trial import Arrays, cross_validate
from enecg.nested import Nested
from enecg.spaces import Chance
from enecg.tasks import TASKS, Task

SPACE = Path(__file__).parents[1] / "tune_spaces" / "gate.yaml"
EXPERTS = ["rocket", "dlinear", "moment", "tempo", "ecg_fm", "timesnet"]


def made_up(n: int, seed: int = 0) -> Arrays:
    """Arrays of the size that six experts, four tasks and three folds give; noise throughout."""
    random = np.random.default_rng(seed)
    nested = Nested(
        np.array([f"g{row}" for row in range(n)], dtype=object),
        random.integers(0, 3, n),
        random.integers(0, 3, n),
        random.integers(0, 5, n),
        ("0", "1", "2"),
    )
    tasks = [TASKS[name] for name in ("rr_interval", "age", "gender", "report_label")]

    def outputs_of(task: Task) -> np.ndarray:
        outputs = random.random((4, n, len(EXPERTS), task.width)).astype(np.float32)
        return outputs if task.kind == "regression" else outputs / outputs.sum(-1, keepdims=True)

    targets = {
        task.name: random.normal(size=n)
        if task.kind == "regression"
        else random.integers(0, task.width, n).astype(float)
        for task in tasks
    }
    view = random.normal(0, 0.3, (n, 12, 200)).astype(np.float16)
    return Arrays(
        view, {task.name: outputs_of(task) for task in tasks}, targets, nested, tasks, EXPERTS, 1
    )


def main() -> None:
    """Print the CPU seconds of each trial, and what they are like in all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--records", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arrays, space = made_up(arguments.records), Space(SPACE, EXPERTS)
    seconds = []
    for number in range(arguments.trials):
        choice = space.draw(Chance(42, number))
        started = time.process_time()
        cross_validate(choice, arrays, arrays.nested.scopes)
        seconds.append(time.process_time() - started)
        print(
            f"{seconds[-1]:6.2f} s  {choice.encoder} × {choice.width} × {choice.depth}, "
            f"{len(choice.leads)} leads, {len(choice.experts)} experts, {choice.epochs} epochs, "
            f"joined {choice.joined}"
        )
    print(
        f"mean {np.mean(seconds):.2f} s, median {np.median(seconds):.2f} s, "
        f"largest {np.max(seconds):.2f} s, {arguments.trials} trials, "
        f"{arguments.records:,} records"
    )


if __name__ == "__main__":
    main()
