"""A made-up cohort in real WFDB files, to try everything on before the real data are there.

NeuroKit2 simulates three components of the heart's electrical axis (left, down, back); the
twelve leads are their projections after Dower. Age, sex, potassium and rhythm change waves in the
direction they do in people, by about as much as people differ anyway. Nothing here is evidence
about medicine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import wfdb

from enecg.errors import JobFailed, UserError, one_line
from enecg.files import write_text
from enecg.inventory import MARK
from enecg.ownership import check_free, mark, remove_own, restore, swap
from enecg.paths import on_disk
from enecg.progress import counting
from enecg.records.synthetic_beats import Patient, simulate
from enecg.signals import LEADS, SAMPLING_RATE_HZ

RECORDS, LABELS = "records", "labels.csv"
_FILE = re.compile(r"syn\d{5,}\.(hea|dat)")
_GAIN = 1000.0
# Share and heart rates (per minute) of each rhythm.
_RHYTHMS = {
    "SR": (0.45, 60, 99),
    "AFIB": (0.22, 65, 130),
    "SARRH": (0.15, 55, 95),
    "STACH": (0.09, 101, 140),
    "SBRAD": (0.09, 42, 59),
}
_DAMAGES = ("truncated", "checksum", "no .dat", "no header", "no lead")


@dataclass(frozen=True)
class Plan:
    """One recording to be made: whose it is, in which rhythm, and how its files are damaged."""

    number: int
    seed: int
    patient: Patient
    rhythm: str
    heart_rate: float
    damage: str | None

    @property
    def record_id(self) -> str:
        """The name of the record's files."""
        return f"syn{self.number:05d}"


def write_synthetic_cohort(
    folder: Path, n_records: int = 200, seed: int = 42, overwrite: bool = False
) -> Path:
    """Write simulated twelve-lead recordings (10 s, 500 Hz) and their labels.

    Parameters
    ----------
    folder : Path
        Gets ``records/syn00001.hea`` and so on, and ``labels.csv`` with ``record_id``,
        ``subject_id``, ``rr_interval`` (ms), ``age`` (years), ``gender``, ``flag``,
        ``report_label``.
    n_records : int
        How many recordings; from 25 on a few of them (at most five, below 5 %) are damaged as
        real files are, so that conversion has something to reject.
    seed : int
        The same seed gives the same bytes.
    overwrite : bool
        Replace a cohort that is there; the new one is written beside it first.

    Returns
    -------
    Path
        The table of labels.

    Raises
    ------
    UserError
        No records asked for, or the folder holds a cohort and ``overwrite`` is not given, or it
        holds anything else.
    """
    folder = on_disk("FOLDER", folder)
    if n_records < 1:
        raise UserError(f"--records {n_records}: give at least 1")
    restore(folder)
    check_free("FOLDER", folder, "cohort")
    found = [*folder.iterdir(), *(folder / RECORDS).glob("*")] if folder.exists() else []
    if found and not overwrite:
        raise UserError(f"{folder}: is not empty; give another folder, or add --overwrite")
    for path in found:
        if path.name not in (RECORDS, LABELS, MARK) and not _FILE.fullmatch(path.name):
            raise UserError(
                f"{path}: is no part of the cohort, and would be lost; move it away, or give "
                "another folder"
            )
    here = folder.absolute()
    building = here.with_name(f".{here.name}.building") if found else here
    try:
        if found:
            remove_own(building, "cohort")
        mark(building, "cohort")
        _make(building, n_records, seed)
        if found:
            swap(building, here, "cohort")
    except OSError as error:
        raise JobFailed(
            f"{folder}: cannot be written ({one_line(error)}); is the disk full? A cohort that was "
            "there is kept"
        ) from error
    return folder / LABELS


