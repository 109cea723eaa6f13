"""Every awkward but real file is converted rightly, or rejected with a reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import wfdb
from scipy.signal import resample_poly

from enecg.records.canonical import canonical
from enecg.records.channel import Rejected
from enecg.records.wfdb_record import read
from enecg.signals import LEADS, N_SAMPLES, lead_position, to_millivolts


class Taken(NamedTuple):
    leads: str
    rate_hz: float
    n_samples: int
    changed: str
    derived: str = ""


ALL = " ".join(LEADS)
CROPPED, PADDED = "resampled cropped requantised", "resampled padded requantised"
AUGMENTED = "aVR aVL aVF"
NO_LEAD = ("no usable lead", "none of the twelve")
BAD_NAME = ("unreadable header", "gains of 4880/mV where 1000/mV is right")
EXPECTED = {
    "cpsc2021_2lead_200Hz_af/data_101_9": Taken("I II", 200, 49839, CROPPED, "III " + AUGMENTED),
    "cpsc2021_2lead_200Hz_af/data_35_4": Taken("I II", 200, 33695, CROPPED, "III " + AUGMENTED),
    "cpsc2021_2lead_200Hz_af/data_8_2": Taken("I II", 200, 43092, CROPPED, "III " + AUGMENTED),
    "cpsc2021_2lead_200Hz_af/data_92_19": Taken("I II", 200, 72490, CROPPED, "III " + AUGMENTED),
    "georgia_2020v1_bad_gain_and_record_name/E00001": BAD_NAME,
    "georgia_2020v1_bad_gain_and_record_name/E00002": BAD_NAME,
    "georgia_identical_signal_pair/E07509": Taken(ALL, 500, 5000, ""),
    "georgia_identical_signal_pair/E07510": Taken(ALL, 500, 5000, ""),
    "multiseg_041s/041s": Taken("I III", 500, 8000, "cropped", "II " + AUGMENTED),
    "multiseg_041s/041s01": Taken("I III", 500, 4000, "padded", "II " + AUGMENTED),
    "multiseg_041s/041s02": Taken("I III", 500, 4000, "padded", "II " + AUGMENTED),
    "multiseg_s25047_variable_layout/3234460_layout": ("unreadable", "has no samples: the layout"),
    "multiseg_s25047_variable_layout/s25047-2704-05-04-10-44": (
        "no usable lead", "flat or missing in the first 10 s: II",  # it begins with a gap of 206 s
    ),
    "multiseg_s25047_variable_layout/s25047-2704-05-04-10-44n": NO_LEAD,
    "multiseg_v102s_fixed_layout/v102s": Taken("II", 250, 225000, CROPPED),
    "ptbxl_00001_00002_as_challenge_mat/HR00001": Taken(ALL, 500, 5000, ""),
    "ptbxl_00001_00002_as_challenge_mat/HR00002": Taken(ALL, 500, 5000, ""),
    "wfdb_samples/100": Taken("V5", 360, 650000, CROPPED),  # MLII is not II
    "wfdb_samples/100_3chan": Taken("I II III", 360, 999, PADDED, AUGMENTED),
    "wfdb_samples/100skew": Taken("V5", 360, 650000, CROPPED),
    "wfdb_samples/3000003_0003": Taken("II", 125, 1028, PADDED),
    "wfdb_samples/a103l": Taken("II", 250, 82500, CROPPED),
    "wfdb_samples/mixedsignals": Taken("II III", 249.89, 57600, CROPPED, "I " + AUGMENTED),
    "wfdb_samples/s0010_re": Taken(ALL, 1000, 38400, CROPPED),  # and three of Frank's leads
    "wfdb_samples/v102s": Taken("II", 250, 75000, CROPPED),
    **{f"multiseg_v102s_fixed_layout/v102s_{n}": Taken("II", 250, 75000, CROPPED)
       for n in (1, 2, 3)},
    **{f"multiseg_s25047_variable_layout/3234460_{n:04d}":
       Taken("II", 125, length, CROPPED if length > 1250 else PADDED)
       for n, length in enumerate(
           (28637, 4, 636, 512, 4, 1532, 4, 636, 4, 508, 4, 16508, 128, 128, 48644, 322111, 3525,
            93975), 1)},
    **{f"wfdb_samples/{name}": NO_LEAD for name in (
        "310derive", "310derive_2", "310derive_3", "311derive", "311derive_2", "311derive_3",
        "311derive_4", "binformats", "flacformats", "p10143", "test01_00s", "test01_00s_frame",
        "test01_00s_skew", "test01_00s_skewframe")},
}  # fmt: skip


def test_every_header_is_expected(real_ecgs: Path) -> None:
    edge = real_ecgs / "edge"
    found = {str(file.relative_to(edge).with_suffix("")) for file in edge.rglob("*.hea")}
    assert found == set(EXPECTED) and len(found) == 60


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_converted_rightly_or_rejected_with_a_reason(real_ecgs: Path, name: str) -> None:
    path, expected = real_ecgs / "edge" / name, EXPECTED[name]
    if not isinstance(expected, Taken):
        with pytest.raises(Rejected) as caught:
            canonical(read(path))
        assert caught.value.reason == expected[0]
        assert expected[1] in caught.value.detail
        return
    channels = read(path)
    record = canonical(channels)
    assert " ".join(LEADS[lead] for lead in sorted(channels)) == expected.leads
    first = channels[min(channels)]
    assert (first.rate_hz, first.n_samples) == (expected.rate_hz, expected.n_samples)
    assert " ".join(record.changed) == expected.changed
    assert " ".join(np.array(LEADS)[record.derived_L]) == expected.derived
    assert (record.requantisation_error_uv is None) == ("requantised" not in expected.changed)
    stored = to_millivolts(record.signal_LT[None], record.gain_L[None], record.baseline_L[None])[0]
    theirs = wfdb.rdrecord(os.fspath(path), smooth_frames=False)
    for place, label in enumerate(theirs.sig_name):
        lead = lead_position(label)
        if lead is not None:
            x_T = by_scipy(theirs.e_p_signal[place], expected.rate_hz)
            # Float32, and half a step of what was requantised.
            allowed = (record.requantisation_error_uv or 0.0) / 1000 + 2e-5
            there = np.isfinite(stored[lead])
            np.testing.assert_allclose(stored[lead][there], x_T[there], atol=allowed, rtol=1e-6)
            head_T = theirs.e_p_signal[place][: int(10 * expected.rate_hz)]
            gaps = int(np.isnan(head_T).sum())  # each spreads to the samples beside it, no more
            share = 500 / expected.rate_hz
            assert gaps * share <= (~there).sum() + 1 <= gaps * share * 2 + 1


def by_scipy(x_T, rate: float):
    """The first 10 s at 500 Hz, resampled from 11 s of the original; zeros after the end."""
    missing = np.isnan(x_T)
    if missing.any():
        time = np.arange(len(x_T))
        x_T = np.interp(time, time[~missing], x_T[~missing])
    if rate != 500:
        up, down = {125: (4, 1), 200: (5, 2), 249.89: (50000, 24989), 250: (2, 1),
                    360: (25, 18), 1000: (1, 2)}[rate]  # fmt: skip
        length = round(min(len(x_T), np.ceil(11 * rate)) * 500 / rate)
        x_T = resample_poly(x_T[: int(np.ceil(11 * rate))], up, down, padtype="line")[:length]
    return np.pad(x_T[:N_SAMPLES], (0, max(0, N_SAMPLES - len(x_T))))
