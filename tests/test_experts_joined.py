"""Joined experts: their features side by side, computed once where several tasks use them."""

from __future__ import annotations

import pytest
import torch

from enecg import experts
from enecg.errors import UserError
from tests.expert_signals import ecg_like


def test_the_features_are_those_of_the_experts_one_after_the_other() -> None:
    options = {"kernels": 30, "signal": "raw"}
    joined = experts.load("joined", of=["beats", {"rocket": options}])
    x_BLT = ecg_like(3)
    apart = [experts.load("beats"), experts.load("rocket", **options)]
    known_BD = torch.cat([expert.features(x_BLT) for expert in apart], dim=1)
    assert torch.equal(joined.features(x_BLT), known_BD)
    assert joined.spec.width == known_BD.shape[1]
    assert joined.spec.uses_r_peaks  # one of them does


def test_a_new_version_of_a_joined_expert_is_another_preparation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = experts.load("joined").preparation_fingerprint()
    monkeypatch.setattr(experts.expert_class("beats"), "version", 99)
    assert experts.load("joined").preparation_fingerprint() != before


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (["rocket"], "at least two"),
        (["rocket", "baets"], "did you mean 'beats'"),
        (["rocket", {"beats": {}, "dlinear": {}}], "neither an expert's name nor a mapping"),
        (["rocket", {"beats": ["kernels"]}], "is no mapping of its options"),
        (["rocket", {"beats": {1: 2}}], "unknown option '1'"),
        (["rocket", 7], "neither an expert's name nor a mapping"),
        (["rocket", {7: {}}], "7 is no expert's name"),
        (["rocket", {"rocket": {"kernel": 9}}], "did you mean 'kernels'"),
        (["rocket", "ecgfounder"], "ecgfounder needs weights"),
        (["rocket", "joined"], "cannot join itself"),
    ],
)
def test_what_cannot_be_joined_is_refused(of: list[object], why: str) -> None:
    with pytest.raises(UserError, match=why):
        experts.load("joined", of=of)
