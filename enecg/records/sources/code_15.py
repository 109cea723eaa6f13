"""CODE-15 % as Zenodo publishes it (https://zenodo.org/records/4916206), and samples of it.

Tracings are floats of 400 Hz in the order I, II, III, aVR, aVL, aVF, V1–V6. Shorter recordings
have zeros added at both ends, up to 4,096 samples: these are taken off again. What the publishers
say on the unit ("1e-4V", "multiplied by 1000 to obtain V") contradicts itself; taken as
millivolts the ten recordings at hand have twice the amplitude of PTB-XL's, taken as 0.1 mV a
fifth. They are read as millivolts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from enecg.errors import UserError, one_line
from enecg.label_text import often, texts_of, with_counts
from enecg.records.channel import Channel, Rejected, check_plausible, head_length
from enecg.records.corpus import Corpus
from enecg.records.label_table import check_own_subjects, with_identifiers, without_repeats
from enecg.records.sources.listing import Listing, Source, listing_from, read_csv
from enecg.records.wfdb_record import check_inside, is_inside
from enecg.signals import LEADS
from enecg.storage import Place

TABLE, SAMPLE_TABLE = "exams.csv", "meta.csv"
RATE_HZ = 400.0
_CLASSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
_RHYTHMS = (("AF", "AFIB"), ("ST", "STACH"), ("SB", "SBRAD"), ("normal_ecg", "SR"))
_USED = ("exam_id", "age", "is_male", "patient_id", *_CLASSES)
_METADATA = ("nn_predicted_age", "death", "timey", "normal_ecg", "trace_file")
_LARGEST_MAT = 1 << 26


def list_records(corpus: Corpus, labels: Place | None) -> Listing:
    """List the exams of ``exams.csv``, or of a sample's ``meta.csv``.

    Parameters
    ----------
    corpus : Corpus
        Holds ``exams.csv`` and the ``exams_part*.hdf5`` that it names, on disk; or ``meta.csv``
        and a ``.mat`` file per exam. Exams of parts that are not there are rejected.
    labels : path or URI, or None
        Another table of the same form to use instead, such as the exams of some parts.

    Raises
    ------
    UserError
        No table, a column is missing, or HDF5 files in object storage.
    """
    sample = not corpus.exists(TABLE) and corpus.exists(SAMPLE_TABLE)
    place = labels or corpus.uri_of(SAMPLE_TABLE if sample else TABLE)
    file = "save_file" if sample else "trace_file"
    table = read_csv(place, (*_USED, file))
    table = with_identifiers(table, ("exam_id", "patient_id"), place)
    notes: list[str] = []
    if labels is not None:
        table, notes = without_repeats(table, ["exam_id"], place)
        own = SAMPLE_TABLE if sample else TABLE
        if corpus.exists(own):
            check_own_subjects(table, corpus, own, ("exam_id", "patient_id"), place)
    if corpus.remote and not sample:
        raise UserError(
            f"{corpus.uri}: CODE-15's files hold 20,000 exams each; copy them to a disk"
        )
    flags: dict[str, pd.Series] = {}
    for name in (*_CLASSES, "normal_ecg", "is_male"):
        if name in table:  # normal_ecg need not be
            flags[name], unreadable = _flag(table[name])
            if unreadable:
                notes.append(
                    f"{place}: {name}: not true or false: {with_counts(unreadable)}; missing"
                )
    rhythm = pd.Series([None] * len(table), dtype=object)
    for name, code in reversed(_RHYTHMS):
        if name in flags:
            rhythm = rhythm.mask(flags[name] == True, code)  # noqa: E712  (None is neither)
    rows = pd.DataFrame({name: flags[name] for name in _CLASSES}).to_dict("records")
    listed = pd.DataFrame(
        {
            "record_id": table["exam_id"],
            "subject_id": table["patient_id"],
            "path": table[file] if sample else table[file] + "/" + table["exam_id"],
            "age": table["age"],
            "gender": [
                None if male is None else ("male" if male else "female")
                for male in flags["is_male"]
            ],
            "report_label": rhythm,
            "diagnoses": [
                None if None in row.values() else [n for n in _CLASSES if row[n]] for row in rows
            ],
            **{name: table[name] for name in _METADATA if name in table},
        }
    )
    return listing_from(listed, place, notes)


def _flag(values: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Return True, False or None for each cell, and what is neither of them nor empty."""
    said = values.astype("string").str.lower()
    flags = pd.Series([None] * len(values), index=values.index, dtype=object)
    flags = flags.mask(said.isin(["true", "1", "1.0"]), True)
    flags = flags.mask(said.isin(["false", "0", "0.0"]), False)
    return flags, often(texts_of(values[flags.isna() & values.notna()]))


