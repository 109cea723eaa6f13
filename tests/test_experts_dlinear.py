"""DLinear: agreement with the published code, with SciPy's resampling, and training."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts.preparation import centred, resample_fourier
from tests.expert_signals import ecg_like


@pytest.fixture
def golden() -> Path:
    """The folder of golden vectors, or a reason to skip."""
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    return Path(folder).resolve() / "dlinear"


def test_the_published_checkpoint_gives_the_published_forecast(golden: Path) -> None:
    expert = experts.load("dlinear", weights=golden / "checkpoint.pth")
    x_BTL, wanted_BPL, trend_BTL = (
        torch.from_numpy(np.load(golden / f"{name}.npy")) for name in ("input", "output", "trend")
    )
    digest = hashlib.sha256((golden / "checkpoint.pth").read_bytes()).hexdigest()
    assert expert.weight_files == {"checkpoint.pth": digest}
    with torch.no_grad():
        torch.testing.assert_close(expert.forecast(x_BTL), wanted_BPL, rtol=0, atol=1e-5)
        torch.testing.assert_close(expert.trend(x_BTL), trend_BTL, rtol=0, atol=1e-5)
        torch.testing.assert_close(expert.embed(x_BTL), wanted_BPL[:, 0], rtol=0, atol=1e-5)


def test_the_state_dict_is_the_published_ones() -> None:
    shapes = {key: tuple(t.shape) for key, t in experts.load("dlinear").state_dict().items()}
    assert shapes == {
        "Linear_Seasonal.weight": (1, 500),
        "Linear_Seasonal.bias": (1,),
        "Linear_Trend.weight": (1, 500),
        "Linear_Trend.bias": (1,),
    }


def test_prepare_is_scipys_resampling_of_the_centred_leads() -> None:
    x_BLT = ecg_like(3)
    centred_BLT = x_BLT.numpy() - x_BLT.numpy().mean(axis=-1, keepdims=True)
    reference = scipy.signal.resample(centred_BLT, 500, axis=-1)
    prepared_BTL = experts.load("dlinear").prepare(x_BLT)
    np.testing.assert_allclose(prepared_BTL.transpose(1, 2).numpy(), reference, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [(5000, 1000), (4999, 500), (30, 28), (5000, 2501), (4999, 333), (100, 140), (99, 300), (9, 9)],
)
def test_resampling_equals_scipys(before: int, after: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, before))
    ours = resample_fourier(torch.from_numpy(x), after).numpy()
    np.testing.assert_allclose(ours, scipy.signal.resample(x, after, axis=-1), atol=1e-12)


def test_missing_samples_become_zero_and_do_not_move_the_mean() -> None:
    x = torch.tensor([[[1.0, 3.0, torch.nan], [torch.nan, torch.inf, torch.nan], [5.0, 5.0, 5.0]]])
    assert torch.equal(centred(x), torch.tensor([[[-1.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3]]))


def test_the_average_repeats_the_ends() -> None:
    expert = experts.load("dlinear", kernel=5)
    x_BTL = torch.randn(1, 500, 2, generator=torch.Generator().manual_seed(0))
    padded = np.pad(x_BTL[0].numpy(), ((2, 2), (0, 0)), mode="edge")
    reference = np.stack([padded[t : t + 5].mean(axis=0) for t in range(500)])
    np.testing.assert_allclose(expert.trend(x_BTL)[0].numpy(), reference, atol=1e-6)


def test_features_are_the_forecasts_lead_after_lead() -> None:
    expert = experts.load("dlinear", pred_len=3)
    prepared_BTL = expert.prepare(ecg_like(2))
    forecast_BPL = expert.forecast(prepared_BTL)
    f_BD = expert.embed(prepared_BTL)
    assert expert.spec.width == 36
    assert torch.equal(f_BD[1, 3:6], forecast_BPL[1, :, 1])


def test_it_learns_from_scratch() -> None:
    """A target that some forecast with a linear read-out can give is learned to a small error."""
    torch.manual_seed(0)
    expert = experts.load("dlinear", kernel=25, pred_len=4).train()
    prepared_BTL = expert.prepare(ecg_like(64))
    target_B = _two_differences(prepared_BTL)
    head = torch.nn.Linear(expert.spec.width, 1)
    optimiser = torch.optim.Adam([*expert.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for _ in range(150):
        loss = (head(expert.embed(prepared_BTL))[:, 0] - target_B).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def _two_differences(x_BTL: Tensor) -> Tensor:
    """Return a linear function of two leads, scaled to unit variance."""
    target_B = x_BTL[:, 480:, 0].mean(dim=1) - x_BTL[:, :20, 7].mean(dim=1)
    return target_B / target_B.std()


@pytest.mark.parametrize("options", [{"kernel": 24}, {"kernel": 0}, {"pred_len": 0}], ids=str)
def test_impossible_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"expert dlinear: (kernel|pred_len) is"):
        experts.load("dlinear", **options)


def test_weights_of_another_forecast_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "three.pth"
    torch.save(experts.load("dlinear", pred_len=3).state_dict(), path)
    with pytest.raises(UserError, match=r"Linear_Seasonal.weight \(3, 500\) instead of \(1, 500\)"):
        experts.load("dlinear", weights=path)
    loaded = experts.load("dlinear", weights=path, pred_len=3)
    assert torch.equal(loaded.Linear_Trend.weight, torch.load(path)["Linear_Trend.weight"])
