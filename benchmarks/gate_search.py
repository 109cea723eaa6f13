"""How long a gate search takes on a local cluster: the shipped space, four tasks, three folds.

python benchmarks/gate_search.py [--records 500] [--trials 64] [--searcher optuna] …
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from gate_trials import EXPERTS, SPACE, made_up

from enecg.cluster import connect
from enecg.config import parse_config
from enecg.gate.ensemble import choose, refit_chosen
from enecg.gate.search import run_trials


def main() -> None:
    """Print the seconds that search, choice and refit take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--searcher", default="random")
    parser.add_argument("--scheduler", default="none")
    arguments = parser.parse_args()
    gate = {
        "space": str(SPACE), "trials": arguments.trials, "searcher": arguments.searcher,
        "scheduler": arguments.scheduler,
    }  # fmt: skip
    config = parse_config(
        {
            "records": "none", "run_dir": "none", "tasks": ["age"], "gate": gate,
            "experts": {name: {} for name in EXPERTS},
        }
    )  # fmt: skip
    arrays = made_up(arguments.records)
    connect()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        trials, peak = run_trials(config, Path(folder), arrays)
        searched = time.monotonic()
        chosen = choose(Path(folder), trials, arrays, config.ensemble)
        decided = time.monotonic()
        gates, _ = refit_chosen(chosen, [trial.choice for trial in trials], arrays)
        finished = sum(trial.path(Path(folder)).exists() for trial in trials)
    print(
        f"{arguments.records:,} records, {len(arrays.tasks)} tasks, {arguments.searcher}/"
        f"{arguments.scheduler}: {len(trials)} trials ({finished} finished) in "
        f"{searched - started:.0f} s, largest process {peak:.0f} MB; choice "
        f"{decided - searched:.0f} s; {len(gates)} gates refitted in "
        f"{time.monotonic() - decided:.0f} s"
    )


if __name__ == "__main__":
    main()