def _make(folder: Path, n_records: int, seed: int) -> None:
    """Write recordings and labels to a folder."""
    (folder / RECORDS).mkdir()
    plans = list(_plans(n_records, seed))
    intervals: list[float] = []
    with counting("simulate", n_records) as progress:
        for interval in _written(plans, folder / RECORDS):
            intervals.append(interval)
            progress.advance(1)
    table = pd.DataFrame(
        {
            "record_id": [plan.record_id for plan in plans],
            "subject_id": [plan.patient.subject_id for plan in plans],
            "rr_interval": intervals,
            "age": [plan.patient.age for plan in plans],
            "gender": [plan.patient.gender for plan in plans],
            "flag": [plan.patient.flag for plan in plans],
            "report_label": [plan.rhythm for plan in plans],
        }
    )
    write_text(folder / LABELS, table.to_csv(index=False))


def _plans(n_records: int, seed: int) -> Iterator[Plan]:
    """Draw patients, one in five with two recordings, and what each recording shows."""
    rng = np.random.default_rng(seed)
    names = list(_RHYTHMS)
    shares = [_RHYTHMS[name][0] for name in names]
    n_damaged = min(len(_DAMAGES), n_records * 4 // 100)
    damaged = dict(
        zip(rng.choice(n_records, n_damaged, replace=False).tolist(), _DAMAGES, strict=False)
    )
    patient: Patient | None = None
    for number in range(n_records):
        if patient is None or rng.random() > 0.2:
            potassium = rng.choice(["normal", "high", "low"], p=[0.65, 0.23, 0.12])
            patient = Patient(
                subject_id=f"p{number + 1:05d}",
                age=float(np.clip(round(rng.normal(58, 17)), 18, 95)),
                gender=str(rng.choice(["male", "female"])),
                potassium=str(potassium),
                habitus=int(rng.integers(2**31)),
            )
        rhythm = names[rng.choice(len(names), p=shares)]
        _, slowest, fastest = _RHYTHMS[rhythm]
        rate = float(rng.uniform(slowest, fastest))
        yield Plan(number + 1, seed, patient, rhythm, rate, damaged.get(number))


def _written(plans: list[Plan], folder: Path) -> Iterator[float]:
    """Write all recordings, on every CPU; yield their R–R intervals in order."""
    workers = min(os.cpu_count() or 1, len(plans) // 8 + 1)
    if workers == 1:
        yield from (_write(plan, folder) for plan in plans)
        return
    # "spawn": a fork of a process that has threads (Ray's, say) may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, plans, [folder] * len(plans), chunksize=4)


def _write(plan: Plan, folder: Path) -> float:
    """Write one recording; return its R–R interval in ms."""
    x_LT, interval = simulate(
        plan.patient, plan.rhythm, plan.heart_rate, np.random.default_rng([plan.seed, plan.number])
    )
    digital_TL = np.clip(np.rint(x_LT.T * _GAIN), -32767, 32767).astype(np.int64)
    names = list(LEADS)
    if plan.damage == "no lead":
        digital_TL, names = digital_TL[:, :2], ["RESP", "PLETH"]
    _write_wfdb(plan.record_id, digital_TL, names, folder)
    header, data = folder / f"{plan.record_id}.hea", folder / f"{plan.record_id}.dat"
    if plan.damage == "truncated":
        data.write_bytes(data.read_bytes()[: 24 * 3000])
    elif plan.damage == "checksum":
        flipped = bytearray(data.read_bytes())
        flipped[1000] ^= 0xFF
        data.write_bytes(flipped)
    elif plan.damage == "no .dat":
        data.unlink()
    elif plan.damage == "no header":
        header.write_text("this was a header once\n", encoding="utf-8")
    return interval


def _write_wfdb(
    record_id: str, digital_TL: npt.NDArray[np.int64], names: list[str], folder: Path
) -> None:
    wfdb.wrsamp(
        record_id,
        fs=SAMPLING_RATE_HZ,
        units=["mV"] * len(names),
        sig_name=names,
        d_signal=digital_TL,
        fmt=["16"] * len(names),
        adc_gain=[_GAIN] * len(names),
        baseline=[0] * len(names),
        comments=["simulated, not a recording of a person"],
        write_dir=os.fspath(folder),
    )
