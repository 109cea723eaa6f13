"""Reading one WFDB record, verified: what its header promises is what its files hold."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from enecg.records.channel import (
    FASTEST_HZ,
    HEAD_S,
    Channel,
    Leads,
    Rejected,
    check_plausible,
    head_length,
)
from enecg.records.leads import assign
from enecg.records.sixteen_bit import FORMATS, read_frames
from enecg.records.wfdb_header import LARGEST_FILE, Header, Signal, parse_header
from enecg.records.wfdb_slow import BYTES, NO_SAMPLE, read_signals
from enecg.signals import LEADS

# Units of a signal → how many of them make one millivolt. Both signs for micro are in use.
_PER_MILLIVOLT = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "μv": 1e3, "nv": 1e6, "v": 1e-3}


MOST_KEPT = 1 << 26
"""Samples of one record, over all signals, in the seconds that are kept: 256 MB at the most."""


def read_listed(corpus: Path, path: str, lead_names: Mapping[str, str] | None = None) -> Leads:
    """Read a record by its path in a corpus; see `read`."""
    check_inside(path)
    return read(corpus / path, corpus, lead_names)


def check_inside(path: str) -> None:
    """Reject a record whose table gives no path, or one that leads out of the corpus."""
    if not path:
        raise Rejected("unreadable", "the table of records names no file")
    if not is_inside(path):
        raise Rejected("outside of the corpus", f"{path[:200]!r} leads out of the input folder")


def is_inside(path: str) -> bool:
    """Whether a path that a table gives stays inside the folder that it starts from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


def files(path: str, fetch: Callable[[str], bytes]) -> list[str]:
    """Name the files that a record needs, so that they can be brought to where it is read.

    Parameters
    ----------
    path : str
        The record's header without ``.hea``, with ``/`` between folders.
    fetch : callable
        Returns a file's content; raises OSError where it is not there.

    Returns
    -------
    list of str
        The header first. Of a record that is broken, as many as can be known: reading it says
        what is wrong.
    """
    if not is_inside(path):
        return []
    folder = PurePosixPath(path).parent
    found: list[str] = []
    try:
        header = _fetched(path, fetch, found)
        for name in dict.fromkeys(name for name, _ in header.segments if name != "~"):
            _fetched(str(folder / name), fetch, found)
    except (Rejected, OSError):
        pass
    return [name for name in dict.fromkeys(found) if not name.endswith("~")]


def _fetched(path: str, fetch: Callable[[str], bytes], found: list[str]) -> Header:
    """Fetch a header; add its name, and those of its signal files, to ``found``."""
    name = f"{path}.hea"
    found.append(name)
    try:
        content = fetch(name)
    except OSError:
        name = f"{path}.HEA"
        content = fetch(name)
        found.append(name)
    header = parse_header(content)
    for file in header.files:
        place = str(PurePosixPath(path).parent / file)
        found += _spellings(place) if name.endswith(".HEA") else [place]
    return header


def _spellings(name: str) -> list[str]:
    """Return a file's name, and as it is where names or their endings went to upper case."""
    folder, slash, file = name.rpartition("/")
    stem, dot, ending = file.rpartition(".")
    return [name, f"{folder}{slash}{stem}{dot}{ending.upper()}", f"{folder}{slash}{file.upper()}"]


def _on_disk(file: Path) -> Path:
    """Return a file as it is spelled on the disk; see `_spellings`."""
    if os.path.lexists(file):
        return file
    others = (file.with_name(name) for name in _spellings(file.name))
    return next((other for other in others if os.path.lexists(other)), file)


