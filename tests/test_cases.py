"""The seven small inputs on which an earlier version was silently wrong, and what is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from enecg.records import sources
from enecg.records.convert import convert
from enecg.records.corpus import Corpus
from enecg.signals import LEADS
from ray_jobs.convert import summary
from records_helpers import REPOSITORY, some_signal, write_record

CASES = Path(os.environ.get("ENECG_CASES_DIR", "/work/shared/cases"))
OFFLINE = [
    "challenge-text-dx", "class-names-typed", "lead-names", "manifest-mixed-list",
    "mimic-float-subject", "multilabel-separator",
]  # fmt: skip
HERE = [case for case in OFFLINE if (CASES / case / "check.py").is_file()]


@pytest.mark.parametrize("case", HERE)
def test_the_check_of_a_case_passes(case: str) -> None:
    """Beside the tests of the same kinds in test_identifiers, test_label_text, test_lead_names."""
    done = subprocess.run(
        [sys.executable, "check.py"],
        cwd=CASES / case,
        env={**os.environ, "PYTHONPATH": f"{CASES}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mimic_float_subject(tmp_path: Path) -> None:
    (tmp_path / "record_list.csv").write_text(
        "subject_id,study_id,file_name,ecg_time,path\n10000100,1,1,t,a\n10000100,2,2,t,b\n"
    )
    (tmp_path / "l.csv").write_text("study_id,subject_id,potassium\n1,10000100.0,3.3\n")
    table = sources.get("mimic-iv-ecg").list_records(Corpus.at(tmp_path), tmp_path / "l.csv").table
    assert table["subject_id"].tolist() == ["10000100", "10000100"]


def challenge(folder: Path, *dx: str) -> sources.Listing:
    for number, text in enumerate(dx):
        (folder / f"r{number}.hea").write_text(f"r{number} 12 500 5000\n#Age: 50\n#Dx: {text}\n")
    return sources.get("challenge").list_records(Corpus.at(folder), None)


def test_challenge_text_dx(tmp_path: Path) -> None:
    dx = ["RBBB", "AF", "426783006", "AF, RBBB", "crbbb;164889003", "atrial fibrillation", "XYZ",
          "", "999", "AF XYZ", "af,", "Sinus_Rhythm", "AF RBBB"]  # fmt: skip
    listing = challenge(tmp_path, *dx)
    found = dict(zip(listing.table["record_id"], listing.table["diagnoses"], strict=True))
    lists = [found[f"r{number}"] for number in range(len(dx))]
    assert [names if isinstance(names, list) else None for names in lists] == [
        ["RBBB"], ["AF"], ["NSR"], ["AF", "RBBB"], ["RBBB", "AF"], ["AF"], None, None, [], None,
        ["AF"], ["NSR"], ["AF", "RBBB"],
    ]  # fmt: skip
    notes = " ".join(listing.notes)
    assert "codes without a class, e.g. 999" in notes and "'XYZ' (1)" in notes
    assert "words, not SNOMED CT codes" in notes


def test_numbers_dropped_and_signals_left_out_are_told(tmp_path: Path, ray_cluster: None) -> None:
    folder = tmp_path / "in"
    names = ["PLETH", *LEADS[1:]]
    for number in range(4):
        write_record(folder, f"r{number}", some_signal(seed=number), names)
    (tmp_path / "l.csv").write_text(
        'record_id,bnp,age,gender\nr0,350,"61,5",W\nr1,"1,250",50,male\nr2,<5,300,female\nr3,9,,\n'
    )
    store = convert("wfdb", folder, tmp_path / "store", tmp_path / "l.csv")
    described = json.loads((tmp_path / "store" / "dataset.json").read_text())
    assert described["unreadable_numbers"]["bnp"]["values"] == {"1,250": 1, "<5": 1}
    assert described["labels"]["age"]["unreadable"]["example"] == "61,5"
    assert described["labels"]["age"]["out_of_range"]["example"] == "300"
    assert described["labels"]["gender"]["undeclared"]["values"] == {"W": 1}
    assert described["signals_left_out"] == {"PLETH": 4}
    said = summary(store)
    for word in ("'1,250' (1)", "'<5' (1)", "'61,5' (1)", "'300' (1)", "'W' (1)", "'PLETH' (4)"):
        assert word in said
    assert store.index.set_index("record_id")["bnp"].to_dict()["r1"] == "1,250"
