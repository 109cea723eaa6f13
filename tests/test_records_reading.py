"""Reading one record and bringing it into the store's form."""

from __future__ import annotations

from pathlib import Path

import neurokit2
import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from enecg.records.canonical import canonical
from enecg.records.channel import Rejected
from enecg.records.rr import rr_interval_ms
from enecg.records.wfdb_record import read
from enecg.signals import LEADS, MISSING, N_SAMPLES, quantise, resample, to_millivolts
from records_helpers import some_signal, write_record


def millivolts(record):
    return to_millivolts(record.signal_LT[None], record.gain_L[None], record.baseline_L[None])[0]


def test_a_16_bit_record_of_500_hz_and_10_s_comes_through_bit_for_bit(tmp_path: Path) -> None:
    digital = some_signal()
    record = canonical(read(write_record(tmp_path, "a", digital, gain=412.5, baseline=-37)))
    np.testing.assert_array_equal(record.signal_LT, digital.T)
    assert record.changed == ()
    assert record.present_L.all()
    assert set(record.gain_L) == {412.5} and set(record.baseline_L) == {-37}
    np.testing.assert_allclose(
        millivolts(record), wfdb.rdrecord(str(tmp_path / "a")).p_signal.T, rtol=1e-6
    )


def test_leads_are_found_by_name_in_any_case_whatever_their_order(tmp_path: Path) -> None:
    digital = some_signal()
    order = np.random.default_rng(1).permutation(12)
    names = [LEADS[place] for place in order]
    names = [name.upper() if place % 2 else name.lower() for place, name in enumerate(names)]
    record = canonical(read(write_record(tmp_path, "a", digital[:, order], names)))
    np.testing.assert_array_equal(record.signal_LT, digital.T)


def test_other_signals_are_left_out_and_absent_leads_are_missing(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal(n_leads=3), ["RESP", "V2", "MLII"])
    record = canonical(read(path))
    present = record.present_L.tolist()
    assert [LEADS[lead] for lead in range(12) if present[lead]] == ["V2"]
    assert (record.signal_LT[LEADS.index("I")] == MISSING).all()
    assert np.isnan(millivolts(record)[LEADS.index("I")]).all()


@pytest.mark.parametrize(("length", "step"), [(7001, "cropped"), (3000, "padded")])
def test_too_long_is_cropped_too_short_is_padded_with_0_mv(
    tmp_path: Path, length: int, step: str
) -> None:
    digital = some_signal(length)
    record = canonical(read(write_record(tmp_path, "a", digital, baseline=25)))
    assert record.changed == (step,)
    kept = min(length, N_SAMPLES)
    np.testing.assert_array_equal(record.signal_LT[:, :kept], digital[:kept].T)
    assert (millivolts(record)[:, kept:] == 0).all()


@pytest.mark.parametrize("latin", [False, True])
@pytest.mark.parametrize(("unit", "gain"), [("uV", 1.0), ("µV", 1.0), ("mv", 1e3), ("V", 1e6)])
def test_units_are_understood(tmp_path: Path, unit: str, gain: float, latin: bool) -> None:
    digital = some_signal()
    path = write_record(tmp_path, "a", digital)
    header = path.with_suffix(".hea")
    scale = f"{gain:.6f}" if unit != "V" else "1000000"
    text = header.read_text().replace("1000.0(0)/mV", f"{scale}(0)/{unit}")
    header.write_text(text, encoding="latin-1" if latin else "utf-8")
    record = canonical(read(path))
    assert record.gain_L == pytest.approx(np.full(12, 1000.0))
    np.testing.assert_array_equal(record.signal_LT, digital.T)


def test_missing_samples_stay_missing(tmp_path: Path) -> None:
    digital = some_signal()
    digital[100:200, 3] = -32768  # format 16's mark
    record = canonical(read(write_record(tmp_path, "a", digital)))
    assert np.isnan(millivolts(record)[3, 100:200]).all()
    assert np.isfinite(millivolts(record)).sum() == 12 * 5000 - 100


def test_wide_samples_are_requantised(tmp_path: Path) -> None:
    digital = some_signal() * 100  # beyond 16 bits
    record = canonical(read(write_record(tmp_path, "a", digital, gain=1e5, fmt="32")))
    assert record.changed == ("requantised",)
    np.testing.assert_allclose(millivolts(record), digital.T / 1e5, atol=0.5e-3 + 1e-6)


def test_resampling_keeps_what_lies_below_half_the_rate(tmp_path: Path) -> None:
    for rate in (100, 250, 360, 1000, 999.56):
        time = np.arange(round(10 * rate)) / rate
        wave = np.sin(2 * np.pi * 7 * time) + 0.5 * np.cos(2 * np.pi * 21 * time)
        digital = np.rint(np.repeat(wave[:, None], 12, axis=1) * 5000).astype(np.int64)
        name = f"r{round(rate)}"
        record = canonical(read(write_record(tmp_path, name, digital, rate=rate, gain=5000.0)))
        assert record.changed == ("resampled", "requantised")
        time = np.arange(5000) / 500
        expected = np.sin(2 * np.pi * 7 * time) + 0.5 * np.cos(2 * np.pi * 21 * time)
        error = np.abs(millivolts(record)[0] - expected)
        assert error[200:-200].max() < 0.01, rate


