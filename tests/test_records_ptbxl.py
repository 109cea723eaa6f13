"""Conversion of real recordings: PTB-XL's first 500, and its 100 Hz copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.signals import LEADS, N_SAMPLES


@pytest.fixture(scope="module")
def ptb_xl(
    real_ecgs: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> RecordStore:
    return convert("ptb-xl", real_ecgs / "ptb-xl", tmp_path_factory.mktemp("p") / "store")


def test_all_500_come_through_bit_for_bit(ptb_xl: RecordStore, real_ecgs: Path) -> None:
    index = ptb_xl.index.set_index("record_id")
    seen = 0
    for ids, x_BLT in ptb_xl.signals():
        for record_id, x_LT in zip(ids, x_BLT, strict=True):
            record = wfdb.rdrecord(
                str(real_ecgs / "ptb-xl" / index.loc[record_id, "source_path"]), physical=False
            )
            digital_LT = np.rint(x_LT * 1000).astype(np.int64)
            order = [[name.lower() for name in record.sig_name].index(n.lower()) for n in LEADS]
            np.testing.assert_array_equal(digital_LT, record.d_signal.T[order])
            seen += 1
    assert seen == 500
    assert (index["changed"].map(len) == 0).all() and (index["sampling_rate_hz"] == 500).all()


def test_identical_recordings_are_one_group(ptb_xl: RecordStore) -> None:
    index = ptb_xl.index.set_index("record_id")
    for one, two in ((137, 138), (143, 144), (145, 463), (456, 457), (459, 460)):
        first, second = index.loc[str(one)], index.loc[str(two)]
        assert first["signal_sha256"] == second["signal_sha256"]
        assert first["group_id"] == second["group_id"]
    assert index.loc["145", "subject_id"] != index.loc["463", "subject_id"]
    assert index["subject_id"].nunique() == 466 and index["group_id"].nunique() == 465


def test_labels_are_those_of_the_table(ptb_xl: RecordStore) -> None:
    index = ptb_xl.index.set_index("record_id")
    first = index.loc["1"]
    assert (first["age"], first["gender"], first["report_label"]) == (56.0, "female", "SR")
    assert first["subject_id"] == "15709" and first["strat_fold"] == 3
    assert first["rr_interval"] == pytest.approx(942, abs=10)
    assert index["rr_interval"].notna().mean() > 0.97
    assert index["rr_interval"].between(300, 2600).mean() > 0.97
    # Rhythm and rate agree, though one was written by cardiologists and the other measured.
    median = index.groupby("report_label")["rr_interval"].median()
    assert median["STACH"] < 610 < median["SR"] < 1000 < median["SBRAD"]


def test_the_100_hz_copy_is_resampled_and_has_no_rr(
    ptb_xl: RecordStore, real_ecgs: Path, tmp_path: Path, ray_cluster: None
) -> None:
    """Only records100 is there: the fast file of the same recording is the truth."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "ptbxl_database.csv").symlink_to(real_ecgs / "ptb-xl" / "ptbxl_database.csv")
    (folder / "records100").symlink_to(real_ecgs / "ptb-xl" / "records100")
    store = convert("ptb-xl", folder, tmp_path / "store", limit=40)
    assert store.index["rr_interval"].isna().all()
    assert {tuple(changed) for changed in store.index["changed"]} == {("resampled",)}
    assert (store.index["sampling_rate_hz"] == 100).all()
    assert (store.index["n_samples"] == 1000).all()
    fast = {
        name: x_LT
        for names, x_BLT in ptb_xl.signals(store.index["record_id"])
        for name, x_LT in zip(names, x_BLT, strict=True)
    }
    agreement = []
    for names, x_BLT in store.signals():
        assert x_BLT.shape[1:] == (12, N_SAMPLES) and np.isfinite(x_BLT).all()
        for name, x_LT in zip(names, x_BLT, strict=True):
            agreement.append(np.corrcoef(x_LT.ravel(), fast[name].ravel())[0, 1])
    assert np.median(agreement) > 0.98


def test_a_corpus_of_100_hz_only(real_ecgs: Path, tmp_path: Path, ray_cluster: None) -> None:
    store = convert("ptb-xl", real_ecgs / "ptb-xl-rhythm", tmp_path / "store", limit=60)
    assert store.description["counts"]["accepted"] == 60
    assert store.description["labels"]["rr_interval"]["present"] == 0
    assert set(store.index["report_label"].dropna()) >= {"AFIB", "SR"}


def test_seven_other_corpora_are_read(real_ecgs: Path, tmp_path: Path, ray_cluster: None) -> None:
    store = convert("wfdb", real_ecgs / "challenge-2021", tmp_path / "store")
    assert store.description["counts"]["accepted"] == 102
    ptb = store.index[store.index["sampling_rate_hz"] == 1000]
    assert len(ptb) and all("resampled" in changed for changed in ptb["changed"])
    long = store.index[store.index["n_samples"] > 5000]
    assert all("cropped" in changed for changed in long["changed"])
