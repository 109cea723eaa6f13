"""WFDB headers, strictly by their specification, header(5) of the WFDB Applications Guide.

https://physionet.org/physiotools/wag/header-5.htm. What is not clearly said there is refused: a
header that one reader takes for one thing and another for another must not turn into numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from enecg.records.channel import Rejected

LARGEST_FILE = 4 << 20
"""Bytes; a header of 20,000 segments stays below."""
MOST_SIGNALS = 1000
"""Polysomnography has some 60; each costs time, and the header alone would allow 600,000."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_FILE = re.compile(r"~|[A-Za-z0-9_-]+(\.[A-Za-z0-9_]+)?")
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
# ADC resolution, ADC zero, initial value, checksum, block size, description: all but the last whole
# numbers, and any of them may be left out from the right.
_REST = re.compile(
    r"[0-9]{1,15}(\s+(?P<zero>-?[0-9]{1,15})(\s+-?[0-9]{1,15}(\s+(?P<checksum>-?[0-9]{1,15})"
    r"(\s+[0-9]{1,15}(\s+(?P<name>\S[^\t]*))?)?)?)?)?"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Signal(NamedTuple):
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
    if n_signals > MOST_SIGNALS:
        raise _refusal(f"{n_signals} signals; at most {MOST_SIGNALS} are read")
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
    fields = line.split(maxsplit=3)
    where = f"signal {number}"
    if not _FILE.fullmatch(fields[0]):
        raise _refusal(f"{where}: {fields[0][:80]!r} is not the name of a file beside the header")
    written = _format(fields[1]) if len(fields) > 1 else None
    if not written:
        raise _refusal(f"{where}: format {' '.join(fields[1:2])[:40]!r}")
    gain = _gain(fields[2] if len(fields) > 2 else "0")
    if not gain:
        raise _refusal(f"{where}: gain {fields[2][:60]!r} is not of the form 1000(0)/mV")
    rest = _REST.fullmatch(fields[3]) if len(fields) > 3 else None
    if len(fields) > 3 and not rest:
        raise _refusal(f"{where}: {fields[3][:60]!r} where five whole numbers and a name belong")
    zero, checksum, name = rest.group("zero", "checksum", "name") if rest else (None, None, None)
    steps, baseline, unit = gain
    return Signal(
        fields[0],
        *written,
        steps,
        int(zero or 0) if baseline is None else baseline,
        unit,
        None if checksum is None else int(checksum),
        name or "",
    )


@lru_cache(maxsize=1024)
def _format(text: str) -> tuple[str, int, int, int] | None:
    """Return format, samples per frame, skew and byte offset."""
    said = _FORMAT.fullmatch(text)
    if not said or not int(said["per_frame"] or 1):
        return None
    per_frame, skew, offset = said.group("per_frame", "skew", "offset")
    return said["format"], int(per_frame or 1), int(skew or 0), int(offset or 0)


@lru_cache(maxsize=1024)
def _gain(text: str) -> tuple[float, int | None, str] | None:
    """Return gain (200 for 0), baseline and unit."""
    said = _GAIN.fullmatch(text)
    if not said or not math.isfinite(float(said["gain"])):
        return None
    baseline = said["baseline"]
    return (
        float(said["gain"]) or 200.0,
        None if baseline is None else int(baseline),
        said["unit"] or "mV",
    )
