"""Rocket: exactness, determinism, and what its pooling measures."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.signal
import torch

from enecg import experts
from enecg.errors import UserError
from enecg.experts import rocket
from enecg.experts.contract import Expert
from tests.expert_signals import ecg_like

SMALL = {"kernels": 120, "seed": 3}


@pytest.fixture(scope="module")
def small() -> Expert:
    """A Rocket with few kernels."""
    return experts.load("rocket", **SMALL)


def digest(expert: Expert) -> str:
    """Return the SHA-256 of the features of three records."""
    return hashlib.sha256(expert.features(ecg_like(3)).numpy().tobytes()).hexdigest()


def test_another_process_gives_the_same_bytes(small: Expert) -> None:
    program = (
        "from enecg import experts\n"
        "from tests.test_experts_rocket import SMALL, digest\n"
        "print(digest(experts.load('rocket', **SMALL)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(small)


def test_the_batch_changes_nothing_bit_for_bit() -> None:
    expert = experts.load("rocket")
    x_BLT = ecg_like(rocket.CHUNK + 5)
    together_BD = expert.features(x_BLT)
    order = torch.randperm(len(x_BLT), generator=torch.Generator().manual_seed(0))
    assert torch.equal(expert.features(x_BLT[order]), together_BD[order])
    for place in (0, rocket.CHUNK, len(x_BLT) - 1):
        assert torch.equal(expert.features(x_BLT[place : place + 1])[0], together_BD[place])


def test_amplitude_channel_is_scipys_resampling_rounded_to_its_step(small: Expert) -> None:
    x_BLT = ecg_like(2)
    centred = x_BLT.double().numpy() - x_BLT.double().numpy().mean(axis=-1, keepdims=True)
    reference = scipy.signal.resample(centred, rocket.N_SAMPLES, axis=-1)
    step = rocket.STEPS[rocket.AMPLITUDE]
    amplitude = small.prepare(x_BLT)[:, rocket.AMPLITUDE].numpy()
    np.testing.assert_array_equal(amplitude, np.round(reference / step))


def test_prepared_samples_are_whole_and_small_enough_for_tf32(small: Expert) -> None:
    prepared = small.prepare(100 * ecg_like(2))
    assert prepared.shape == (2, 3, 12, rocket.N_SAMPLES)
    assert torch.equal(prepared, prepared.round())
    assert prepared.abs().max() == rocket.LARGEST


def test_convolution_is_exact() -> None:
    """Float32 gives the sums that float64 gives: nothing depends on the order of summation."""
    expert = experts.load("rocket", kernels=40)
    extreme = torch.randint(
        -rocket.LARGEST,
        rocket.LARGEST + 1,
        (2, 3, 12, rocket.N_SAMPLES),
        generator=torch.Generator().manual_seed(0),
    ).float()
    for bank in expert.banks:
        outputs = [
            torch.nn.functional.conv1d(
                extreme[:, bank.channel].to(precision),
                bank.weights_KLW.to(precision),
                dilation=bank.dilation,
                padding=4 * bank.dilation,
            ).double()
            for precision in (torch.float32, torch.float64)
        ]
        assert torch.equal(*outputs)


def test_pooling_agrees_with_its_definition(small: Expert) -> None:
    """Longest stretches and shares of windows, against loops over a record's samples."""
    prepared = small.prepare(ecg_like(1))
    for kind in (rocket._LongestBelow, rocket._SharesOfWaits):
        bank = next(b for b in small.banks if isinstance(b, kind))
        y_BKT = torch.nn.functional.conv1d(
            prepared[:, bank.channel],
            bank.weights_KLW,
            dilation=bank.dilation,
            padding=4 * bank.dilation,
        )
        above_T = bank.above(y_BKT)[0, 0].tolist()
        pooled = bank.pool(y_BKT)[0]
        if kind is rocket._LongestBelow:
            text = "".join("x" if above else "." for above in above_T)
            longest = max(len(stretch) for stretch in text.split("x"))
            assert pooled[0].item() == pytest.approx(np.log((longest + 1) / 100), abs=1e-6)
        else:
            for place, wait in enumerate(rocket.WAITS):
                starts = range(len(above_T) - wait + 1)
                quiet = [not any(above_T[start : start + wait]) for start in starts]
                assert pooled[place].item() == pytest.approx(np.mean(quiet), abs=1e-6)


