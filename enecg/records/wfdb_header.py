"""WFDB headers, strictly by their specification, header(5) of the WFDB Applications Guide.

https://physionet.org/physiotools/wag/header-5.htm. What is not clearly said there is refused: a
header that one reader takes for one thing and another for another must not turn into numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from enecg.records.channel import Rejected

LARGEST_FILE = 4 << 20
"""Bytes; a header of 20,000 segments stays below."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FILE = re.compile(r"~|[A-Za-z0-9_-]+(\.[A-Za-z0-9_]+)?")
_WHOLE = re.compile(r"-?[0-9]{1,15}")
_COUNT = re.compile(r"[0-9]{1,15}")
_RATE = re.compile(
    r"(?P<rate>[0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})"
    r"(/-?[0-9.]{1,20}(\(-?[0-9.]{1,20}\))?)?"  # counter frequency and base counter: not used
)
_FORMAT = re.compile(
    r"(?P<format>[0-9]{1,3})(x(?P<per_frame>[0-9]{1,5}))?"
    r"(:(?P<skew>[0-9]{1,9}))?(\+(?P<offset>[0-9]{1,15}))?"
)
_GAIN = re.compile(
    r"(?P<gain>-?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})(e[+-]?[0-9]{1,3})?)"
    r"(\((?P<baseline>-?[0-9]{1,15})\))?(/(?P<unit>\S*))?"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Signal:
    """One signal line.

    Attributes
    ----------
    file : str
        The file that holds it, beside the header; ``~`` in the layout of a multi-segment record.
    format : str
        How samples are written.
    per_frame : int
        Samples per frame.
    skew : int
        Frames by which it lags.
    offset : int
        Bytes before the first sample of the file.
    gain : float
        Digital steps per `unit`; 200 where the header says nothing or 0.
    baseline : int
        The digital value of 0; the ADC's zero where the header does not say.
    unit : str
        Physical unit; mV where the header does not say.
    checksum : int or None
        Sum of the samples modulo 65536, of either sign.
    name : str
        What is recorded; empty where the header does not say.
    """

    file: str
    format: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    checksum: int | None
    name: str


@dataclass(frozen=True)
class Header:
    """A header.

    Attributes
    ----------
    name : str
        The record's name.
    rate_hz : float
        Frames per second; 250 where the header does not say.
    n_frames : int or None
        Length; None where the header does not say, or says 0.
    signals : tuple of Signal
        Empty for a multi-segment record.
    segments : tuple of (str, int)
        Names and lengths, in frames, of a multi-segment record; else empty. ``~`` is a gap; one
        of length 0 is a layout.
    comments : tuple of str
        Without ``#`` and surrounding blanks.
    """

    name: str
    rate_hz: float
    n_frames: int | None
    signals: tuple[Signal, ...]
    segments: tuple[tuple[str, int], ...]
    comments: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The signal files, each once, in order."""
        return tuple(dict.fromkeys(signal.file for signal in self.signals))


def parse_header(data: bytes) -> Header:
    """Read a header.

    Parameters
    ----------
    data : bytes
        The file's content: ASCII, apart from units, names and comments, which may be UTF-8 or
        Latin-1.

    Raises
    ------
    Rejected
        Not a header, or not clearly one; the detail says where and what.
    """
    if len(data) > LARGEST_FILE:
        raise _refusal(f"{len(data)} bytes, too many for a header")
    lines, comments = _lines(data)
    if not lines:
        raise _refusal("the header is empty")
    fields = lines[0].split()
    name, slash, segments = fields[0].partition("/")
    if not _NAME.fullmatch(name):
        raise Rejected("unreadable header", _about_name(name))
    n_signals = _count(fields[1] if len(fields) > 1 else "", "the number of signals")
    rate = _RATE.fullmatch(fields[2]) if len(fields) > 2 else None
    if len(fields) > 2 and not rate:
        raise _refusal(f"sampling rate {fields[2]!r} is no number")
    # Time and date may follow; they are written in many ways, and nothing here needs them.
    n_frames = _count(fields[3], "the number of samples") if len(fields) > 3 else 0
    rest = lines[1:]
    expected = _count(segments, "the number of segments") if slash else n_signals
    if len(rest) != expected:
        what = "segments" if slash else "signals"
        raise _refusal(f"{len(rest)} lines of {what}, the first line says {expected}")
    return Header(
        name,
        float(rate["rate"]) if rate else 250.0,
        n_frames or None,
        () if slash else tuple(_signal(line, number) for number, line in enumerate(rest, 1)),
        tuple(_segment(line) for line in rest) if slash else (),
        comments,
    )


def _refusal(detail: str) -> Rejected:
    return Rejected("unreadable header", detail)


def _about_name(name: str) -> str:
    said = f"record name {name[:60]!r}; allowed are letters, digits, - and _"
    if name.endswith(".mat"):
        # https://physionetchallenges.org/2020: the first release wrote Georgia's headers so.
        said += (
            " (the first release of the 2020 Challenge has such names, and gains of 4880/mV where "
            "1000/mV is right: take a later one)"
        )
    return said


def _lines(data: bytes) -> tuple[list[str], tuple[str, ...]]:
    """Return the lines that are not empty: those with content, and the comments."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines, comments = [], []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        line = line.strip()
        if line.startswith("#"):
            comments.append(line.strip("# \t"))
        elif line:
            if _CONTROL.search(line):
                raise _refusal("not text")
            lines.append(line)
    return lines, tuple(comments)


def _count(text: str, what: str) -> int:
    if not _COUNT.fullmatch(text):
        raise _refusal(f"{what} is {text[:40]!r}, not a whole number")
    return int(text)


def _segment(line: str) -> tuple[str, int]:
    fields = line.split()
    if len(fields) != 2 or not (_NAME.fullmatch(fields[0]) or fields[0] == "~"):
        raise _refusal(f"segment {line[:80]!r} is not a name and a length")
    return fields[0], _count(fields[1], f"the length of segment {fields[0]}")


def _signal(line: str, number: int) -> Signal:
    fields = line.split(maxsplit=8)
    where = f"signal {number}"
    if not _FILE.fullmatch(fields[0]):
        raise _refusal(f"{where}: {fields[0][:80]!r} is not the name of a file beside the header")
    written = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    if not written or (written["per_frame"] and not int(written["per_frame"])):
        raise _refusal(f"{where}: format {' '.join(fields[1:2])[:40]!r}")
    gain = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else None
    if len(fields) > 2 and not gain:
        raise _refusal(f"{where}: gain {fields[2][:60]!r} is not of the form 1000(0)/mV")
    # ADC resolution, ADC zero, initial value, checksum, block size: any of them may be left out
    # from the right.
    numbers = fields[3:8]
    for text in numbers:
        if not _WHOLE.fullmatch(text):
            raise _refusal(f"{where}: {text[:40]!r} where a whole number belongs")
    steps = float(gain["gain"]) if gain else 0.0
    if not math.isfinite(steps):
        raise _refusal(f"{where}: gain {fields[2][:60]!r} is too large")
    baseline = gain["baseline"] if gain else None
    zero = int(numbers[1]) if len(numbers) > 1 else 0
    return Signal(
        file=fields[0],
        format=written["format"],
        per_frame=int(written["per_frame"] or 1),
        skew=int(written["skew"] or 0),
        offset=int(written["offset"] or 0),
        gain=steps or 200.0,
        baseline=zero if baseline is None else int(baseline),
        unit=(gain["unit"] if gain else None) or "mV",
        checksum=int(numbers[3]) if len(numbers) > 3 else None,
        name=fields[8].strip() if len(fields) > 8 else "",
    )