def read(
    path: Path, corpus: Path | None = None, lead_names: Mapping[str, str] | None = None
) -> Leads:
    """Read and verify one WFDB record.

    Parameters
    ----------
    path : Path
        The record's header without ``.hea``.
    corpus : Path, optional
        Links may lead anywhere in this folder, else only to where the header really is.
    lead_names : mapping of str to str, optional
        Own names of leads; see `enecg.records.leads.read_lead_names`.

    Returns
    -------
    Leads
        The leads that are there, by their place in `enecg.signals.LEADS`, and the names of the
        signals that are none of them.

    Raises
    ------
    Rejected
        Unreadable, checksum or length not as in the header, unusable unit, gain or sampling rate.
    """
    header = _header(path, corpus)
    if header.segments:
        return _joined(path, header, corpus, lead_names)
    return _segment(path, header, corpus, lead_names)


def _header(path: Path, corpus: Path | None) -> Header:
    file = _on_disk(path.with_name(f"{path.name}.hea"))
    if _size(file, path, corpus) > LARGEST_FILE:
        raise Rejected("unreadable header", f"{file.name} is too large for a header")
    try:
        return parse_header(file.read_bytes())
    except OSError as error:
        raise Rejected("unreadable", f"{file.name}: {error.strerror}") from error


def _size(file: Path, path: Path, corpus: Path | None) -> int:
    """Return a file's size in bytes, if it is an ordinary one and lies where it may."""
    try:
        found = os.lstat(file)
        if stat.S_ISLNK(found.st_mode):
            target = Path(os.path.realpath(file, strict=True))
            header = Path(os.path.realpath(_on_disk(path.with_name(f"{path.name}.hea"))))
            home = {header.parent, header.parent if corpus is None else corpus.resolve()}
            if not any(target.is_relative_to(folder) for folder in home):
                raise Rejected("outside of the corpus", f"{file.name} is a link to elsewhere")
            found = os.stat(file)
    except OSError as error:  # not there; links in a loop; a folder that may not be read
        missing = isinstance(error, FileNotFoundError)
        detail = f"no file {file.name}" if missing else f"{file.name}: {error.strerror}"
        raise Rejected("unreadable", detail) from error
    if not stat.S_ISREG(found.st_mode):
        raise Rejected("unreadable", f"{file.name} is not a file")
    return found.st_size


def _segment(
    path: Path, header: Header, corpus: Path | None, lead_names: Mapping[str, str] | None
) -> Leads:
    """Read and verify a record of one segment."""
    _check_layout(header)
    if header.rate_hz > FASTEST_HZ:  # what is kept of each signal is so many seconds of it
        raise Rejected("unusable sampling rate", f"{header.rate_hz:g} Hz")
    sizes = {name: _size(_on_disk(path.with_name(name)), path, corpus) for name in header.files}
    n_frames = _checked_length(header, sizes)
    samples, sums = _read_files(path, header, n_frames)
    if header.n_frames is not None:  # else checksums mean nothing, by the specification
        _check_sums(header, sums)
    return _channels(header, samples, n_frames, lead_names)


def _check_layout(header: Header) -> None:
    """Refuse what readers would take for different things."""
    if not header.signals:
        raise Rejected("unreadable", "the header lists no signals")
    place = {name: number for number, name in enumerate(header.files)}
    order = [place[signal.file] for signal in header.signals]
    if order != sorted(order):
        raise Rejected("unreadable header", "the signals of a file do not stand together")
    for name in header.files:
        if name == "~":
            raise Rejected("unreadable", "has no samples: the layout of a multi-segment record")
        forms = {(s.format, s.offset) for s in header.signals if s.file == name}
        if len(forms) > 1:
            raise Rejected("unreadable header", f"{name}: its signals differ in format or offset")


