"""Damaged and hostile records: rejected, or read as an independent reader reads them."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enecg.records.canonical import canonical
from enecg.records.channel import Channel, Rejected
from enecg.records.wfdb_header import parse_header
from enecg.records.wfdb_record import read, read_listed
from enecg.signals import LEADS, lead_position
from records_helpers import some_signal, write_record

SEEDS = (
    "ptb-xl/records500/00000/00001_hr", "challenge-2021/ptb/S0001",
    "edge/multiseg_041s/041s01", "edge/wfdb_samples/3000003_0003",
    "edge/wfdb_samples/100_3chan", "edge/wfdb_samples/mixedsignals",
)  # fmt: skip
ABSURD = (
    "1000000000000",
    "-1",
    "0",
    "nan",
    "inf",
    "1e308",
    "9" * 400,
    "",
    "½",
    "\x00",
    "0x10",
    "1_0",
)


def attempt(path: Path) -> dict[int, Channel] | None:
    """Read and bring into the store's form; None where rejected. Anything else is a crash."""
    try:
        channels = read(path)
        record = canonical(channels)
    except Rejected:
        return None
    assert np.isfinite(record.gain_L).all() and (record.gain_L != 0).all()
    return channels


def check_against_wfdb(path: Path, channels: dict[int, Channel]) -> None:
    """What was accepted is what wfdb reads from the same bytes."""
    theirs = wfdb.rdrecord(os.fspath(path), physical=False, smooth_frames=False)
    # Names are ours: wfdb drops what is not ASCII, and would take IÉ for I.
    header = parse_header(path.with_name(f"{path.name}.hea").read_bytes())
    for place, signal in enumerate(header.signals):
        lead = lead_position(signal.name)
        if lead is not None:
            mine = channels.pop(lead)
            kept = theirs.e_d_signal[place][: len(mine.digital_T)]
            np.testing.assert_array_equal(mine.digital_T, kept)
            assert mine.baseline == theirs.baseline[place]
            per_mv = {"mv": 1, "uv": 1e3, "nv": 1e6, "v": 1e-3}[theirs.units[place].lower()]
            assert mine.gain == pytest.approx(theirs.adc_gain[place] * per_mv, rel=1e-12)
            assert mine.rate_hz == theirs.fs * theirs.samps_per_frame[place]
    assert not channels


def copied(real_ecgs: Path, seed: str, folder: Path) -> Path:
    """Copy a record, its signals cut to a length that is quick to mutate."""
    source = real_ecgs / seed
    for file in source.parent.iterdir():
        if file.name.split(".")[0].startswith(source.name.split("_")[0]):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder / source.name


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.integers(6)
    at = int(rng.integers(len(data))) if data else 0
    changed = bytearray(data)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return b"" if rng.random() < 0.2 else data[at:]
    if kind == 2 and data:
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        changed[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 4:
        tokens = data.split(b" ")
        tokens[int(rng.integers(len(tokens)))] = ABSURD[int(rng.integers(len(ABSURD)))].encode()
        return b" ".join(tokens)
    else:
        lines = data.split(b"\n")
        lines.insert(int(rng.integers(len(lines))), lines[int(rng.integers(len(lines)))])
        return b"\n".join(lines)
    return bytes(changed)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_records(real_ecgs: Path, tmp_path: Path, seed: str) -> None:
    path = copied(real_ecgs, seed, tmp_path)
    header = path.with_name(f"{path.name}.hea")
    good = header.read_bytes()
    data = next(file for file in sorted(tmp_path.iterdir()) if file.suffix in (".dat", ".mat"))
    good_data = data.read_bytes()
    rng = np.random.default_rng(SEEDS.index(seed))
    accepted = 0
    tracemalloc.start()
    for turn in range(120):
        if turn % 4 == 3:
            data.write_bytes(mutated(good_data, rng))
        else:
            header.write_bytes(mutated(good, rng))
        channels = attempt(path)
        if channels is not None:
            accepted += 1
            check_against_wfdb(path, channels)
        header.write_bytes(good)
        data.write_bytes(good_data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert attempt(path) is not None
    assert accepted < 120


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_record(tmp_path_factory.mktemp("small"), "a", some_signal(600, 3), LEADS[:3])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    field=st.integers(0, 40),
    value=st.sampled_from(ABSURD) | st.text(max_size=12) | st.integers().map(str),
)
def test_any_field_of_a_header_may_be_anything(small: Path, field: int, value: str) -> None:
    header = small.with_name("a.hea")
    good = header.read_bytes()
    try:
        tokens = good.decode().split(" ")
        tokens[field % len(tokens)] = value
        header.write_bytes(" ".join(tokens).encode("utf-8", "surrogatepass"))
        channels = attempt(small)
        if channels is not None:
            check_against_wfdb(small, channels)
    finally:
        header.write_bytes(good)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400))
