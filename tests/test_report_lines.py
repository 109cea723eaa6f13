"""Report lines to rhythms: 500 labelled lines, whole reports, and PTB-XL's own reports."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from enecg.records import sources
from enecg.records.corpus import Corpus
from enecg.records.sources.report_lines import (
    read_line,
    reports_without_a_sure_rhythm,
    rhythm_of_line,
    rhythms_of_reports,
)
from enecg.records.sources.report_rules import RULES
from enecg.records.sources.rhythms import RHYTHMS, rhythm_of

LINES = Path(__file__).parent / "data" / "report_lines.tsv"
DOCUMENT = Path(__file__).parents[1] / "docs" / "report_lines.md"


def labelled_lines() -> list[dict[str, str]]:
    with LINES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


KINDS = sorted({row["kind"] for row in labelled_lines()})


@pytest.mark.parametrize("kind", KINDS)
def test_every_labelled_line(kind: str) -> None:
    rows = [row for row in labelled_lines() if row["kind"] == kind]
    wrong = {
        row["line"]: (rhythm_of_line(row["line"]), row["expected"])
        for row in rows
        if (rhythm_of_line(row["line"]) or "-") != row["expected"]
    }
    assert not wrong


def test_the_table_is_what_it_says() -> None:
    rows = labelled_lines()
    lines = [row["line"] for row in rows]
    assert len(lines) == len(set(lines)) >= 500
    assert {row["expected"] for row in rows} == {*RHYTHMS, "-"}
    assert f"{len(lines)} lines" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [str.upper, str.lower, "{}.".format, "  {}  ".format, "*** {} ***".format, "--- {} ---".format,
     lambda line: line.replace(" ", "  "), lambda line: line.replace(" - ", " \u2013 ")],
)  # fmt: skip
def test_case_blanks_and_decoration_do_not_matter(change) -> None:
    for row in labelled_lines():
        assert (rhythm_of_line(change(row["line"])) or "-") == row["expected"], row["line"]


def test_what_comes_along_leaves_a_rhythm_and_takes_no_doubt_from_it() -> None:
    """Every rhythm with every finding after it, and every doubt and denial before and after it."""
    stated = {
        "Sinus rhythm": "SR", "Sinus tachycardia": "STACH", "Sinus bradycardia": "SBRAD",
        "Sinus arrhythmia": "SARRH", "Atrial fibrillation": "AFIB", "Atrial flutter": "AFLT",
        "Supraventricular tachycardia": "SVTAC", "Paroxysmal supraventricular tachycardia": "PSVT",
        "Ventricular-paced rhythm": "PACE", "Ventricular bigeminy": "BIGU",
        "Ventricular trigeminy": "TRIGU", "Supraventricular arrhythmia": "SVARR",
        "Junctional rhythm": "JUNC", "Ectopic atrial rhythm": "EAR",
        "Ventricular tachycardia": "VTAC", "Ventricular fibrillation": "VFIB",
    }  # fmt: skip
    findings = (
        "", " with PVCs or aberrant conduction", ", possible LVH", " - consider ischemia",
        ", probable normal variant", "; cannot rule out septal infarct", ", no acute ST changes",
        " with possible premature atrial complexes", ". Inferior infarct, age undetermined",
        ", T wave inversion no longer present", " ? old infarct",
    )  # fmt: skip
    before = (
        "possible {}", "probable {}", "suspected {}", "consider {}", "rule out {}", "no {}",
        "cannot rule out {}", "not {}", "absence of {}", "? {}", "no longer {}", "previous {}",
        "no evidence of {}", "history of {}", "likely {}", "has replaced {}", "questionable {}",
    )  # fmt: skip
    after = (
        "{}?", "{}, possible", "{} is suspected", "{} cannot be excluded", "{} no longer present",
        "{} is absent", "{} or artifact", "{} versus artifact", "{} not seen", "{} - probable",
        "{} has resolved", "{} on previous ECG",
    )  # fmt: skip
    for rhythm, name in stated.items():
        for finding in findings:
            assert rhythm_of_line(rhythm + finding) == name, rhythm + finding
            for form in before:
                line = form.format(rhythm.lower()) + finding
                assert rhythm_of_line(line) is None, line
        for form in after:
            assert rhythm_of_line(form.format(rhythm)) is None, form.format(rhythm)
        for other, its in stated.items():
            for word in ("or", "versus", "vs.", "and/or", "/"):
                line = f"{rhythm} {word} {other.lower()}"
                assert rhythm_of_line(line) == (name if its == name else None), line


def test_lines_of_a_report_are_taken_together() -> None:
    reports = {
        ("Sinus rhythm", "Atrial flutter"): "AFLT",
        (None, "ST elevation"): None,
        (None, None): None,
        ("*** Poor data quality, interpretation may be adversely affected", "Sinus rhythm"): "SR",
        ("Possible atrial flutter", "Sinus tachycardia"): "STACH",
        ("Sinus tachycardia", "Consider atrial flutter"): "STACH",
        ("Atrial fibrillation", "or atrial flutter"): None,
        ("Atrial fibrillation", "is no longer present"): None,
        ("Normal sinus rhythm", "with sinus arrhythmia"): "SARRH",
        ("Normal sinus rhythm", "When compared with ECG of 1-1-2015,",
         "Sinus rhythm has replaced atrial fibrillation"): "SR",
        ("Sinus rhythm", "- premature ventricular contractions or aberrant conduction"): "SR",
        ("Atrial flutter", "If rhythm is confirmed, the following report may not be valid"): None,
        ("Undetermined rhythm", "Possible sinus rhythm"): None,
        ("Junctional rhythm", "Sinus bradycardia"): "SBRAD",
    }  # fmt: skip
    lines = pd.DataFrame(list(reports), index=range(5, 5 + len(reports)))
    found = rhythms_of_reports(lines)
    assert found.tolist() == list(reports.values())
    assert found.index.tolist() == lines.index.tolist()
    assert reports_without_a_sure_rhythm(lines) == 4
    assert rhythms_of_reports(pd.DataFrame(index=[1, 2])).tolist() == [None, None]


def test_numbers_and_nothing_are_lines_without_a_rhythm() -> None:
    lines = pd.DataFrame({"report_0": [1.0, float("nan")], "report_1": ["Sinus rhythm", None]})
    assert rhythms_of_reports(lines).tolist() == ["SR", None]
    assert not read_line("").named and not read_line("nan").named


def test_rules_have_one_priority_each_in_the_order_of_the_rhythms() -> None:
    ordered = [rule.rhythm for rule in sorted(RULES, key=lambda rule: rule.priority) if rule.rhythm]
    assert ordered == list(RHYTHMS)


def test_the_document_prints_the_rules() -> None:
    printed = re.findall(r"^\| (\d+) \| `(\w+)` \| `(.+)` \|$", DOCUMENT.read_text(), re.MULTILINE)
    rules = [rule for rule in RULES if rule.rhythm is not None]
    assert [
        (int(place), name, pattern.replace(r"\|", "|")) for place, name, pattern in printed
    ] == [(rule.priority, rule.rhythm, rule.pattern) for rule in rules]


def test_precision_on_ptb_xls_own_reports(real_ecgs: Path) -> None:
    """Reports in English beside statements by people: the rules state what the people stated."""
    tables = [pd.read_csv(real_ecgs / part / "ptbxl_database.csv")
              for part in ("ptb-xl", "ptb-xl-rhythm")]  # fmt: skip
    table = pd.concat(tables).drop_duplicates("ecg_id")
    truth = [rhythm_of(ast.literal_eval(codes)) for codes in table["scp_codes"]]
    said = [rhythm_of_line(str(report)) for report in table["report"]]
    pairs = Counter(zip(said, truth, strict=True))
    for name, least in {"AFIB": 297, "SR": 369, "STACH": 19, "SARRH": 12, "SBRAD": 10}.items():
        stated = sum(count for (line, _), count in pairs.items() if line == name)
        assert pairs[name, name] >= least and pairs[name, name] / stated > 0.99, name


def test_a_manifests_doubted_line_is_no_class(tmp_path: Path) -> None:
    """``other`` takes any label that is there: a doubted rhythm must not be one."""
    said = ["Possible atrial fibrillation", "Sinus or ectopic atrial rhythm", "Sinus rhythm",
            "AFIB", "my own class", None]  # fmt: skip
    (tmp_path / "m.jsonl").write_text(
        "".join(
            json.dumps({"subject_id": n, "ecg_path": f"r{n}", "report_label": line}) + "\n"
            for n, line in enumerate(said)
        )
    )
    listing = sources.get("enecg").list_records(Corpus.at(tmp_path), None)
    labels = [None if pd.isna(label) else label for label in listing.table["report_label"]]
    assert labels == [None, None, "SR", "AFIB", "my own class", None]


def ptb_xl_with(tmp_path: Path, codes: list[str], statements: str | None) -> sources.Listing:
    rows = [f'{n},{n},50,0,"{code}",lr/{n},hr/{n}' for n, code in enumerate(codes, 1)]
    header = "ecg_id,patient_id,age,sex,scp_codes,filename_lr,filename_hr"
    (tmp_path / "ptbxl_database.csv").write_text("\n".join([header, *rows]) + "\n")
    if statements is not None:
        (tmp_path / "scp_statements.csv").write_text(statements)
    return sources.get("ptb-xl").list_records(Corpus.at(tmp_path), None)


def test_rhythm_statements_beyond_the_twelve_have_a_place(tmp_path: Path) -> None:
    table = ",diagnostic,rhythm,diagnostic_class\nSR,,1.0,\nPVT,,1.0,\nXRHY,,1.0,\nNORM,1.0,,NORM\n"
    codes = ["{'PVT': 100.0}", "{'SR': 0.0, 'PVT': 0.0}", "{'XRHY': 0.0}", "{'NORM': 80.0}",
             "{'SR': 0.0}"]  # fmt: skip
    listing = ptb_xl_with(tmp_path, codes, table)
    assert listing.table["report_label"].tolist() == ["VTAC", "SR", "XRHY", None, "SR"]
    (note,) = listing.notes
    assert "3 records state a rhythm beyond PTB-XL's twelve (VTAC 2, XRHY 1)" in note
    assert "except for 1 that state one of the twelve" in note


def test_without_a_table_of_statements_pvt_has_its_place(tmp_path: Path) -> None:
    listing = ptb_xl_with(tmp_path, ["{'PVT': 100.0}", "{'NDT': 100.0}"], None)
    assert listing.table["report_label"].tolist() == ["VTAC", None]


def test_ptb_xls_own_table_has_no_other_rhythm(real_ecgs: Path) -> None:
    listing = sources.get("ptb-xl").list_records(Corpus.at(real_ecgs / "ptb-xl"), None)
    assert not listing.notes


def test_real_challenge_records_with_pvt_are_labelled(real_ecgs: Path) -> None:
    """Nine records of ningbo state PVT alone, one an atrial rhythm: they had no label."""
    listing = sources.get("challenge").list_records(
        Corpus.at(real_ecgs / "challenge-2021" / "ningbo"), None
    )
    labels = listing.table.set_index("record_id")["report_label"]
    assert labels["JS45546"] == "VTAC" and labels["JS45551"] == "EAR"
    assert labels["JS45550"] == "SVTAC"  # AVRT, which comes first
    assert any("VTAC 9" in note and "except for" in note for note in listing.notes)
