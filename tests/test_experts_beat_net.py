"""The network on the median beat: what it shares with `beats`, and what training adds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts.beats import MEASURES
from enecg.experts.contract import Expert
from enecg.stage1.feature_store import FeatureStore
from tests.expert_signals import ecg_like


@pytest.fixture(scope="module")
def prepared() -> Tensor:
    return experts.load("beats").prepare(ecg_like(3))


def seen(expert: Expert, prepared: Tensor, seed: int = 0) -> Tensor:
    """Features with torch's chance from a seed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return expert.embed(prepared)


def test_it_prepares_as_beats_does_and_goes_by_a_name_of_its_own(prepared: Tensor) -> None:
    beats, net = experts.load("beats"), experts.load("beat-net")
    assert net.preparation_fingerprint() == beats.preparation_fingerprint()
    assert torch.equal(net.prepare(ecg_like(3)), prepared)
    named = {net.fingerprint(), beats.fingerprint()}
    for options in ({"channels": 8}, {"dropout": 0.1}, {"noise": 0.5}, {"views": 1}, {"seed": 1}):
        named.add(experts.load("beat-net", **options).fingerprint())
    assert len(named) == 7


def test_stored_features_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place() -> Path:
        return FeatureStore.of(tmp_path, experts.load("beat-net")).folder

    before = place()
    assert before != FeatureStore.of(tmp_path, experts.load("beats")).folder
    monkeypatch.setattr(experts.expert_class("beat-net"), "version", 99)
    assert place() != before


def test_chance_enters_in_training_alone(prepared: Tensor) -> None:
    net = experts.load("beat-net")
    still = seen(net, prepared)
    assert torch.equal(seen(net, prepared, 1), still)
    net.train()
    assert torch.equal(seen(net, prepared, 1), seen(net, prepared, 1))
    assert not torch.equal(seen(net, prepared, 1), seen(net, prepared, 2))
    calm = experts.load("beat-net", dropout=0.0, noise=0.0, views=1)
    once = seen(calm, prepared)
    assert torch.equal(seen(calm.train(), prepared), once)


def test_several_views_are_the_mean_of_shifted_beats(prepared: Tensor) -> None:
    def shifted(samples: int) -> Tensor:
        beat_BLT = prepared[:, MEASURES:].unflatten(1, (12, -1)).roll(samples, -1)
        return torch.cat([prepared[:, :MEASURES], beat_BLT.flatten(1)], 1)

    once = experts.load("beat-net", views=1)
    each = torch.stack([seen(once, shifted(by)) for by in (-4, -2, 0, 2, 4)])
    for views in (3, 5):
        middle = each[2 - views // 2 : 3 + views // 2].mean(0)
        several = seen(experts.load("beat-net", views=views), prepared)
        torch.testing.assert_close(several, middle, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(each[0], each[4], atol=1e-3)


def test_changes_in_training_are_small(prepared: Tensor) -> None:
    still = seen(experts.load("beat-net"), prepared)
    net = experts.load("beat-net", dropout=0.0).train()
    changed = torch.stack([seen(net, prepared, seed) for seed in range(20)])
    apart = (changed - still).norm(dim=-1).mean()
    assert 0 < apart < 0.5 * still.norm(dim=-1).mean()


def test_amplitude_is_kept(prepared: Tensor) -> None:
    """Per-lead normalisation would throw away what it tells of sex."""
    net = experts.load("beat-net")
    assert (seen(net, 2 * prepared) - seen(net, prepared)).norm() > 0.1 * seen(net, prepared).norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0; give 0 up to below 1"),
        ({"noise": -1.0}, "noise is -1.0; give at least 0"),
        ({"views": 2}, "views is 2; it must be one of 1, 3, 5"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        experts.load("beat-net", **options)