def test_any_bytes_for_a_header(small: Path, content: bytes) -> None:
    header = small.with_name("a.hea")
    good = header.read_bytes()
    try:
        header.write_bytes(content)
        attempt(small)
    finally:
        header.write_bytes(good)


@pytest.mark.parametrize("name", ["../x.dat", "/etc/passwd", "..", "a/../../x.dat", "~root", "%2e"])
def test_a_signal_path_may_not_climb_out(tmp_path: Path, name: str) -> None:
    path = write_record(tmp_path / "in", "a", some_signal())
    (tmp_path / "x.dat").write_bytes(path.with_name("a.dat").read_bytes())
    header = path.with_name("a.hea")
    header.write_text(header.read_text().replace("a.dat", name))
    with pytest.raises(Rejected) as caught:
        read_listed(tmp_path / "in", "a")
    assert caught.value.reason == "unreadable header"
    for listed in ("../in/a", str(path), "b/../../in/a"):
        with pytest.raises(Rejected, match="outside of the corpus"):
            read_listed(tmp_path / "in", listed)


def test_links(tmp_path: Path) -> None:
    """A link may lead elsewhere in the corpus, or be beside its header; not out, not in a ring."""
    corpus = tmp_path / "in"
    path = write_record(corpus, "a", some_signal())
    data = path.with_name("a.dat")
    (corpus / "deep").mkdir()
    data.rename(corpus / "deep" / "moved")
    data.symlink_to(corpus / "deep" / "moved")
    assert len(read_listed(corpus, "a")) == 12
    data.unlink()
    (corpus / "deep" / "moved").rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(Rejected, match="outside of the corpus"):
        read_listed(corpus, "a")
    data.unlink()
    data.symlink_to(data)  # a ring
    with pytest.raises(Rejected, match="unreadable"):
        read_listed(corpus, "a")
    data.unlink()
    data.mkdir()
    with pytest.raises(Rejected, match="not a file"):
        read_listed(corpus, "a")
    data.rmdir()
    os.mkfifo(data)  # reading it would wait for ever
    with pytest.raises(Rejected, match="not a file"):
        read_listed(corpus, "a")


def test_absurd_sizes_allocate_nothing(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal())
    header = path.with_name("a.hea")
    good = header.read_text()
    tracemalloc.start()
    for form in (
        "16",
        "212",
        "8",
        "80",
        "24",
        "32",
        "310",
        "508",
        "524",
        "16x60000",
        "16+10000000",
    ):
        for length in ("5000", "1000000000000"):
            text = good.replace(".dat 16 ", f".dat {form} ").replace("500 5000", f"500 {length}")
            if (form, length) != ("16", "5000"):
                header.write_text(text)
                assert attempt(path) is None
    header.write_text("a/1000000000000 12 500 5000\na 5000\n")
    assert attempt(path) is None
    header.write_text("a/2 12 500 1000000000000\n~ 999999999999\na 1\n")
    assert attempt(path) is None
    header.write_text("a/1 12 500 5000\na 5000\n")  # a segment of itself
    assert attempt(path) is None
    header.write_bytes(b"a 12 500 5000\n" + b"#" * (5 << 20))
    assert attempt(path) is None
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
