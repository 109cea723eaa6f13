"""Our own reading of 16-bit records is wfdb's, bit for bit, on every record that takes it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from enecg.records import wfdb_record
from enecg.records.canonical import canonical
from enecg.records.channel import Rejected
from enecg.records.sixteen_bit import FORMATS
from enecg.records.wfdb_header import parse_header
from enecg.records.wfdb_record import files, read
from enecg.signals import LEADS, MISSING, N_SAMPLES, lead_position
from records_helpers import some_signal, write_record

PLAIN = ("ptb-xl", "challenge-2021")


def takes_fast_path(header) -> bool:
    return bool(header.signals) and all(
        signal.format in FORMATS and not signal.skew for signal in header.signals
    )


def test_the_fast_path_is_wfdb_on_every_record_there_is(real_ecgs: Path) -> None:
    taken = dict.fromkeys(PLAIN, 0)
    bit_for_bit = dict.fromkeys(PLAIN, 0)
    for file in sorted(real_ecgs.rglob("*.hea")):
        path = file.with_suffix("")
        corpus = file.relative_to(real_ecgs).parts[0]
        try:
            header = parse_header(file.read_bytes())
        except Rejected:
            assert corpus == "edge"
            continue
        if not takes_fast_path(header):
            assert corpus not in PLAIN
            continue
        theirs = by_wfdb(path, header)
        assert theirs.sig_name == [signal.name for signal in header.signals]
        assert theirs.units == [signal.unit for signal in header.signals]
        assert theirs.adc_gain == [signal.gain for signal in header.signals]
        assert theirs.baseline == [signal.baseline for signal in header.signals]
        assert theirs.checksum == [signal.checksum for signal in header.signals]
        assert (theirs.fs, theirs.sig_len) == (header.rate_hz, header.n_frames)
        mine, sums = wfdb_record._read_files(path, header, header.n_frames)
        for signal, digital, samples, total in zip(
            header.signals, mine, theirs.e_d_signal, sums, strict=True
        ):
            np.testing.assert_array_equal(digital, samples[: len(digital)])
            assert (total - int(samples.sum(dtype=np.int64))) % 65536 == 0
            assert (total - signal.checksum) % 65536 == 0  # wfdb does not look
        if corpus in taken:
            taken[corpus] += 1
            bit_for_bit[corpus] += is_stored_bit_for_bit(path, theirs)
    assert taken == {"ptb-xl": 1000, "challenge-2021": 102}
    assert bit_for_bit["ptb-xl"] == 500
    # Those of 500 Hz; of longer ones the first 10 s.
    assert bit_for_bit["challenge-2021"] == 99


def by_wfdb(path: Path, header) -> wfdb.Record:
    # wfdb 4.3.1 cannot widen format 61 unless it smooths frames, here of one sample each.
    smooth = header.signals[0].format == "61"
    record = wfdb.rdrecord(os.fspath(path), physical=False, smooth_frames=smooth)
    if smooth:
        record.e_d_signal = list(record.d_signal.T)
    return record


def is_stored_bit_for_bit(path: Path, record: wfdb.Record) -> bool:
    if record.fs != 500:
        return False
    ours = canonical(read(path))
    order = [[lead_position(name) for name in record.sig_name].index(n) for n in range(12)]
    digital_LT = np.array(record.e_d_signal)[order, :N_SAMPLES]
    used = digital_LT.shape[1]
    np.testing.assert_array_equal(ours.signal_LT[:, :used], digital_LT)
    np.testing.assert_array_equal(ours.gain_L, np.array(record.adc_gain)[order])
    return True


@pytest.mark.parametrize("damage", ["short", "flipped"])
def test_both_ways_of_reading_find_the_same_damage(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(tmp_path, "a", some_signal())
    data = bytearray(path.with_suffix(".dat").read_bytes())
    if damage == "short":
        del data[-100:]
    else:
        data[50_000] ^= 4
    path.with_suffix(".dat").write_bytes(data)
    with pytest.raises(Rejected) as fast:
        read(path)
    monkeypatch.setattr(wfdb_record, "FORMATS", {})
    with pytest.raises(Rejected) as slow:
        read(path)
    assert (fast.value.reason, fast.value.detail) == (slow.value.reason, slow.value.detail)


def test_big_endian_several_files_and_several_samples_per_frame(tmp_path: Path) -> None:
    frames = some_signal(1000, 4)  # I has two samples per frame, II is big-endian in its own file
    (tmp_path / "a.dat").write_bytes(frames[:, :3].astype("<i2").tobytes())
    (tmp_path / "a.d1").write_bytes(b"xyz" + frames[:, 3].astype(">i2").tobytes())
    (tmp_path / "a.hea").write_text(
        "a 3 250 1000\na.dat 16x2 200/mV 16 0 0\na.dat 16 200/mV\na.d1 61+3 0/uV\n".replace(
            "200/mV 16 0 0", "200/mV 16 0 0 " + str(int(frames[:, :2].sum())) + " 0 I"
        )
        .replace("a.dat 16 200/mV", "a.dat 16 200/mV 16 0 0 " + str(frames[:, 2].sum()) + " 0 V1")
        .replace("0/uV", "0/uV 16 7 0 " + str(frames[:, 3].sum()) + " 0 II")
    )
    found = read(tmp_path / "a")
    np.testing.assert_array_equal(found[0].digital_T, frames[:, :2].ravel())
    np.testing.assert_array_equal(found[LEADS.index("V1")].digital_T, frames[:, 2])
    np.testing.assert_array_equal(found[1].digital_T, frames[:, 3])
    assert (found[0].rate_hz, found[1].rate_hz) == (500, 250)
    # Gain 0 is 200, the baseline is the ADC's zero where the header does not say.
    assert (found[1].gain, found[1].baseline) == (200_000, 7)


def test_a_day_of_12_leads_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    n_frames = 4_000_000
    with open(tmp_path / "a.dat", "wb") as data:
        data.truncate(n_frames * 24)
        data.write(some_signal().astype("<i2").tobytes())
    signals = [f"a.dat 16 1000/mV 16 0 0 {{}} 0 {name}" for name in LEADS]
    sums = some_signal().sum(axis=0)
    text = "\n".join(line.format(total) for line, total in zip(signals, sums, strict=True))
    (tmp_path / "a.hea").write_text(f"a 12 500 {n_frames}\n{text}\n")
    (tmp_path / "a.dat").open("r+b").write(some_signal().astype("<i2").tobytes())
    tracemalloc.start()
    found = read(tmp_path / "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].n_samples == n_frames and len(found[0].digital_T) == 5500
    assert peak < 40e6  # the file has 96 MB


def test_the_files_of_a_record(real_ecgs: Path) -> None:
    edge = real_ecgs / "edge"

    def needed(path: str) -> list[str]:
        return files(path, lambda name: (edge / name).read_bytes())

    assert needed("wfdb_samples/s0010_re") == [
        "wfdb_samples/s0010_re.hea", "wfdb_samples/s0010_re.dat", "wfdb_samples/s0010_re.xyz",
    ]  # fmt: skip
    assert needed("multiseg_041s/041s") == [
        f"multiseg_041s/041s{name}" for name in (".hea", "01.hea", "01.dat", "02.hea", "02.dat")
    ]
    assert needed("nothing/here") == ["nothing/here.hea"]
    assert needed("../x") == needed("/etc/x") == []


NAMES = st.text("abcdefgXYZ0123456789_-", min_size=1, max_size=12)
WHOLE = st.integers(-(10**9), 10**9)


@given(
    name=NAMES,
    rate=st.floats(0.1, 10_000).map(lambda x: round(x, 6)),
    length=st.integers(1, 10**12),
    file=NAMES,
    form=st.sampled_from(["16", "212", "80"]),
    per_frame=st.integers(1, 99),
    skew=st.integers(1, 99) | st.none(),
    offset=st.integers(1, 10**6) | st.none(),
    gain=st.floats(0.001, 1e6).map(lambda x: round(x, 9)),
    baseline=WHOLE | st.none(),
    unit=st.sampled_from(["mV", "uV", "mmHg", None]),
    numbers=st.lists(WHOLE, max_size=5).map(
        lambda found: [abs(n) if place in (0, 4) else n for place, n in enumerate(found)]
    ),
    lead=st.sampled_from(["I", "aVR", "sig 0, fmt 8", "V 1"]) | st.none(),
    tail=st.sampled_from(["", " 10:00:00", " 10:00:00.5 01/02/2003", " 04-Jun-2020 15:11:55"]),
    end=st.sampled_from(["\n", "\r\n"]),
    counter=st.sampled_from(["", "/360", "/360.5(10)"]),
)
def test_headers_round_trip(
    name, rate, length, file, form, per_frame, skew, offset, gain, baseline, unit, numbers, lead,
    tail, end, counter,
) -> None:  # fmt: skip
    line = f"{file}.dat {form}x{per_frame}"
    line += (f":{skew}" if skew else "") + (f"+{offset}" if offset else "")
    line += f" {gain:.9f}" + ("" if baseline is None else f"({baseline})")
    line += (f"/{unit}" if unit else "") + "".join(f" {number}" for number in numbers)
    named = lead is not None and len(numbers) == 5
    line += f" {lead}" if named else ""
    text = end.join(["# before", f"{name} 1 {rate:.6f}{counter} {length}{tail}", line, "# after "])
    header = parse_header(text.encode())
    (signal,) = header.signals
    assert (header.name, header.n_frames) == (name, length)
    assert header.rate_hz == pytest.approx(rate)
    assert header.comments == ("before", "after")
    assert signal[:5] == (f"{file}.dat", form, per_frame, skew or 0, offset or 0)
    assert signal.gain == pytest.approx(gain)
    zero = numbers[1] if len(numbers) > 1 else 0
    assert signal.baseline == (zero if baseline is None else baseline)
    assert signal.unit == (unit or "mV")
    assert signal.checksum == (numbers[3] if len(numbers) > 3 else None)
    assert signal.name == (lead if named else "")


def test_a_missing_sample_is_missing_in_every_kind_of_storage(tmp_path: Path) -> None:
    digital = some_signal()
    digital[7, 2] = MISSING
    kept = canonical(read(write_record(tmp_path, "a", digital)))
    assert kept.signal_LT[2, 7] == MISSING and (kept.signal_LT != MISSING).sum() == 59_999
