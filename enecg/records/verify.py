"""Whether a record store still is what it was when it was made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from enecg.printable import printable
from enecg.progress import counting
from enecg.records.store import DESCRIPTION, RELABELLED, RecordStore, open_description
from enecg.storage import Folder, Place


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes
    ----------
    files : int
        How many were to be there.
    damaged, missing : tuple of str
        Those that are not what they were, and those that are gone.
    foreign : tuple of str
        Files and folders that are no part of the store; harmless.
    """

    files: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every file of the store is there and whole."""
        return not self.damaged and not self.missing


def verify(place: Place) -> Verdict:
    """Compare every file of a store with the hash that ``dataset.json`` has of it.

    The hashes of the shards cover every sample; nothing is decoded.

    Raises
    ------
    UserError
        No finished store there, or its ``dataset.json`` cannot be read.
    """
    folder = Folder.at(place)
    description = open_description(folder)
    expected: dict[str, str] = description["files"]
    there = folder.names()

    def state(name: str) -> str:
        try:
            found = folder.sha256(RecordStore.place_in(folder, name))
        except FileNotFoundError:
            return "missing"
        except OSError:  # a bad block, say
            return "damaged"
        return "whole" if found == expected[name] else "damaged"

    states: dict[str, str] = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        counting("verify", len(expected), "files") as progress,
    ):
        for name, found in zip(expected, pool.map(state, expected), strict=True):
            states[name] = found
            wrong = sum(one != "whole" for one in states.values())
            progress.advance(1, f"{wrong} damaged or missing" if wrong else "")
    return Verdict(
        len(expected),
        tuple(name for name, found in states.items() if found == "damaged"),
        tuple(name for name, found in states.items() if found == "missing"),
        tuple(name for name in there if name not in {*expected, DESCRIPTION, RELABELLED}),
    )


def verdict_text(place: Place, verdict: Verdict) -> str:
    """Say what was found, a line per file that is not as it should be."""
    lines = [f"damaged: {name}" for name in verdict.damaged]
    lines += [f"missing: {name}" for name in verdict.missing]
    lines += [f"no part of the store: {name}" for name in verdict.foreign]
    wrong = len(verdict.damaged) + len(verdict.missing)
    lines.append(
        f"{place}: {wrong:,} of {verdict.files:,} files damaged or missing; make the store again "
        "with convert.py --overwrite"
        if wrong
        else f"{place}: all {verdict.files:,} files are whole"
    )
    return "\n".join(map(printable, lines))
