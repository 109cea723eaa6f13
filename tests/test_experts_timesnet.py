"""TimesNet: agreement with the published code, and a forecast that does not know its batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.timesnet import _Inception, strongest_periods
from tests.expert_signals import ecg_like
from tests.test_weights import Calls

EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden vectors, or a reason to skip."""
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    return Path(folder).resolve() / "timesnet"


@pytest.fixture(scope="module")
def vector(golden: Path) -> Callable[[str], Tensor]:
    """Golden vectors by name."""
    return lambda name: torch.from_numpy(np.load(golden / f"{name}.npy"))


@pytest.fixture(scope="module")
def published(golden: Path) -> Expert:
    """The expert with the golden checkpoint."""
    return experts.load("timesnet", weights=golden / "checkpoint.pth")


@torch.no_grad()
def test_the_forecast_is_that_of_each_record_run_alone(
    published: Expert, vector: Callable[[str], Tensor]
) -> None:
    x_BTL = vector("input")
    wanted = vector("output_single")
    torch.testing.assert_close(published.forecast(x_BTL), wanted, **EXACT)
    torch.testing.assert_close(published.embed(x_BTL), wanted[:, 0], **EXACT)
    torch.testing.assert_close(published.forecast(x_BTL[1:2]), wanted[1:2], **EXACT)
    # Leads are series: all in one record, they give the same.
    one_record = published.forecast(x_BTL[..., 0].T[None])
    torch.testing.assert_close(one_record[0, 0], wanted[:, 0, 0], **EXACT)


@torch.no_grad()
def test_periods_of_the_batch_give_the_published_codes_forecast_and_taps(
    published: Expert, vector: Callable[[str], Tensor], golden: Path
) -> None:
    x_BTL = vector("input")
    forecast = published.forecast(x_BTL, periods="batch")
    torch.testing.assert_close(forecast, vector("output_float32_fft"), **EXACT)
    assert not torch.allclose(forecast, vector("output_single"), atol=1e-3)
    network = published.network
    x_BT = x_BTL[..., 0]
    normal_BT = (x_BT - x_BT.mean(1, True)) / (
        x_BT.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    h_BTD = network.enc_embedding(normal_BT)
    torch.testing.assert_close(h_BTD, vector("tap_embedding"), **EXACT)
    h_BTD = network.predict_linear(h_BTD.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(h_BTD, vector("tap_predict_linear"), **EXACT)
    wanted = np.load(golden / "periods_float32_fft.npz")
    for number, block in enumerate(network.model):
        period_BK, weight_BK = strongest_periods(h_BTD, shared=True)
        assert period_BK[0].tolist() == wanted[f"period_{number}"].tolist()
        np.testing.assert_allclose(weight_BK, wanted[f"weight_{number}"], rtol=1e-4)
        h_BTD = block(h_BTD, True)
        if number == 0:
            torch.testing.assert_close(h_BTD, vector("tap_block0_float32_fft"), **EXACT)
        h_BTD = network.layer_norm(h_BTD)


def test_a_rhythm_is_found_by_its_period() -> None:
    time_T = torch.arange(500.0)
    waves_NT = torch.stack([torch.cos(2 * torch.pi * time_T / period) for period in (50, 20, 5)])
    mixed = waves_NT[0] * 3 + waves_NT[1] * 2 + waves_NT[2]
    period_NK, weight_NK = strongest_periods(100 + mixed[None, :, None], shared=False)
    assert period_NK.tolist() == [[50, 20, 5]]
    torch.testing.assert_close(weight_NK, torch.tensor([[750.0, 500.0, 250.0]]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_14_neither_phase_nor_size_hides_a_rhythm(phase: float) -> None:
    """Half precision keeps the real part only, and nothing above 65,504."""
    time_T = torch.arange(500.0)
    wave_T = 1000 * torch.cos(2 * torch.pi * time_T / 25 - phase * torch.pi)
    small_T = torch.cos(2 * torch.pi * time_T / 4)
    period_NK, weight_NK = strongest_periods((wave_T + small_T)[None, :, None], shared=False)
    assert period_NK[0, :2].tolist() == [25, 4]
    torch.testing.assert_close(
        weight_NK[0, :2], torch.tensor([250_000.0, 250.0]), rtol=1e-3, atol=0
    )


def test_15_batch_mates_move_shared_periods_only() -> None:
    time_T = torch.arange(500.0)
    slow_T, fast_T = (torch.cos(2 * torch.pi * time_T / period) for period in (50, 5))
    both_NTD = torch.stack([slow_T, 10 * fast_T])[..., None]
    assert strongest_periods(both_NTD, shared=False)[0][:, 0].tolist() == [50, 5]
    assert strongest_periods(both_NTD, shared=True)[0][:, 0].tolist() == [5, 5]


@pytest.mark.parametrize("size", [(10, 50), (1, 501), (167, 3), (84, 6), (251, 2)])
def test_the_merged_kernel_is_the_mean_of_the_convolutions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    inception = _Inception(16, 8)
    for kernel in inception.kernels:
        torch.nn.init.normal_(kernel.bias)
    x = torch.randn(2, 16, *size)
    wanted = torch.stack([kernel(x) for kernel in inception.kernels]).mean(dim=0)
    torch.testing.assert_close(inception(x), wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("pool", "width"), [("mean", 192), ("max", 192), ("mean_std", 384)])
def test_states_can_be_pooled_instead(pool: str, width: int) -> None:
    expert = experts.load("timesnet", pool=pool, layers=1)
    f_BD = expert.features(ecg_like(2))
    assert f_BD.shape == (2, width)
    assert torch.isfinite(f_BD).all()
    assert not expert.network.projection.weight.requires_grad


def test_autocast_does_not_change_which_periods_are_picked() -> None:
    expert = experts.load("timesnet", layers=1)
    prepared = expert.prepare(ecg_like(1))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = expert.embed(prepared)
    with torch.no_grad():
        assert torch.equal(rounded, expert.embed(prepared))


@pytest.mark.parametrize("options", [{"pool": "median"}, {"layers": 0}], ids=str)
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"expert timesnet: (pool|layers) is"):
        experts.load("timesnet", **options)


def test_other_tensors_are_listed_and_code_is_not_run(tmp_path: Path) -> None:
    state = experts.load("timesnet", layers=1).network.state_dict()
    state["layer_nrom.bias"] = state.pop("layer_norm.bias")
    torch.save(state, tmp_path / "typo.pth")
    with pytest.raises(UserError, match=r"missing layer_norm\.bias; unexpected layer_nrom\.bias"):
        experts.load("timesnet", weights=tmp_path / "typo.pth", layers=1)
    trace = tmp_path / "executed"
    torch.save({"model": state, "args": Calls(os.mkdir, str(trace))}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="which is not data"):
        experts.load("timesnet", weights=tmp_path / "evil.pth")
    assert not trace.exists()
