"""Which signals and subjects a bundle learned from, as salted hashes.

`evaluate.py` leaves them out of what it judges.

Eight bytes a signal and eight a subject: among a million records learned from and a million
looked up, a wrong match has a probability below 1e-7.

The salt lies in the bundle, and patient numbers are short: whoever holds the bundle can try them
all. So subjects enter by a slow function (scrypt, RFC 7914), or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file, save_file

from enecg.progress import counting

Hashes = npt.NDArray[np.uint64]

_BYTES = 8
_SCRYPT = {"n": 2**10, "r": 8, "p": 1}
"""1 MiB and about 2 ms of CPU a subject: 100 million patient numbers are 60 hours of one core."""
_AT_ONCE = 2000


@dataclass(frozen=True)
class Seen:
    """What a bundle learned from.

    Attributes
    ----------
    salt : bytes
    signals : uint64 array
        Of the stored signals' SHA-256, sorted.
    subjects : uint64 array or None
        Of the subjects' ids, sorted; None where they were left out.
    """

    salt: bytes
    signals: Hashes
    subjects: Hashes | None

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        tensors = {"salt": np.frombuffer(self.salt, np.uint8), "signals": self.signals}
        if self.subjects is not None:
            tensors["subjects"] = self.subjects
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)

    @classmethod
    def load(cls, path: Path) -> Seen:
        """Read what `save` wrote."""
        tensors = load_file(path)
        return cls(tensors["salt"].tobytes(), tensors["signals"], tensors.get("subjects"))


@dataclass(frozen=True)
class Identities:
    """The hashes of a store's records under one salt, in the order of its index.

    Attributes
    ----------
    signal_N : uint64 array, shape (N,)
    subject_N : uint64 array, shape (N,), or None
        None where the store knows no subjects, or they were not asked for.
    """

    signal_N: Hashes
    subject_N: Hashes | None


def salt_of(fingerprint: str, seed: int) -> bytes:
    """Return the salt of a run: the same for the same records and seed, so that runs repeat."""
    return hashlib.sha256(f"enecg seen {fingerprint} {seed}".encode()).digest()[:16]


def identities(index: pd.DataFrame, salt: bytes, with_subjects: bool) -> Identities:
    """Hash every record of a store's index.

    Parameters
    ----------
    index : DataFrame
        With ``record_id``, ``subject_id`` and ``signal_sha256``.
    salt : bytes
    with_subjects : bool
        Whether to hash the subjects' ids too (slow: about 2 ms each).
    """
    signal_N = _array(
        hashlib.blake2b(bytes.fromhex(one), key=salt, digest_size=_BYTES).digest()
        for one in index["signal_sha256"]
    )
    if not with_subjects or bool((index["subject_id"] == index["record_id"]).all()):
        return Identities(signal_N, None)
    place_N, names = pd.factorize(index["subject_id"].astype(str))
    return Identities(signal_N, _slow_hashes(list(names), salt)[place_N])


def sketch(of: Identities, salt: bytes, learned_N: npt.NDArray[np.bool_]) -> Seen:
    """Return what was learned from: the records of a store where ``learned_N`` holds."""
    subjects = None if of.subject_N is None else np.unique(of.subject_N[learned_N])
    return Seen(salt, np.unique(of.signal_N[learned_N]), subjects)


def look_up(
    seen: Iterable[tuple[Seen, str]], index: pd.DataFrame, source: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Find the records of a store that bundles learned from.

    Parameters
    ----------
    seen : iterable of (Seen, str)
        What each bundle learned from, and the source of those records.
    index : DataFrame
        The store's index.
    source : str
        The store's source.

    Returns
    -------
    by_signal, by_subject : bool arrays, shape (N,)
        Records whose signal, and records whose subject some bundle learned from. Subjects count
        where ids mean the same person: of the same source, or where signals show that the two
        sources share records. Patient 7 of one hospital is not patient 7 of another.
    """
    by_signal_N, by_subject_N = np.zeros((2, len(index)), dtype=bool)
    known: dict[tuple[bytes, bool], Identities] = {}  # the bundles of one run share their salt
    for one, trained_on in seen:
        if (one.salt, False) not in known:
            known[one.salt, False] = identities(index, one.salt, False)
        of_signals = known[one.salt, False]
        learned_N = np.isin(of_signals.signal_N, one.signals)
        by_signal_N |= learned_N
        if one.subjects is None or not (trained_on == source or learned_N.any()):
            continue
        if (one.salt, True) not in known:
            known[one.salt, True] = identities(index, one.salt, True)
        if (subject_N := known[one.salt, True].subject_N) is not None:
            by_subject_N |= np.isin(subject_N, one.subjects)
    return by_signal_N, by_subject_N


def _slow_hashes(names: Sequence[str], salt: bytes) -> Hashes:
    def slow(name: str) -> bytes:
        return hashlib.scrypt(name.encode(), salt=salt, dklen=_BYTES, **_SCRYPT)

    found: list[bytes] = []
    # scrypt releases the interpreter's lock, so threads use every core.
    with ThreadPoolExecutor() as pool, counting("hash", len(names), "subjects") as progress:
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            found += pool.map(slow, part)
            progress.advance(len(part))
    return _array(found)


def _array(digests: Iterable[bytes]) -> Hashes:
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
