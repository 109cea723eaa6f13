"""Names of leads as devices write them, turned-over leads, and signals that are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enecg.errors import UserError
from enecg.records import sources
from enecg.records.canonical import canonical
from enecg.records.channel import Rejected
from enecg.records.leads import assign, lead_of, mentioned, read_lead_names
from enecg.records.wfdb_record import read, read_listed
from enecg.signals import LEADS, MISSING, to_millivolts
from records_helpers import some_signal, write_record


def said(name: str) -> str | None:
    found = lead_of(name)
    return None if found is None else "-" * found.inverted + LEADS[found.lead]


@pytest.mark.parametrize(
    ("names", "lead"),
    [
        ("I|i|DI|D1|d i|Lead I|lead_i|LeadI|ECG I|EKG I|ECG_I|I (mV)|I [uV]|Lead I (Einthoven)|"
         "MDC_ECG_LEAD_I|MDC_ECG_ELEC_POTL_I|I,|+I|Ⅰ|Einthoven I|Ableitung I|I # noisy", "I"),
        ("II|DII|D2|Lead II|EKG II|ii (mV)|mdc_ecg_lead_ii|Ⅱ", "II"), ("III|DIII|D3|Ⅲ", "III"),
        ("aVR|AVR|avr|av-r|aV R|a VR|aVR+|aVR (+)|Lead aVR|MDC_ECG_LEAD_AVR|Goldberger aVR|"
         "Lead aVR, augmented voltage, right", "aVR"),
        ("V1|v1|V 1|V_1|V-1|C1|c 1|Lead V1|ECG V1|EKG-V1|V1 (mV)|MDC_ECG_LEAD_V1|V1.|V1 (chest)|"
         "Wilson V1|V1 #1", "V1"),
        ("C6|V 6|lead v6", "V6"),
        ("-aVR|− aVR|- aVR|(-)aVR|aVR (-)|aVR inverted|inv aVR|Lead -aVR|aVR_inv|minus aVR|"
         "aVR (inverted)|neg. aVR|-AVR (mV)", "-aVR"),
        ("-I|Lead -I", "-I"),
    ],
)  # fmt: skip
def test_usual_names(names: str, lead: str) -> None:
    assert {name: said(name) for name in names.split("|")} == dict.fromkeys(names.split("|"), lead)


@pytest.mark.parametrize(
    "name",
    ["", "ECG", "ECG1", "Lead", "Lead 1", "Channel 1", "1", "V", "V0", "V7", "V9", "V4R", "V1R", "IV",  # noqa: E501
     "VR", "RESP", "PLETH", "MCL1", "CM5", "aVRx", "V1 (filtered)", "I-II", "V1-V2", "V1-", "D4",
     "Lead - aVR", "inverted", "-", "+", "C7", "X", "abp", "V1 #2", "II # 03"],
)  # fmt: skip
def test_names_that_only_look_alike(name: str) -> None:
    assert said(name) is None


def test_mlii_stands_for_ii_only_among_limb_leads() -> None:
    assert assign(["RESP", "V2", "MLII"]).left_out == ("RESP", "MLII")
    assert [n.lead for n in assign(["I", "MLII", "III"]).leads.values()] == [0, 1, 2]
    assert assign(["I", "II", "MLII"]).left_out == ("MLII",)


def test_a_lead_that_is_turned_over_is_turned_back_exactly(tmp_path: Path) -> None:
    digital = some_signal()
    digital[:50, 3] = -32768  # missing
    digital[60:70, 3] = 32767
    upright = canonical(read(write_record(tmp_path, "a", digital, baseline=-37)))
    names = ["-aVR" if name == "aVR" else name for name in LEADS]
    turned = canonical(read(write_record(tmp_path, "b", digital, names, baseline=-37)))
    ours, theirs = (
        to_millivolts(r.signal_LT[None], r.gain_L[None], r.baseline_L[None])[0]
        for r in (turned, upright)
    )
    np.testing.assert_array_equal(ours[3], -theirs[3])
    np.testing.assert_array_equal(np.delete(ours, 3, 0), np.delete(theirs, 3, 0))
    assert (turned.signal_LT[3, :50] == MISSING).all() and np.isnan(ours[3, :50]).all()
    assert turned.changed == ("inverted",) and turned.present_L.all()
    slow = canonical(read(write_record(tmp_path, "c", digital[:2500], names, rate=250)))
    assert slow.changed == ("resampled", "requantised", "inverted")
    slow_upright = canonical(read(write_record(tmp_path, "d", digital[:2500], rate=250)))
    ours, theirs = (
        to_millivolts(r.signal_LT[None], r.gain_L[None], r.baseline_L[None])[0]
        for r in (slow, slow_upright)
    )
    np.testing.assert_allclose(ours[3], -theirs[3], atol=0.0011)


def test_a_turned_lead_gives_way_to_the_lead_itself(tmp_path: Path) -> None:
    record = read(write_record(tmp_path, "a", some_signal(n_leads=3), ["-aVR", "aVR", "V1"]))
    assert set(record) == {3, 6} and record.left_out == ("-aVR",)
    np.testing.assert_array_equal(record[3].digital_T, some_signal(n_leads=3)[:, 1])


@pytest.mark.parametrize("names", [("V1", "C1"), ("I", "Lead I"), ("-aVR", "aVR (-)")])
def test_two_signals_of_one_lead_are_refused_by_name(tmp_path: Path, names: tuple[str]) -> None:
    path = write_record(tmp_path, "a", some_signal(n_leads=2), names)
    with pytest.raises(Rejected) as caught:
        read(path)
    assert caught.value.reason == "ambiguous leads"
    assert all(repr(name) in caught.value.detail for name in names)


def test_recorded_limb_leads_are_not_replaced_by_derived_ones(tmp_path: Path) -> None:
    names = ["I", "II", "aVR (filtered)", "DIII"]
    record = canonical(read(write_record(tmp_path, "a", some_signal(n_leads=4), names)))
    derived = {LEADS[lead] for lead in range(12) if record.derived_L[lead]}
    assert derived == {"aVL", "aVF"} and record.present_L[2]
    np.testing.assert_array_equal(record.signal_LT[2], some_signal(n_leads=4)[:, 3])
    assert not record.present_L[3] and (record.signal_LT[3] == MISSING).all()


@pytest.mark.parametrize(
    ("names", "leads"),
    [
        (["Fp1", "F3", "C3", "C4", "P3", "O1", "ECG"], []), (["C3", "C4"], []),
        (["EEG", "C3", "I", "II"], ["I", "II"]), (["E", "A", "S", "I"], []),
        (["C3", "C4", "I"], ["V3", "V4", "I"]), (["C1", "C2", "C3"], ["V1", "V2", "V3"]),
    ],
)  # fmt: skip
def test_electrodes_elsewhere_are_no_leads(names: list[str], leads: list[str]) -> None:
    found = assign(names)
    assert [LEADS[one.lead] for one in found.leads.values()] == leads
    assert len(found.left_out) == len(names) - len(leads)
    everything = assign(names, dict.fromkeys(map(str.lower, names), "V1"))
    assert len(everything.leads) == len(names), "one's own names go before"


@pytest.mark.parametrize(
    ("name", "leads"),
    [("mAVR", {3}), ("invaVR", {3}), ("VR", {3}), ("VL", {4}), ("VF raw", {5}), ("LI", {0}),
     ("LIII", {2}), ("L2", {1}), ("VFib", set()), ("PLETH", set())],
)  # fmt: skip
def test_a_lead_that_a_name_speaks_of(name: str, leads: set[int]) -> None:
    assert mentioned([name]) == leads


def test_without_any_lead_the_names_are_told(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal(n_leads=2), ["E1", "E2"])
    with pytest.raises(Rejected, match="no usable lead") as caught:
        canonical(read(path))
    assert "'E1', 'E2'" in caught.value.detail


def test_names_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text("E1: V1\n' e2 ': -aVR\nV2: none\nECG 7: v6\nMLII: II\n")
    own = read_lead_names(file)
    names = ["e1", "E2", "V2", "ECG  7", "MLII", "V3"]
    write_record(tmp_path, "a", some_signal(n_leads=6), names)
    found = read_listed(tmp_path, "a", own)
    assert {LEADS[lead] for lead in found} == {"V1", "aVR", "V6", "II", "V3"}
    assert found[3].inverted and found.left_out == ("V2",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("E1: V7\n", "E1: 'V7' is no lead, did you mean 'V[1-6]'.*allowed: I, II"),
        ("E1: [V1]\n", "E1: .*is no lead"), ("- a\n", "must hold lines"), ("", "must hold lines"),
        ("E1: V1\ne1: V2\n", "e1 is there more than once"), ("no: V1\n", "in quotes"),
        ("E1: V1: x\n", "cannot read"),
    ],
)  # fmt: skip
def test_own_names_that_make_no_sense(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "n.yaml").write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        read_lead_names(tmp_path / "n.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no file"):
        read_lead_names(tmp_path / "gone.yaml")


def test_every_corpus_at_hand_leaves_out_nothing_new(real_ecgs: Path) -> None:
    source = sources.get("challenge")
    folder = real_ecgs / "challenge-2021"
    for path in sorted(folder.rglob("*.hea"))[::9]:
        found = source.read(folder, str(path.relative_to(folder).with_suffix("")))
        assert len(found) == 12 and not getattr(found, "left_out", ())
