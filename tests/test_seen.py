"""The sketch of what a bundle learned from: exact, small, and slow to guess."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from enecg.seen import Seen, identities, look_up, salt_of, sketch


def index_of(numbers: range, subjects: list[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "record_id": [f"r{n}" for n in numbers],
            "subject_id": subjects or [f"r{n}" for n in numbers],
            "signal_sha256": [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers],
        }
    )


def test_signals_learned_from_are_found_and_no_others() -> None:
    salt = salt_of("store", 1)
    learned = identities(index_of(range(2000)), salt, with_subjects=True)
    seen = sketch(learned, salt, np.arange(2000) < 1500)
    other = identities(index_of(range(1000, 4000)), salt, with_subjects=True)
    np.testing.assert_array_equal(np.isin(other.signal_N, seen.signals), np.arange(3000) < 500)


def test_subjects_are_found_by_their_id_whatever_the_signal() -> None:
    salt = salt_of("store", 1)
    learned = identities(index_of(range(4), ["a", "a", "b", "c"]), salt, with_subjects=True)
    seen = sketch(learned, salt, np.array([True, True, True, False]))
    other = identities(index_of(range(10, 13), ["c", "b", "d"]), salt, with_subjects=True)
    assert seen.subjects is not None and other.subject_N is not None
    assert np.isin(other.subject_N, seen.subjects).tolist() == [False, True, False]


@pytest.mark.parametrize("with_subjects", [True, False])
def test_a_sketch_read_again_is_the_same_and_small(tmp_path: Path, with_subjects: bool) -> None:
    salt, path = salt_of("store", 2), tmp_path / "seen.safetensors"
    index = index_of(range(1000), [str(n // 2) for n in range(1000)])
    seen = sketch(identities(index, salt, with_subjects), salt, np.ones(1000, dtype=bool))
    seen.save(path)
    again = Seen.load(path)
    assert again.salt == salt
    np.testing.assert_array_equal(again.signals, seen.signals)
    if with_subjects:
        assert again.subjects is not None and len(again.subjects) == 500
    else:
        assert again.subjects is None
    assert path.stat().st_size < 16 * 1000 + 400  # the header of the file


def test_a_store_without_subjects_adds_none() -> None:
    salt = salt_of("store", 3)
    assert identities(index_of(range(5)), salt, with_subjects=True).subject_N is None


def test_neither_ids_nor_plain_hashes_are_in_the_file(tmp_path: Path) -> None:
    salt, path = salt_of("store", 4), tmp_path / "seen.safetensors"
    index = index_of(range(3), ["patient-77", "patient-78", "patient-79"])
    sketch(identities(index, salt, True), salt, np.ones(3, dtype=bool)).save(path)
    content = path.read_bytes()
    assert b"patient" not in content
    assert bytes.fromhex(index["signal_sha256"][0])[:8] not in content


def test_salts_differ_between_stores_and_seeds_and_repeat() -> None:
    assert len({salt_of("a", 1), salt_of("b", 1), salt_of("a", 2)}) == 3
    assert salt_of("a", 1) == salt_of("a", 1)


@pytest.mark.parametrize(
    ("source", "first", "found"),
    [
        ("wfdb", 0, [True, True, False]),  # the same source: ids count, signals too
        ("wfdb", 100, [True, True, False]),  # ids alone
        ("enecg", 100, [False, False, False]),  # another hospital's patients of the same numbers
        ("enecg", 0, [True, True, False]),  # signals show that they are the same patients
    ],
)
def test_ids_count_where_they_mean_the_same_patient(
    source: str, first: int, found: list[bool]
) -> None:
    salt = salt_of("store", 5)
    learned = identities(index_of(range(2), ["7", "8"]), salt, with_subjects=True)
    seen = sketch(learned, salt, np.ones(2, dtype=bool))
    other = index_of(range(first, first + 3), ["7", "8", "9"])
    by_signal_N, by_subject_N = look_up([(seen, "wfdb")], other, source)
    assert (by_signal_N | by_subject_N).tolist() == found
