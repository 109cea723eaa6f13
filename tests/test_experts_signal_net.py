"""The network on the whole signal: windows, changes in training, amplitudes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.signal_net import LONG, N_SAMPLES, SEEN
from enecg.experts.unnormalised import Conv
from tests.expert_signals import ecg_like


@pytest.fixture(scope="module")
def prepared() -> Tensor:
    return experts.load("signal-net", channels=4).prepare(ecg_like(3))


def net(**options: float) -> Expert:
    return experts.load("signal-net", **{"channels": 4, **options})


def seen(expert: Expert, prepared: Tensor, seed: int = 0) -> Tensor:
    """Features with torch's chance from a seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return expert.embed(prepared)


def test_it_sees_millivolts_at_100_hz() -> None:
    time_T = torch.arange(5000) / 500
    x_BLT = 0.7 * torch.sin(2 * torch.pi * 3 * time_T).expand(1, 12, -1).clone() + 0.4
    x_BLT[:, 5] = torch.nan
    wanted_T = 0.7 * torch.sin(2 * torch.pi * 3 * torch.arange(N_SAMPLES) / 100)
    found_LT = net().prepare(x_BLT)[0]
    torch.testing.assert_close(found_LT[0], wanted_T, atol=1e-4, rtol=0)
    assert not found_LT[5].any()


@pytest.mark.parametrize(("windows", "starts"), [(1, [100]), (2, [0, 200]), (3, [0, 100, 200])])
def test_what_it_gives_is_the_mean_over_windows(
    windows: int, starts: list[int], prepared: Tensor
) -> None:
    def alone(start: int) -> Tensor:
        """The features of one window, by a net that sees it where its only window is."""
        moved = torch.zeros_like(prepared)
        moved[..., 100 : 100 + SEEN] = prepared[..., start : start + SEEN]
        return seen(net(windows=1), moved)

    mean = torch.stack([alone(start) for start in starts]).mean(0)
    torch.testing.assert_close(seen(net(windows=windows), prepared), mean, atol=1e-5, rtol=1e-5)


def test_only_the_direction_of_a_convolutions_weights_counts(prepared: Tensor) -> None:
    """They start longer than usual, so that training turns them less at a step."""
    expert = net()
    before = seen(expert, prepared)
    convolutions = [module for module in expert.modules() if isinstance(module, Conv)]
    assert len(convolutions) == 1 + 3 * 4
    for module in convolutions:
        usual = 1 / (module.weight[0].numel() ** 0.5)  # PyTorch's largest initial weight
        assert LONG * 0.5 * usual < module.weight.abs().max() <= LONG * usual * 1.001
        module.weight.data /= LONG
    torch.testing.assert_close(seen(expert, prepared), before, rtol=1e-3, atol=1e-4)


def test_chance_enters_in_training_alone(prepared: Tensor) -> None:
    expert = net()
    still = seen(expert, prepared)
    assert torch.equal(seen(expert, prepared, 1), still)
    expert.train()
    assert torch.equal(seen(expert, prepared, 1), seen(expert, prepared, 1))
    assert not torch.equal(seen(expert, prepared, 1), seen(expert, prepared, 2))


def test_changes_in_training_are_small(prepared: Tensor) -> None:
    still = seen(net(), prepared)
    expert = net(dropout=0.0).train()
    changed = torch.stack([seen(expert, prepared, seed) for seed in range(20)])
    apart = (changed - still).norm(dim=-1).mean()
    assert 0 < apart < 0.5 * still.norm(dim=-1).mean()


def test_amplitude_is_kept(prepared: Tensor) -> None:
    still = seen(net(), prepared)
    assert (seen(net(), 2 * prepared) - still).norm() > 0.1 * still.norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 0}, "channels is 0; it must be even, above 0"),
        ({"channels": 5}, "channels is 5; it must be even"),
        ({"dropout": 1.0}, "dropout is 1.0; give 0 up to below 1"),
        ({"noise": -1.0}, "noise is -1.0; give at least 0"),
        ({"windows": 0}, "windows is 0; give 1 to 9"),
        ({"windows": 10}, "windows is 10; give 1 to 9"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        net(**options)