def test_a_signal_of_its_own_is_all_that_the_kernels_see() -> None:
    x_BLT = ecg_like(2)
    scaled_BLT = x_BLT * torch.linspace(0.5, 2.0, 12)[:, None]
    for signal, channel in (("raw", rocket.AMPLITUDE), ("difference", rocket.SLOPE)):
        expert = experts.load("rocket", kernels=60, signal=signal)
        assert {bank.channel for bank in expert.banks} == {channel}
        assert not torch.equal(expert.features(x_BLT), expert.features(scaled_BLT))
    normalised = experts.load("rocket", kernels=60, signal="normalised")
    prepared, scaled = normalised.prepare(x_BLT), normalised.prepare(scaled_BLT)
    # Rounding to whole steps is all that is left of the scale.
    assert (prepared[:, rocket.SHAPE] - scaled[:, rocket.SHAPE]).abs().max() <= 1
    assert {bank.channel for bank in normalised.banks} == {rocket.SHAPE}
    together = {bank.channel for bank in experts.load("rocket", kernels=60).banks}
    assert together == {rocket.AMPLITUDE, rocket.SLOPE, rocket.SHAPE}


def test_all_prepare_a_record_alike_and_go_by_names_of_their_own() -> None:
    options = ({}, {"kernels": 60}, {"seed": 1}, {"signal": "raw"}, {"signal": "difference"})
    each = [experts.load("rocket", **{"kernels": 40} | option) for option in options]
    x_BLT = ecg_like(2)
    for other in each[1:]:
        assert other.preparation_fingerprint() == each[0].preparation_fingerprint()
        assert torch.equal(other.prepare(x_BLT), each[0].prepare(x_BLT))
    assert len({one.fingerprint() for one in each}) == len(each)
    assert len({one.weights_fingerprint() for one in each}) == len(each)


def test_every_kernel_ignores_a_constant_and_uses_leads(small: Expert) -> None:
    for bank in small.banks:
        assert (bank.weights_KLW.sum(dim=2) == 0).all()
        n_leads_K = bank.weights_KLW.abs().amax(dim=2).gt(0).sum(dim=1)
        assert n_leads_K.min() >= 1
        assert n_leads_K.max() <= rocket.LARGEST_LEAD_SET


def test_a_linear_head_reads_the_rate_from_the_waits() -> None:
    """Synthetic records of known rate: ridge regression on half, error on the other half."""
    expert = experts.load("rocket", kernels=4)
    x_BLT = ecg_like(120, seed=5)
    highest_BT = x_BLT.abs().amax(dim=1).numpy()
    peaks = [scipy.signal.find_peaks(x_T, height=0.7, distance=200)[0] for x_T in highest_BT]
    interval = np.array([np.median(np.diff(places)) for places in peaks])
    f_BD = expert.features(x_BLT).numpy()
    f_BD = (f_BD - f_BD[:60].mean(axis=0)) / (f_BD[:60].std(axis=0) + 1e-3)
    mean = interval[:60].mean()
    gram = f_BD[:60] @ f_BD[:60].T + 30 * np.eye(60)
    predicted = f_BD[60:] @ f_BD[:60].T @ np.linalg.solve(gram, interval[:60] - mean) + mean
    error = np.abs(predicted - interval[60:]).mean()
    assert error < 0.35 * np.abs(interval[60:] - mean).mean()


@pytest.mark.parametrize(
    "options",
    [{"kernels": 0}, {"kernels": 3}, {"seed": -1}, {"signal": "rwa"}],
    ids=lambda o: str(o),
)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"expert rocket: (kernels|seed|signal) is"):
        experts.load("rocket", **options)


def test_weights_are_refused() -> None:
    with pytest.raises(UserError, match="takes no weights"):
        experts.load("rocket", weights="kernels.pt")
