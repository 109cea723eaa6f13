"""Every field of a WFDB header with every hurtful value: read rightly, or rejected with a reason.

In a child whose memory is limited, with a limit of time for each case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enecg.records.canonical import canonical
from enecg.records.channel import LARGEST_MILLIVOLTS, Channel, Rejected, check_amplitude
from enecg.records.wfdb_header import parse_header
from enecg.records.wfdb_record import read, read_listed
from enecg.signals import LEADS
from records_helpers import some_signal, write_record
from test_config_fuzz import bounded

FIELDS = (
    "{name} {signals} {rate} {length}",
    "{file} {form}x{per_frame}:{skew}+{offset} {gain}({baseline})/{unit} {resolution} {zero} "
    "{first} {sum} {block} {lead}",
)
HURTFUL = (
    "0", "1", "2", "-1", "11", "500", "5000", "65536", "999999999", "2147483648", "10000000000",
    "1000000000000000", "1" + "0" * 30,
    "9" * 5000, "1e-300", "1e300", "1e400", "1e-6", "0.5",
    "nan", "inf", "-inf", "", "x", "½", "\x00", "..", "../a.dat", "/etc/passwd", "/dev/zero",
    "a.hea",
    "~", "12345", "mV", "V", "pV", "II",
)  # fmt: skip


def headers(path: Path) -> Iterator[tuple[str, str]]:
    """Headers of three signals in which one field, or two, are hurtful."""
    header = parse_header(path.with_name("a.hea").read_bytes())
    assert header.n_frames is not None
    record = {"name": "a", "signals": "3", "rate": "500", "length": str(header.n_frames)}
    signals = [
        {"file": "a.dat", "form": "16", "per_frame": "1", "skew": "0", "offset": "0",
         "gain": f"{signal.gain:g}", "baseline": str(signal.baseline), "unit": "mV",
         "resolution": "16", "zero": "0", "first": "0", "sum": str(signal.checksum), "block": "0",
         "lead": signal.name}
        for signal in header.signals
    ]  # fmt: skip

    def written(**changes: str) -> str:
        lines = [FIELDS[0].format(**record | {k: v for k, v in changes.items() if k in record})]
        for number, signal in enumerate(signals):
            own = {k: v for k, v in changes.items() if k in signal}
            lines.append(FIELDS[1].format(**signal | (own if number == 0 or "form" in own else {})))
        return "\n".join(lines) + "\n"

    yield "as it was", written()
    for field in (*record, *signals[0]):
        for value in HURTFUL:
            yield f"{field}={value[:40]}", written(**{field: value})
            for form in (
                "8",
                "24",
                "32",
                "61",
                "80",
                "160",
                "212",
                "310",
                "311",
                "508",
                "516",
                "524",
            ):
                if field in ("skew", "offset", "per_frame", "length", "baseline", "gain"):
                    yield f"{form} {field}={value[:40]}", written(form=form, **{field: value})
    for form in (*map(str, range(30)), "999", "1000", "16x", "x16", "-16", "16:16:16", "16++"):
        yield f"form={form}", written(form=form)


def verdict(path: Path) -> None:
    """Read a record as conversion does; anything but a record or a reason is a fault."""
    try:
        record = canonical(read_listed(path.parent, path.name))
    except Rejected as rejected:
        if not 0 < len(rejected.reason) < 40 or len(rejected.detail) > 500:
            raise AssertionError(rejected) from None
        return
    kept = record.signal_LT.astype(float) - record.baseline_L[:, None]
    assert np.isfinite(record.gain_L).all()
    assert (np.abs(kept / record.gain_L[:, None])[record.signal_LT > -32768] <= 1100).all()


def test_every_field_of_a_header(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal(3000, 3), LEADS[:3])
    todo = list(headers(path))

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        for name, text in todo:
            path.with_name("a.hea").write_text(text)
            yield name, lambda: verdict(path)

    assert bounded(cases) > 1500
    path.with_name("a.hea").write_text(todo[0][1])
    assert len(read(path)) == 3, "as it was, it is a record"


def test_headers_as_large_as_they_come(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal(3000, 3), LEADS[:3])
    header = path.with_name("a.hea")
    write_record(tmp_path, "piece", some_signal(50, 1), LEADS[:1])
    contents = {
        "100 MB": b"a 3 500 3000\n" + b"#" * 100_000_000,
        "many signals": b"a 500000 500 3000\n" + b"a 16\n" * 500_000,
        "many files": b"a 200000 500 3000\n" + b"".join(b"f%d 16\n" % i for i in range(200_000)),
        "segments of itself": b"a/300000 3 500 9000\n" + b"a 3000\n" * 300_000,
        "a segment again and again": b"a/300000 1 500 15000000\n" + b"piece 50\n" * 300_000,
        "gaps": b"a/500000 3 500 9000\n" + b"~ 999999999\n" * 300_000,
        "one line": b"a 3 500 3000 " + b"x" * 3_000_000,
        "comments": b"#\n" * 2_000_000,
        "digits": b"9" * 4_000_000,
        "blanks": b"a" + b" " * 4_000_000 + b"3",
    }

    def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
        for name, content in contents.items():
            header.write_bytes(content)
            yield name, lambda: verdict(path)

    assert bounded(cases) == len(contents)


@pytest.mark.parametrize("skew", [2999, 3000, 999999999])
def test_a_skew_beyond_the_record_is_rejected_before_it_takes_memory(
    skew: int, tmp_path: Path
) -> None:
    path = write_record(tmp_path, "a", some_signal(3000, 3), LEADS[:3])
    header = path.with_name("a.hea")
    header.write_text(header.read_text().replace(" 16 ", f" 16:{skew} ", 1))
    if skew < 3000:
        assert int(read(path)[0].digital_T.size) > 0
        return
    with pytest.raises(Rejected, match="skew"):
        read(path)


def channel(millivolts: list[float], **changes: Any) -> Channel:
    values = {"gain": 1.0, "baseline": 0, "rate_hz": 500.0, "n_samples": len(millivolts)} | changes
    missing_T = np.zeros(len(millivolts), dtype=bool)
    missing_T[3:] = True
    return Channel(np.array(millivolts), missing_T, **values)


def test_what_an_electrode_can_deliver_passes_and_nothing_beyond() -> None:
    for most in (0.5, 16.126, 33.0, 300.0, LARGEST_MILLIVOLTS):
        check_amplitude("II", channel([0.0, most, -most]))
    check_amplitude("II", channel([0.0, 1.0, -1.0, 1e9]))  # the last one is missing
    for most in (1001.0, 1e8, np.inf, np.nan):
        for values in ([0.0, most, 0.0], [-most, 0.0, 0.0]):
            with pytest.raises(Rejected, match="implausible amplitude"):
                check_amplitude("II", channel(values))
    check_amplitude("II", channel([0.0, 300_000.0, 0.0], gain=-1000.0))
    with pytest.raises(Rejected, match=r"1e\+15 mV"):
        check_amplitude("II", channel([0.0, 1.0, 2.0], baseline=10**15))


def test_the_amplitude_is_judged_of_every_source(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", some_signal(3000, 3), LEADS[:3])
    header = path.with_name("a.hea")
    lines = header.read_text().splitlines()
    fields = lines[1].split()
    fields[2] = "0.00001(0)/mV"
    lines[1] = " ".join(fields)
    header.write_text("\n".join(lines) + "\n")
    with pytest.raises(Rejected) as caught:
        canonical(read(path))
    assert caught.value.reason == "implausible amplitude"