def test_a_gap_stays_a_gap_through_resampling() -> None:
    wave = np.sin(np.arange(1000) / 9)
    wave[300:320] = np.nan
    resampled = resample(wave, 100)
    assert np.isnan(resampled[1500:1596]).all()
    assert np.isfinite(resampled[:1495]).all() and np.isfinite(resampled[1601:]).all()


def reason_of(path: Path) -> str:
    with pytest.raises(Rejected) as caught:
        canonical(read(path))
    return caught.value.reason


def test_damaged_records_are_rejected_with_the_reason(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal())
    data, header = path.with_suffix(".dat"), path.with_suffix(".hea")
    good_data, good_header = data.read_bytes(), header.read_text()

    data.write_bytes(good_data[:-24])
    assert reason_of(path) == "wrong length"
    data.write_bytes(good_data[:50_001])
    assert reason_of(path) == "wrong length"
    changed = bytearray(good_data)
    changed[2000] ^= 1
    data.write_bytes(changed)
    assert reason_of(path) == "checksum mismatch"
    data.unlink()
    assert reason_of(path) == "unreadable"
    data.write_bytes(good_data)

    header.write_text("nothing of the kind\n")
    assert reason_of(path) == "unreadable header"
    header.write_text(good_header.replace("/mV", "/bpm"))
    assert reason_of(path) == "unknown unit"
    header.write_text(good_header)
    assert canonical(read(path)).changed == ()
    assert reason_of(tmp_path / "not there") == "unreadable"

    assert (
        reason_of(write_record(tmp_path, "b", some_signal(), [f"X{n}" for n in range(12)]))
        == "no usable lead"
    )
    flat = np.full((5000, 12), 7)
    assert reason_of(write_record(tmp_path, "c", flat)) == "no usable lead"


def test_checksums_count_modulo_65536_and_may_be_absent(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal())
    header = path.with_suffix(".hea")
    lines = header.read_text().splitlines()
    fields = [line.split() for line in lines[1:13]]
    signed = [[*f[:6], str(int(f[6]) - 65536), *f[7:]] for f in fields]
    header.write_text("\n".join([lines[0], *map(" ".join, signed)]) + "\n")
    assert canonical(read(path)).changed == ()


def test_rr_interval_only_from_lead_ii_at_250_hz_or_more(real_ecgs: Path) -> None:
    fast = read(real_ecgs / "ptb-xl/records500/00000/00001_hr")
    slow = read(real_ecgs / "ptb-xl/records100/00000/00001_lr")
    assert rr_interval_ms(fast) == pytest.approx(942, abs=12)
    assert np.isnan(rr_interval_ms(slow))
    del fast[LEADS.index("II")]
    assert np.isnan(rr_interval_ms(fast))


def test_rr_interval_is_that_of_neurokit2_s_whole_pipeline(real_ecgs: Path) -> None:
    for number in range(1, 500, 12):
        folder = real_ecgs / f"ptb-xl/records500/{number // 1000:05d}"
        channels = read(folder / f"{number:05d}_hr")
        cleaned = neurokit2.ecg_clean(channels[1].millivolts()[:5000], sampling_rate=500)
        _, found = neurokit2.ecg_peaks(cleaned, sampling_rate=500)
        assert rr_interval_ms(channels) == np.median(np.diff(found["ECG_R_Peaks"])) * 2


@given(
    arrays(
        np.float64,
        st.integers(1, 50),
        elements=st.floats(-1e5, 1e5) | st.just(float("nan")),
    )
)
def test_quantising_is_off_by_half_a_step_at_most(x) -> None:
    digital, gain, baseline = quantise(x)
    missing = np.isnan(x)
    assert (digital[missing] == MISSING).all() and (digital[~missing] != MISSING).all()
    assert 0 < gain <= 1000
    error = np.abs((digital[~missing].astype(float) - baseline) / gain - x[~missing])
    assert (error <= 0.5 / gain * (1 + 1e-6)).all()
    assert abs(baseline) < 2**24


def test_formats_of_wfdb_s_own_samples(real_ecgs: Path) -> None:
    """Every sample record with a lead of ours gives wfdb's millivolts."""
    compared = 0
    for header in sorted((real_ecgs / "edge").rglob("*.hea")):
        path = header.with_suffix("")
        try:
            channels = read(path)
            canonical(channels)
        except Rejected:
            continue
        for lead, channel in channels.items():
            record = wfdb.rdrecord(str(path), smooth_frames=False)
            place = [name.strip().lower() for name in record.sig_name].index(LEADS[lead].lower())
            kept = record.e_p_signal[place][: len(channel.digital_T)]
            np.testing.assert_allclose(channel.millivolts(), kept, rtol=1e-9, atol=1e-12)
            assert channel.n_samples == len(record.e_p_signal[place])
            compared += 1
    assert compared > 60


def test_format_61_is_read(tmp_path: Path) -> None:
    """Format 61 is format 16 with its bytes swapped."""
    digital = some_signal()
    path = write_record(tmp_path, "a", digital)
    header, data = path.with_suffix(".hea"), path.with_suffix(".dat")
    header.write_text(header.read_text().replace(".dat 16 ", ".dat 61 "))
    data.write_bytes(np.frombuffer(data.read_bytes(), np.int16).byteswap().tobytes())
    np.testing.assert_array_equal(canonical(read(path)).signal_LT, digital.T)
