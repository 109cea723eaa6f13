"""A small backbone that tells when it is called, and fails when it is told to."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from enecg import signals
from enecg.experts.contract import Expert, ExpertSpec, check_input
from enecg.experts.preparation import centred

POOLED = 50


class Probe(Expert):
    """Two linear layers over averages of 0.2 s.

    Parameters
    ----------
    hooks : str
        A folder: every call appends the number of its records and its process to ``calls``.
        Files there make calls fail or wait: ``memory`` (most records that a call can take
        without running out of memory), ``slow`` (seconds per call).
    width : int
    seed : int
    """

    name = "probe"
    version = 1

    def __init__(self, *, hooks: str = "", width: int = 8, seed: int = 0) -> None:
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=5.0,
            n_samples=POOLED,
            leads=signals.LEADS,
            units="mV",
            normalisation="means over 0.2 s",
            width=width,
            parameters=0,
            licence="Apache-2.0",
            pretraining_corpora=(),
            adaptations=("head", "head_lora", "lora", "full"),
            needs_weights=False,
            uses_r_peaks=False,
            lora_targets=("first",),
        )
        super().__init__(spec, {"hooks": hooks, "width": width, "seed": seed})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(12 * POOLED, 32)
            self.second = nn.Linear(32, width)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Return means over 0.2 s, float32 of shape (B, 600)."""
        check_input(x_BLT)
        return centred(x_BLT.float()).unflatten(-1, (POOLED, -1)).mean(-1).flatten(1)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return float32 of shape (B, width)."""
        if self.options["hooks"]:
            _answer_hooks(Path(str(self.options["hooks"])), len(prepared))
        return self.second(torch.nn.functional.gelu(self.first(prepared))).float()


def calls(hooks: Path) -> list[int]:
    """Return the number of records of every call so far."""
    return [n for n, _ in calls_by(hooks)]


def calls_by(hooks: Path) -> list[tuple[int, int]]:
    """Return the number of records, and the process, of every call so far."""
    path = hooks / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(n), int(process)) for n, process in (line.split() for line in lines)]


def _answer_hooks(hooks: Path, n: int) -> None:
    file = os.open(hooks / "calls", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{n} {os.getpid()}\n".encode())
    os.close(file)
    if (hooks / "slow").exists():
        time.sleep(float((hooks / "slow").read_text()))
    if (hooks / "memory").exists() and n > int((hooks / "memory").read_text()):
        raise torch.OutOfMemoryError("out of memory (simulated by a test)")