def _checked_length(header: Header, sizes: dict[str, int]) -> int:
    """Return the number of frames, after a look at what the files can hold."""
    n_frames = header.n_frames
    for name in header.files:
        signals = [signal for signal in header.signals if signal.file == name]
        width = sum(signal.per_frame for signal in signals) * BYTES.get(signals[0].format, 0)
        if n_frames is None:
            if not width:
                raise Rejected("unreadable header", "the number of samples is not stated")
            n_frames = max(0, int((sizes[name] - signals[0].offset) / width))
        needed = signals[0].offset + int(n_frames * width)
        if sizes[name] < needed:
            raise Rejected(
                "wrong length", f"{name}: {sizes[name]} bytes, the header asks for {needed}"
            )
    if not n_frames:
        raise Rejected("wrong length", "no samples")
    for signal in header.signals:
        if signal.skew >= n_frames:  # shifting it by so many frames leaves none of its samples
            raise Rejected(
                "unreadable header", f"{signal.name}: skew {signal.skew} of {n_frames} frames"
            )
    width = sum(signal.per_frame for signal in header.signals)
    if min(n_frames, head_length(header.rate_hz)) * width > MOST_KEPT:
        raise Rejected("too long", f"{width} samples per frame")
    return n_frames


def _read_files(
    path: Path, header: Header, n_frames: int
) -> tuple[list[npt.NDArray[np.integer]], list[int]]:
    """Return the beginning of each signal, and the sum of all of its samples modulo 65536."""
    samples: dict[int, npt.NDArray[np.integer]] = {}
    sums: dict[int, int] = {}
    slow: list[int] = []
    for name in header.files:
        places = [place for place, signal in enumerate(header.signals) if signal.file == name]
        signals = [header.signals[place] for place in places]
        if signals[0].format in FORMATS and not any(signal.skew for signal in signals):
            read = _fast(
                _on_disk(path.with_name(name)), signals, n_frames, head_length(header.rate_hz)
            )
            for place, (digital_T, total) in zip(places, read, strict=True):
                samples[place], sums[place] = digital_T, total
        else:
            slow += places
    if slow:
        with _as_wfdb_looks_for_it(path, header) as spelled:
            digital, totals = read_signals(spelled, header, n_frames, slow)
        samples |= zip(slow, digital, strict=True)
        sums |= zip(slow, totals, strict=True)
    order = range(len(header.signals))
    return [samples[place] for place in order], [sums[place] for place in order]


@contextmanager
def _as_wfdb_looks_for_it(path: Path, header: Header) -> Iterator[Path]:
    """Give a record whose files have the names that the wfdb package opens: in the right case."""
    names = [f"{path.name}.hea", *header.files]
    spelled = {name: _on_disk(path.with_name(name)) for name in names}
    if all(file.name == name for name, file in spelled.items()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="enecg-case-") as folder:
        for name, file in spelled.items():
            os.symlink(file.absolute(), Path(folder) / name)
        yield Path(folder) / path.name


def _fast(
    file: Path, signals: list[Signal], n_frames: int, keep: int
) -> Iterator[tuple[npt.NDArray[np.integer], int]]:
    width = sum(signal.per_frame for signal in signals)
    head, totals = read_frames(file, signals[0].format, signals[0].offset, n_frames, width, keep)
    start = 0
    for signal in signals:
        end = start + signal.per_frame
        yield (
            head[start] if signal.per_frame == 1 else head[start:end].T.ravel(),
            int(totals[start:end].sum()),
        )
        start = end


def _check_sums(header: Header, sums: list[int]) -> None:
    for signal, total in zip(header.signals, sums, strict=True):
        # The checksum is 16 bits wide; writers differ in whether they show it as signed.
        if signal.checksum is not None and (total - signal.checksum) % 65536:
            raise Rejected(
                "checksum mismatch",
                f"{signal.name}: {total % 65536}, the header says {signal.checksum % 65536}",
            )


