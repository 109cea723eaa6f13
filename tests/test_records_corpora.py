"""The corpora's own layouts: what is listed, what their labels become, how they are read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.canonical import canonical
from enecg.records.channel import Rejected
from enecg.records.convert import convert
from enecg.records.corpus import Corpus
from enecg.records.describe import describe
from enecg.records.labels import checked
from enecg.records.sources.challenge import comments_of
from enecg.records.sources.code_15 import RATE_HZ, channels_of
from enecg.records.sources.rhythms import RHYTHMS
from enecg.records.sources.snomed import CLASSES, OTHERS, RHYTHM_OF_CLASS, SCORED
from enecg.records.wfdb_record import read
from enecg.signals import LEADS, derived_limb_leads, lead_position, to_millivolts
from enecg.tasks import TASKS
from records_helpers import some_signal, write_record

README = Path(__file__).parents[1] / "README.md"


def listed(name: str, folder: Path, labels: Path | None = None) -> sources.Listing:
    return sources.get(name).list_records(Corpus.at(folder), labels)


# ---- MIMIC-IV-ECG


@pytest.fixture
def mimic(real_ecgs: Path, tmp_path: Path) -> Path:
    """Three real records in the layout of MIMIC-IV-ECG, which stores aVF before aVL."""
    order = [LEADS.index(name) for name in ("I", "II", "III", "aVR", "aVF", "aVL")] + [
        *range(6, 12)
    ]
    rows, measured = [], []
    for number, study in enumerate((40000017, 40000089, 40000121), 1):
        subject = 10000032 + number // 3
        place = f"files/p1000/p{subject}/s{study}/{study}"
        original = read(real_ecgs / f"ptb-xl/records500/00000/{number:05d}_hr")
        digital = np.stack([original[lead].digital_T[:5000] for lead in order], axis=1)
        write_record(
            tmp_path / "mimic" / place.rpartition("/")[0], str(study), digital.astype(np.int64),
            [LEADS[lead] for lead in order], gain=200.0,
        )  # fmt: skip
        rows.append((subject, study, study, "2180-07-23 08:44:00", place))
        lines = [("Sinus rhythm", "Normal ECG"), ("Atrial fibrillation", "Possible sinus rhythm"),
                 ("Possible atrial flutter", "")][number - 1]  # fmt: skip
        intervals = [(800, 40, 128, 170, 258, 518, 81, 77, 75), (659, *[29999] * 8),
                     (29999, *[0] * 8)][number - 1]  # fmt: skip
        measured.append((subject, study, *lines, *intervals))
    pd.DataFrame(rows, columns=["subject_id", "study_id", "file_name", "ecg_time", "path"]).to_csv(
        tmp_path / "mimic" / "record_list.csv", index=False
    )
    columns = ["subject_id", "study_id", "report_0", "report_1", "rr_interval", "p_onset", "p_end",
               "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]  # fmt: skip
    pd.DataFrame(measured, columns=columns).to_csv(
        tmp_path / "mimic" / "machine_measurements.csv", index=False
    )
    return tmp_path / "mimic"


def test_mimic_iv_ecg(mimic: Path, real_ecgs: Path, tmp_path: Path, ray_cluster: None) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("study_id,age,gender,flag\n40000089,61,F,1\n40000017,52,m,normal\n")
    store = convert("mimic-iv-ecg", mimic, tmp_path / "store", labels)
    index = store.index.set_index("record_id")
    assert len(index) == 3 and store.rejected.empty
    assert index["subject_id"].to_dict() == {
        "40000017": "10000032", "40000089": "10000032", "40000121": "10000033",
    }  # fmt: skip
    one, two, three = (index.loc[study] for study in ("40000017", "40000089", "40000121"))
    assert (one["rr_interval"], two["rr_interval"]) == (800, 659)
    not_measured = store.description["not_measured"]
    assert not_measured["rr_interval"] == {"29999": 1} and len(not_measured) == 9
    assert "29999' (1)" in describe(store) and "rr_interval" in describe(store)
    assert np.isnan(three["rr_interval"]) and np.isnan(two["p_onset"]) and one["p_onset"] == 40
    assert (one["report_label"], two["report_label"]) == ("SR", "AFIB")
    assert three["report_label"] is None  # it was doubted
    assert one["report"] == "Sinus rhythm\nNormal ECG"
    assert (one["age"], one["gender"], one["flag"]) == (52, "male", "normal")
    assert (two["gender"], two["flag"]) == ("female", "abnormal") and np.isnan(three["age"])
    _, x_BLT = next(store.signals(["40000017"]))
    fast = read(real_ecgs / "ptb-xl/records500/00000/00001_hr")
    expected = np.stack([fast[lead].digital_T[:5000] for lead in range(12)]) / 200
    np.testing.assert_allclose(x_BLT[0], expected, rtol=1e-6)


def test_rows_with_empty_fields(mimic: Path) -> None:
    """A record without a subject is its own, one without a path is rejected, one needs a name."""
    table = pd.read_csv(mimic / "record_list.csv", dtype=str)
    table.loc[0, "subject_id"], table.loc[1, "path"] = None, None
    table.to_csv(mimic / "record_list.csv", index=False)
    rows = listed("mimic-iv-ecg", mimic).table
    assert rows["subject_id"].tolist() == ["40000017", "10000032", "10000033"]
    with pytest.raises(Rejected, match="names no file"):
        sources.get("mimic-iv-ecg").read(mimic, rows["path"].iloc[1])
    table.assign(study_id=["1", None, "3"]).to_csv(mimic / "record_list.csv", index=False)
    with pytest.raises(UserError, match=r"record_list\.csv: row 2 has no record_id"):
        listed("mimic-iv-ecg", mimic)


# ---- a source of one's own


def test_the_readme_s_source_works_as_it_stands(tmp_path: Path) -> None:
    text = README.read_text()
    (code,) = re.findall(r"```python\n(\"\"\"Our hospital.+?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 20
    module: dict[str, object] = {}
    exec(compile(code, "hospital.py", "exec"), module)
    source = module["SOURCE"]
    assert isinstance(source, sources.Source)
    write_record(tmp_path / "ecg", "v007", some_signal())
    (tmp_path / "visits.csv").write_text("visit,patient,age,sex,ward\nv007,0012,61,F,east\n")
    listing = source.list_records(Corpus.at(tmp_path), None)
    assert listing.labels == ("age", "gender") and listing.metadata == ("ward",)
    row = listing.table.iloc[0]
    assert (row["record_id"], row["subject_id"], row["gender"]) == ("v007", "0012", "female")
    assert len(source.read(tmp_path, row["path"])) == 12
    assert source.files(row["path"], lambda name: (tmp_path / name).read_bytes()) == [
        "ecg/v007.hea", "ecg/v007.dat",
    ]  # fmt: skip


# ---- the Challenges


def test_challenge_on_seven_real_corpora(real_ecgs: Path) -> None:
    table = listed("challenge", real_ecgs / "challenge-2021").table.set_index("record_id")
    assert len(table) == 102 and table["gender"].isin(["male", "female"]).all()
    assert table["age"].notna().sum() == 99
    first = table.loc["JS00001"]
    assert (float(first["age"]), first["gender"], first["report_label"]) == (85, "male", "AFIB")
    assert first["diagnoses"] == ["AF", "RBBB", "TAb"]
    assert table.loc["HR06000", "diagnoses"] == ["TAb", "NSR"]  # "# Dx", and .mat at any depth
    assert table.loc["A0001", "report_label"] is None


def test_comments_in_both_styles_and_unknown_values() -> None:
    new, old = (
        b"a 1 500 1\r\n# Age: 53\r\n# Dx: 1,2\r\n",
        b"#Age: NaN\n#Sex: F\n#Dx: \n#Rx: Unknown",
    )
    assert comments_of(new) == {"age": "53", "dx": "1,2"}
    assert comments_of(old) == {"sex": "F"}
    several = b"#Dx: 1\n#Dx: 2,3\n#Dx: Unknown\n#Age: 61\n#Age: 61\n#Sex: F\n#Sex: M\n"
    assert comments_of(several) == {"dx": "1, 2,3", "age": "61", "sex": "F, M"}


def test_an_age_that_is_no_number_is_missing_and_counted(real_ecgs: Path, tmp_path: Path) -> None:
    header = (real_ecgs / "edge/georgia_identical_signal_pair/E07509.hea").read_text()
    for name, age in (("a", ">89"), ("b", "NaN"), ("c", "61")):
        (tmp_path / f"{name}.hea").write_text(re.sub(r"(?m)^#\s*Age.*$", f"#Age: {age}", header))
    ages, impossible = checked(listed("challenge", tmp_path).table["age"], TASKS["age"])
    assert ages.isna().tolist() == [True, True, False] and impossible == 1


def test_snomed_table() -> None:
    assert len(SCORED) == 30 and not set(SCORED) & set(OTHERS)
    assert set(RHYTHM_OF_CLASS) <= set(CLASSES.values())
    assert set(RHYTHM_OF_CLASS.values()) <= set(RHYTHMS)


# ---- CODE-15


def test_code_15_as_published(real_ecgs: Path, tmp_path: Path, ray_cluster: None) -> None:
    """A small HDF5 file in the published layout, from the real tracings of the sample."""
    meta = pd.read_csv(real_ecgs / "code-15" / "meta.csv")
    folder = tmp_path / "code"
    folder.mkdir()
    padded = np.zeros((len(meta) + 1, 4096, 12), dtype=np.float32)
    for row, name in enumerate(meta["save_file"]):
        x_TL = scipy.io.loadmat(real_ecgs / "code-15" / name)["feats"].T
        start = (4096 - len(x_TL)) // 2
        padded[row, start : start + len(x_TL)] = x_TL
    with h5py.File(folder / "exams_part0.hdf5", "w") as file:
        file["tracings"] = padded
        file["exam_id"] = [*meta["exam_id"], 0]  # published parts end with an empty row
    columns = ["exam_id", "age", "is_male", "nn_predicted_age", "1dAVb", "RBBB", "LBBB", "SB", "ST",
               "AF", "patient_id", "death", "timey", "normal_ecg"]  # fmt: skip
    exams = meta[columns].assign(trace_file="exams_part0.hdf5")
    gone = exams.iloc[:1].assign(exam_id=77, trace_file="exams_part3.hdf5")
    pd.concat([exams, gone]).to_csv(folder / "exams.csv", index=False)

    published = convert("code-15", folder, tmp_path / "a", max_rejected=0.2)
    sample = convert("code-15", real_ecgs / "code-15", tmp_path / "b")
    assert published.rejected["detail"].tolist() == ["no file exams_part3.hdf5"]
    ours, theirs = (
        store.index.set_index("record_id").sort_index() for store in (published, sample)
    )
    for column in ("signal_sha256", "n_samples", "age", "gender", "report_label", "subject_id"):
        assert ours[column].astype(str).tolist() == theirs[column].astype(str).tolist()
    assert sorted(set(ours["n_samples"])) == [2934, 4096]
    assert ours.loc["358121", "diagnoses"].tolist() == ["RBBB"]
    assert (ours["requantisation_error_uv"] <= 0.5001).all()
    assert set(ours["report_label"].dropna()) == {"STACH", "SBRAD"}


def test_code_15_sex_and_part_may_be_empty(tmp_path: Path) -> None:
    head = "exam_id,patient_id,age,is_male,1dAVb,RBBB,LBBB,SB,ST,AF,trace_file\n"
    rows = ["1,7,50,1,0,0,0,0,0,1,p.hdf5", "2,7,50,0,0,0,0,0,0,0,p.hdf5", "3,7,50,,0,0,0,0,0,0,"]
    (tmp_path / "exams.csv").write_text(head + "\n".join(rows))
    table = listed("code-15", tmp_path).table
    assert table["gender"].tolist() == ["male", "female", None]
    assert table["report_label"].tolist() == ["AFIB", None, None]  # without normal_ecg none is SR
    assert table["path"].tolist() == ["p.hdf5/1", "p.hdf5/2", ""]
    with pytest.raises(Rejected, match="names no file"):
        sources.get("code-15").read(tmp_path, "")


def test_code_15_leads_are_standard_and_zeros_are_taken_off(real_ecgs: Path) -> None:
    x_LT = scipy.io.loadmat(real_ecgs / "code-15" / "code_15_270272.mat")["feats"]
    i, ii, iii = x_LT[:3] - x_LT[:3].mean(axis=1, keepdims=True)
    assert np.corrcoef(iii, ii - i)[0, 1] > 0.99
    channels = channels_of(np.pad(x_LT.T, ((50, 9), (0, 0))), RATE_HZ)
    assert channels[0].n_samples == x_LT.shape[1]
    with pytest.raises(Rejected, match="zero throughout"):
        channels_of(np.zeros((4096, 12)), RATE_HZ)


def test_code_15_damaged(tmp_path: Path) -> None:
    layout = sources.get("code-15")
    (tmp_path / "x.mat").write_bytes(b"no MATLAB file")
    (tmp_path / "x.hdf5").write_bytes(b"no HDF5 file")
    for path in ("x.mat", "x.hdf5/1", "gone.mat", "../x.mat", "x.hdf5/one"):
        with pytest.raises(Rejected):
            layout.read(tmp_path, path)
    assert layout.files("parts/x.hdf5/1", lambda name: b"") == ["parts/x.hdf5"]


# ---- the authors' manifest


def test_the_authors_manifest(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    for number in range(4):
        write_record(folder / "files", f"r{number}", some_signal(seed=number))
    rows = [
        {"subject_id": 7, "ecg_path": "files/r0", "rr_interval": 29999, "age": 50, "gender": "M"},
        # The authors keep the first row of a subject only, and lose it where a label is missing.
        {"subject_id": 7, "ecg_path": "files/r1.hea", "rr_interval": 812, "gender": "F"},
        {"subject_id": 8, "ecg_path": str(folder / "files/r2.dat"), "flag": "abnormal"},
        {"subject_id": None, "ecg_path": "./files/r3", "report_label": "Sinus bradycardia"},
        {"subject_id": 9, "ecg_path": "../../etc/passwd"},
    ]
    manifest = folder / "train.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    store = convert("enecg", folder, tmp_path / "store", max_rejected=0.5)
    index = store.index.set_index("record_id").sort_index()
    assert index.index.tolist() == ["r0", "r1", "r2", "r3"]
    assert index["subject_id"].tolist() == ["7", "7", "8", "r3"]
    assert store.description["not_measured"] == {"rr_interval": {"29999": 1}}
    assert np.isnan(index.loc["r0", "rr_interval"]) and index.loc["r1", "rr_interval"] == 812
    assert index["gender"].tolist()[:2] == ["male", "female"]
    assert index.loc["r2", "flag"] == "abnormal" and index.loc["r3", "report_label"] == "SBRAD"
    assert store.rejected["reason"].tolist() == ["outside of the corpus"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1: no JSON"),
        ('{"age": 3}', "line 1: needs subject_id and ecg_path"),
        ("3", "needs"),
    ],
)
def test_manifests_that_make_no_sense(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UserError, match="0 files"):
        listed("enecg", tmp_path)
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=told):
        listed("enecg", tmp_path)


# ---- PTB-XL's super-classes


def test_ptb_xl_superclasses_and_statements(real_ecgs: Path, tmp_path: Path) -> None:
    table = listed("ptb-xl", real_ecgs / "ptb-xl").table.set_index("record_id")
    assert table.loc["1", "superclasses"] == ["NORM"]
    assert table.loc["1", "statements"] == ["NORM", "LVOLT", "SR"]
    counts = table["superclasses"].explode().value_counts()
    assert set(counts.index) == {"NORM", "MI", "STTC", "CD", "HYP"}
    shutil.copy(real_ecgs / "ptb-xl" / "ptbxl_database.csv", tmp_path)
    without = listed("ptb-xl", tmp_path)
    database = pd.read_csv(tmp_path / "ptbxl_database.csv", dtype=str)
    database.loc[:2, "scp_codes"] = ["{'XYZ': 100.0}", "{'XYZ': 0.0, 'IMI': 50.0}", "{'SR': 0.0}"]
    database.to_csv(tmp_path / "other.csv", index=False)
    other = listed("ptb-xl", real_ecgs / "ptb-xl", tmp_path / "other.csv")
    assert other.table["superclasses"].tolist()[:3] == [None, ["MI"], []]
    assert any("does not list: 'XYZ' (2); a record with nothing" in note for note in other.notes)
    assert "superclasses" not in without.table and "scp_statements.csv" in without.notes[0]


# ---- leads


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in range(6) for b in range(6) if a != b])
def test_any_two_limb_leads_give_the_others(real_ecgs: Path, one: int, other: int) -> None:
    i, ii = np.random.default_rng(0).normal(size=(2, 50))
    leads = np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2])
    derived = derived_limb_leads(one, other, leads[one], leads[other])
    np.testing.assert_allclose(derived, leads, atol=1e-12)


def test_derived_leads_are_what_was_recorded(real_ecgs: Path, tmp_path: Path) -> None:
    """I and II of a real record give the other four as they were recorded, to a few µV."""
    channels = read(real_ecgs / "ptb-xl/records500/00000/00001_hr")
    whole = canonical(channels)
    part = canonical({lead: channels[lead] for lead in (0, 1, 6)})
    assert part.derived_L.tolist() == [False, False, True, True, True, True] + [False] * 6
    assert part.present_L.tolist() == [True, True] + [False] * 4 + [True] + [False] * 5
    mine, recorded = (
        to_millivolts(r.signal_LT[None], r.gain_L[None], r.baseline_L[None])[0]
        for r in (part, whole)
    )
    np.testing.assert_allclose(mine[:6], recorded[:6], atol=0.006)
    np.testing.assert_array_equal(part.signal_LT[0], whole.signal_LT[0])
    flat = canonical({0: channels[0], 1: flat_like(channels[1])})
    assert not flat.derived_L.any()  # nothing is derived from a lead that is off


def flat_like(channel):
    return type(channel)(
        channel.digital_T * 0, channel.missing_T, channel.gain, 0, channel.rate_hz, 5000
    )


def test_names_of_leads() -> None:
    for name, lead in {"AVR": "aVR", "avr": "aVR", " aVF ": "aVF", "Lead I": "I", "ECG_II": "II",
                       "lead v3": "V3", "II,": "II"}.items():  # fmt: skip
        assert LEADS[lead_position(name)] == lead
    for name in ("MLII", "ML2", "V", "V7", "I+", "ECG", "ECG1", "Lead", "", "IV", "-aVR"):
        assert lead_position(name) is None, name


def test_an_offset_goes_into_the_baseline_and_is_not_clipped(tmp_path: Path) -> None:
    digital = some_signal() + 300_000  # 24 bits: 300 mV of offset
    record = canonical(read(write_record(tmp_path, "a", digital, fmt="32")))
    assert record.changed == ("requantised",) and record.requantisation_error_uv < 1e-6
    assert set(record.gain_L) == {1000.0} and (record.baseline_L < -290_000).all()
    x_LT = to_millivolts(record.signal_LT[None], record.gain_L[None], record.baseline_L[None])[0]
    np.testing.assert_allclose(x_LT, digital.T / 1000, rtol=1e-6)
