"""Repeats: the same procedure again, with other folds and other chance in training.

The first repeat is the run itself. Each further one is a run with a seed of its own, in a folder
of the first one's; it uses the same stored features, and deploys nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from enecg.config import Config

FOLDER = "repeats"
"""The folder of a run that holds its further repeats, by number: ``repeats/2``, ``repeats/3``, …"""


def seed_of(seed: int, repeat: int) -> int:
    """Return the seed of a repeat, counted from 1; the first has the experiment's own."""
    if repeat == 1:
        return seed
    digest = hashlib.sha256(f"{seed}\nrepeat\n{repeat}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def run_of(config: Config, repeat: int) -> Config:
    """Return the settings of a repeat, counted from 1, as those of a run that is not repeated."""
    if repeat == 1:
        return config
    return config.model_copy(
        update={
            "run_dir": str(Path(config.run_dir) / FOLDER / str(repeat)),
            "features": str(config.features_dir),
            "seed": seed_of(config.seed, repeat),
            "repeats": 1,
        }
    )