def _channels(
    header: Header,
    samples: list[npt.NDArray[np.integer]],
    n_frames: int,
    lead_names: Mapping[str, str] | None,
) -> Leads:
    """Return the ECG leads of a segment, by name."""
    found: dict[int, Channel] = {}
    name_of: dict[int, str] = {}
    leads, left_out = assign((signal.name for signal in header.signals), lead_names)
    for place, (signal, digital_T) in enumerate(zip(header.signals, samples, strict=True)):
        if place not in leads:
            continue
        lead, inverted, _ = leads[place]
        if lead in found:
            raise Rejected(
                "ambiguous leads",
                f"two signals are {LEADS[lead]}: {name_of[lead][:60]!r} and {signal.name[:60]!r}",
            )
        name_of[lead] = signal.name
        rate = header.rate_hz * signal.per_frame
        # Turned over by the gain's sign: the samples stay as they are, bit for bit.
        gain = signal.gain * _per_millivolt(signal) * (-1 if inverted else 1)
        check_plausible(signal.name, rate, gain)
        nothing = NO_SAMPLE.get(signal.format, 1 << 62)
        missing_T = digital_T == nothing
        found[lead] = Channel(
            digital_T, missing_T, gain, signal.baseline, rate, n_frames * signal.per_frame, inverted
        )
    return Leads(found, left_out)


def _per_millivolt(signal: Signal) -> float:
    known = _PER_MILLIVOLT.get(signal.unit.lower())
    if known is None:
        raise Rejected(
            "unknown unit", f"{signal.name}: {signal.unit[:40]!r}; known: mV, µV, uV, nV, V"
        )
    return known


def _joined(
    path: Path, header: Header, corpus: Path | None, lead_names: Mapping[str, str] | None
) -> Leads:
    """Verify the segments of a multi-segment record and put each lead's pieces in a row."""
    pieces: dict[int, list[tuple[int, Channel]]] = {}
    left_out: list[str] = []
    start, verified = 0, set[tuple[str, int]]()
    for name, length in header.segments:
        if (name, length) in verified and start >= HEAD_S * header.rate_hz:
            pass  # a segment may stand there again and again; nothing more is needed of it
        elif name != "~" and length:  # length 0: the layout of a variable-layout record
            segment = _header(path.with_name(name), corpus)
            if segment.segments:
                raise Rejected("unreadable header", f"segment {name} has segments itself")
            if (segment.n_frames, segment.rate_hz) != (length, header.rate_hz):
                raise Rejected(
                    "wrong length",
                    f"segment {name}: {segment.n_frames} samples at {segment.rate_hz:g} Hz, the "
                    f"record's header says {length} at {header.rate_hz:g} Hz",
                )
            channels = _segment(path.with_name(name), segment, corpus, lead_names)
            left_out += channels.left_out
            for lead, channel in channels.items():
                if start < HEAD_S * header.rate_hz or lead not in pieces:
                    pieces.setdefault(lead, []).append((start, channel))
            verified.add((name, length))
        start += length
    if header.n_frames is not None and start != header.n_frames:
        raise Rejected(
            "wrong length", f"segments hold {start} samples, the header says {header.n_frames}"
        )
    whole = {
        lead: _in_a_row(LEADS[lead], found, start, header.rate_hz) for lead, found in pieces.items()
    }
    return Leads(whole, left_out)


def _in_a_row(
    name: str, pieces: list[tuple[int, Channel]], frames: int, frame_rate: float
) -> Channel:
    """Join one lead's pieces, each with its first frame; what no piece covers is missing."""
    first = pieces[0][1]
    per_frame = round(first.rate_hz / frame_rate)
    n_samples = frames * per_frame
    kept = min(n_samples, head_length(first.rate_hz))
    digital_T = np.zeros(kept, dtype=np.int64)
    missing_T = np.ones(kept, dtype=bool)
    for start, piece in pieces:
        begin = start * per_frame
        if begin >= kept:  # a lead that comes later only
            continue
        if (piece.rate_hz, piece.gain, piece.baseline) != (
            first.rate_hz, first.gain, first.baseline,
        ):  # fmt: skip
            raise Rejected(
                "unreadable", f"{name}: segments differ in gain, baseline or sampling rate"
            )
        end = min(kept, begin + len(piece.digital_T))
        digital_T[begin:end] = piece.digital_T[: end - begin]
        missing_T[begin:end] = piece.missing_T[: end - begin]
    return Channel(
        digital_T, missing_T, first.gain, first.baseline, first.rate_hz, n_samples, first.inverted
    )
