"""The signal of one made-up recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enecg.signals import DURATION_S, N_SAMPLES, SAMPLING_RATE_HZ

# Peaks (mV) of P, Q, R, S, T in the three components of the axis: left, down, back.
_WAVES_mV = np.array(
    [
        [0.09, -0.12, 1.25, -0.28, 0.30],
        [0.14, -0.08, 0.85, -0.18, 0.26],
        [0.02, -0.22, 0.62, 0.18, -0.24],
    ]
)
_ANGLES_DEG = np.array([-70.0, -15.0, 0.0, 15.0, 100.0])
_WIDTHS = np.array([0.22, 0.09, 0.09, 0.09, 0.38])
# Dower's projections of left, down, back on the eight independent leads I, II, V1 to V6.
_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# Standard deviation of the heart rate (per minute) as a share of the rate.
_IRREGULARITY = {"AFIB": (0.13, 0.2), "SARRH": (0.07, 0.11)}
_REGULAR = (0.01, 0.03)
P, QRS, T = [0], [1, 2, 3], [4]


@dataclass(frozen=True)
class Patient:
    """What a recording shows of the person.

    Attributes
    ----------
    subject_id : str
    age : float
        Years.
    gender : {"male", "female"}
    potassium : {"normal", "high", "low"}
    habitus : int
        Seed of what else is personal: the axis, the amplitude, the shape of the waves.
    """

    subject_id: str
    age: float
    gender: str
    potassium: str
    habitus: int

    @property
    def flag(self) -> str:
        """Whether the potassium is normal."""
        return "normal" if self.potassium == "normal" else "abnormal"


def simulate(
    patient: Patient, rhythm: str, heart_rate: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float64], float]:
    """Simulate one recording.

    Parameters
    ----------
    patient : Patient
        The person.
    rhythm : str
        A rhythm code; AFIB and SARRH are irregular, AFIB has no P waves.
    heart_rate : float
        Per minute.
    rng : Generator
        What differs from recording to recording.

    Returns
    -------
    x_LT : float64 array, shape (12, 5000)
        mV at 500 Hz in the order of `enecg.signals.LEADS`.
    interval : float
        Median R–R interval in ms, of the signal before noise was added.
    """
    import neurokit2  # slow to import

    waves_mV, widths, angles = _waves(patient, rhythm)
    low, high = _IRREGULARITY.get(rhythm, _REGULAR)
    # Fifteen seconds are simulated and ten cut out: beats start anywhere, and the first second,
    # in which the simulation settles, is never used.
    start = int(rng.integers(SAMPLING_RATE_HZ, 5 * SAMPLING_RATE_HZ))
    seed = int(rng.integers(2**31))
    deviation = heart_rate * rng.uniform(low, high)
    turn = 2 * np.pi * heart_rate / 60
    axis_T = []
    for peaks_mV in waves_mV:
        simulated_T = neurokit2.ecg_simulate(
            duration=DURATION_S + 5,
            sampling_rate=SAMPLING_RATE_HZ,
            noise=0,
            heart_rate=heart_rate,
            heart_rate_std=deviation,
            method="ecgsyn",
            random_state=seed,  # the same beats in all three components
            ti=angles,
            ai=peaks_mV * turn / widths**2,
            bi=widths,
        )[start : start + N_SAMPLES]
        # The simulation gives every signal the same span; this gives it its own again.
        span = max(peaks_mV.max(), 0.0) - min(peaks_mV.min(), 0.0)
        axis_T.append((simulated_T - np.median(simulated_T)) * span / np.ptp(simulated_T))
    axis_CT = np.array(axis_T)
    _, found = neurokit2.ecg_peaks(axis_CT[0], sampling_rate=SAMPLING_RATE_HZ)
    interval = float(np.median(np.diff(found["ECG_R_Peaks"])) * 1000 / SAMPLING_RATE_HZ)
    if rhythm == "AFIB":
        axis_CT = axis_CT + _fibrillation(rng)
    return _twelve_leads(_DOWER @ axis_CT) + _noise(rng), interval


def _waves(
    patient: Patient, rhythm: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a person's waves: peaks (3, 5) in mV, widths (5,), places in the beat (5,) in °."""
    own = np.random.default_rng(patient.habitus)
    waves, widths, angles = _WAVES_mV.copy(), _WIDTHS.copy(), _ANGLES_DEG.copy()
    decades = (patient.age - 55) / 10
    # With age: lower R and T, wider QRS, longer PR, an axis that turns to the left.
    waves[:, QRS] *= np.exp(-0.05 * decades)
    waves[:, T] *= np.exp(-0.08 * decades)
    widths[QRS] *= np.exp(0.035 * decades)
    angles[0] -= 2.5 * decades
    turned = np.radians(-7 * decades + own.normal(0, 9))
    rotation = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    waves[:2] = rotation @ waves[:2]
    if patient.gender == "male":
        waves[:, QRS] *= 1.22
        waves[:, T] *= 1.35
        angles[4] *= 0.95
    if patient.potassium == "high":
        waves[:, T] *= 1.7
        widths[T] *= 0.68
        waves[:, P] *= 0.45
    elif patient.potassium == "low":
        waves[:, T] *= 0.35
        widths[T] *= 1.15
    if rhythm == "AFIB":
        waves[:, P] = 0.0
    waves *= np.exp(own.normal(0, 0.10)) * np.exp(own.normal(0, 0.08, waves.shape))
    widths *= np.exp(own.normal(0, 0.05, widths.shape))
    return waves, widths, angles


def _fibrillation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return fibrillatory waves, shape (3, 5000), mV: 5 to 8 per second, largest in V1."""
    time = np.arange(N_SAMPLES) / SAMPLING_RATE_HZ
    wobble = 0.6 * np.sin(2 * np.pi * rng.uniform(0.2, 0.6) * time + rng.uniform(0, 6))
    phase = 2 * np.pi * rng.uniform(5, 8) * time + wobble
    wave_T = rng.uniform(0.02, 0.06) * (np.sin(phase) + 0.4 * np.sin(2 * phase + rng.uniform(0, 6)))
    return np.array([[0.3], [0.6], [-1.0]]) * wave_T


def _twelve_leads(eight_LT: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Complete I, II, V1 to V6 by the four leads that follow from I and II."""
    one, two = eight_LT[0], eight_LT[1]
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.array(limbs), eight_LT[2:]])


def _noise(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return what electrodes add, shape (12, 5000), mV: wander, muscle, mains, an offset."""
    time = np.arange(N_SAMPLES) / SAMPLING_RATE_HZ
    shape = (8, 1)
    wander = rng.uniform(0.01, 0.08, shape) * np.sin(
        2 * np.pi * rng.uniform(0.1, 0.45, shape) * time + rng.uniform(0, 6, shape)
    )
    mains = rng.uniform(0, 0.008, shape) * np.sin(2 * np.pi * 50 * time + rng.uniform(0, 6))
    muscle = rng.uniform(0.005, 0.025) * rng.normal(size=(8, N_SAMPLES))
    return _twelve_leads(wander + mains + muscle + rng.normal(0, 0.03, shape))