def read(corpus: Path, path: str) -> dict[int, Channel]:
    """Read one exam, by ``exams_part0.hdf5/<exam_id>`` or the name of its ``.mat`` file."""
    check_inside(path)
    file, _, exam = path.rpartition(".hdf5/")
    place = corpus / (f"{file}.hdf5" if exam and file else path)
    if not place.is_file():
        raise Rejected("unreadable", f"no file {place.name}")
    if not place.resolve().is_relative_to(corpus.resolve()):
        raise Rejected("outside of the corpus", f"{place.name} is a link to elsewhere")
    try:
        x_TL, rate = _tracing(place, int(exam)) if file else _sample(place)
    except Rejected:
        raise
    except Exception as error:  # h5py and scipy raise anything at all on a malformed file
        raise Rejected("unreadable", f"{place.name}: {one_line(error)}"[:500]) from error
    if x_TL.ndim != 2 or x_TL.shape[1] != len(LEADS) or not len(x_TL):
        raise Rejected("unreadable", f"{place.name}: a tracing of shape {x_TL.shape}")
    return channels_of(x_TL, rate)


def channels_of(x_TL: npt.NDArray[np.floating], rate_hz: float) -> dict[int, Channel]:
    """Return the leads of a tracing in mV, shape (T, 12), without the zeros at its ends."""
    check_plausible("tracing", rate_hz, 1.0)
    inside = np.flatnonzero((x_TL != 0).any(axis=1))
    if not len(inside):
        raise Rejected("no usable lead", "zero throughout")
    x_TL = x_TL[inside[0] : inside[-1] + 1]
    head_LT = np.ascontiguousarray(x_TL[: head_length(rate_hz)].T, dtype=np.float64)
    return {
        lead: Channel(x_T, ~np.isfinite(x_T), 1.0, 0, rate_hz, len(x_TL))
        for lead, x_T in enumerate(head_LT)
    }


def _tracing(file: Path, exam: int) -> tuple[npt.NDArray[Any], float]:
    import h5py  # only this source needs it

    found = os.stat(file)
    row = _rows(os.fspath(file), found.st_mtime_ns, found.st_size).get(exam)
    if row is None:
        raise Rejected("unreadable", f"{file.name} has no exam {exam}")
    with h5py.File(file, "r") as data:
        tracings = data["tracings"]
        if tracings.ndim != 3 or tracings.shape[1] > 1 << 20 or tracings.shape[2] != len(LEADS):
            raise Rejected("unreadable", f"{file.name}: tracings of shape {tracings.shape}")
        return np.asarray(tracings[row]), RATE_HZ


@lru_cache(maxsize=32)
def _rows(file: str, modified: int, size: int) -> dict[int, int]:
    """Return where each exam of an HDF5 file stands."""
    import h5py

    with h5py.File(file, "r") as data:
        return {int(exam): row for row, exam in enumerate(data["exam_id"][:])}


def _sample(file: Path) -> tuple[npt.NDArray[Any], float]:
    from scipy.io import loadmat

    if file.stat().st_size > _LARGEST_MAT:
        raise Rejected("unreadable", f"{file.name} is too large for one exam")
    data = loadmat(file, variable_names=["feats", "curr_sample_rate"])
    return np.asarray(data["feats"], dtype=np.float64).T, float(data["curr_sample_rate"].item())


def files(path: str, fetch: Callable[[str], bytes]) -> list[str]:
    """Name the file that an exam stands in."""
    if not is_inside(path):
        return []
    file, _, exam = path.rpartition(".hdf5/")
    return [f"{file}.hdf5" if file and exam else path]


SOURCE = Source(
    "code-15",
    "a folder with exams.csv and exams_part*.hdf5, or meta.csv and .mat files",
    list_records,
    True,
    read,
    files,
)
