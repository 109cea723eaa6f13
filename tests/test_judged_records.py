"""evaluate.py judges nobody that the bundle learned from, unless told to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enecg.bundle import load_bundles
from enecg.errors import UserError
from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.records.synthetic import write_synthetic_cohort
from enecg.seen import Seen, identities, salt_of, sketch
from enecg.validate import judged_records
from models import bundle
from problems import AGE, GENDER

pytestmark = pytest.mark.usefixtures("ray_cluster")


def learned(store: RecordStore, rows: np.ndarray, subjects: bool = True) -> Seen:
    salt = salt_of(store.fingerprint, 1)
    return sketch(identities(store.index, salt, subjects), salt, rows)


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> RecordStore:
    folder = tmp_path_factory.mktemp("other")
    labels = write_synthetic_cohort(folder / "wfdb", n_records=12, seed=99)
    return convert("wfdb", folder / "wfdb", folder / "store", labels)


def test_records_and_subjects_learned_from_are_left_out_and_counted(
    synthetic_store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, index = bundle(GENDER), synthetic_store.index
    rows = np.arange(len(index)) < 30
    made.seen = learned(synthetic_store, rows)
    made.save(tmp_path / "b")
    found = load_bundles(tmp_path / "b")
    judged_N, seen = judged_records(found, synthetic_store, include_seen=False)
    of_subject = index["subject_id"].isin(index["subject_id"][rows]).to_numpy()
    np.testing.assert_array_equal(judged_N, ~of_subject)
    assert seen == {
        "records": 30,
        "subjects": index["subject_id"][rows].nunique(),
        "judged": int((~of_subject).sum()),
    }
    assert "--include-seen" in capsys.readouterr().err
    judged_N, seen = judged_records(found, synthetic_store, include_seen=True)
    assert judged_N.all() and seen is not None and seen["judged"] == len(index)


def test_without_subjects_in_the_bundle_signals_alone_count(synthetic_store: RecordStore) -> None:
    made, rows = bundle(AGE), np.arange(len(synthetic_store.index)) < 30
    made.seen = learned(synthetic_store, rows, subjects=False)
    judged_N, _ = judged_records([made], synthetic_store, include_seen=False)
    np.testing.assert_array_equal(judged_N, ~rows)


def test_nothing_left_is_the_users_mistake_and_names_the_option(
    synthetic_store: RecordStore,
) -> None:
    made = bundle(AGE)
    made.seen = learned(synthetic_store, np.ones(len(synthetic_store.index), dtype=bool))
    with pytest.raises(UserError, match="--include-seen"):
        judged_records([made], synthetic_store, include_seen=False)


def test_what_any_of_several_bundles_learned_from_is_left_out(
    synthetic_store: RecordStore,
) -> None:
    made, places = [bundle(AGE), bundle(GENDER)], np.arange(len(synthetic_store.index))
    for number, one in enumerate(made):
        one.seen = learned(synthetic_store, places % 4 == number, subjects=False)
    judged_N, _ = judged_records(made, synthetic_store, include_seen=False)
    np.testing.assert_array_equal(judged_N, places % 4 > 1)


def test_other_records_are_all_judged_and_an_old_bundle_says_that_it_cannot_tell(
    synthetic_store: RecordStore, other_store: RecordStore, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle(AGE)
    assert judged_records([made], other_store, include_seen=False)[1] is None
    assert "earlier version" in capsys.readouterr().err
    made.seen = learned(
        synthetic_store, np.ones(len(synthetic_store.index), dtype=bool), subjects=False
    )
    judged_N, seen = judged_records([made], other_store, include_seen=False)
    assert judged_N.all() and seen == {"records": 0, "subjects": 0, "judged": 12}
