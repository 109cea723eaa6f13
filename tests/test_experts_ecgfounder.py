"""ECGFounder: agreement with the authors' code and files, its preparation with SciPy's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from enecg import experts, signals
from enecg.config import load_config
from enecg.errors import UserError
from enecg.experts.contract import Expert
from tests.expert_signals import ecg_like, golden_folder, published_shapes
from tests.small_experts import SMALL


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden vectors, or a reason to skip."""
    return golden_folder("ecgfounder")


def vector(golden: Path, name: str) -> Tensor:
    """Read a golden vector."""
    return torch.from_numpy(np.load(golden / f"{name}.npy"))


def published(golden: Path) -> Expert:
    """The golden checkpoint, in the layout of the published one (NumPy scalar and all)."""
    return experts.load(
        "ecgfounder", weights=golden / "checkpoint.pth", config=golden / "config.json"
    )


def close(ours: Tensor, wanted: Tensor) -> None:
    """Fail unless both agree to 1e-5."""
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_golden_vectors_come_out(golden: Path) -> None:
    expert, x_BLT = published(golden), vector(golden, "input")
    close(expert.net.stages(x_BLT), vector(golden, "tap_stage2"))
    close(expert.embed(x_BLT), vector(golden, "features"))
    close(expert.logits(x_BLT), vector(golden, "logits"))


@torch.no_grad()
def test_the_preparation_is_the_authors(golden: Path) -> None:
    raw_LT = vector(golden, "preprocess_raw_mV").float()
    prepared_BLT = published(golden).prepare(torch.stack([raw_LT, 2 * raw_LT]))
    wanted_LT = vector(golden, "preprocess_out")
    for ours_LT in prepared_BLT:  # the scale of the input does not matter
        torch.testing.assert_close(ours_LT, wanted_LT, rtol=0, atol=1e-4)


@torch.no_grad()
def test_missing_samples_count_as_zero_before_the_filters() -> None:
    expert = experts.load("ecgfounder", **SMALL["ecgfounder"])
    x_BLT = ecg_like(2)
    x_BLT[0, 3], x_BLT[1, :, 700:900] = torch.nan, torch.inf
    zeroed_BLT = torch.nan_to_num(x_BLT, nan=0.0, posinf=0.0)
    assert torch.equal(expert.prepare(x_BLT), expert.prepare(zeroed_BLT))


def by_the_rules(expert: Expert, x_BLT: Tensor) -> Tensor:
    """Compute the features anew, literally as the network is described, from its tensors."""
    state = expert.net.state_dict()
    sizes = expert.options["config"]

    def conv(y: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        total = max(0, (-(-y.shape[-1] // stride) - 1) * stride + weight.shape[-1] - y.shape[-1])
        y = torch.cat(
            [y.new_zeros(*y.shape[:2], total // 2), y, y.new_zeros(*y.shape[:2], -(-total // 2))],
            -1,
        )
        return functional.conv1d(y, weight, state[f"{name}.conv.bias"], stride, groups=groups)

    def swish(y: Tensor) -> Tensor:
        return y * torch.sigmoid(y)

    y = swish(conv(x_BLT, "first_conv", 2))
    for stage, (width, n_blocks) in enumerate(
        zip(sizes["filter_list"], sizes["m_blocks_list"], strict=True)
    ):
        for block in range(n_blocks):
            name = f"stage_list.{stage}.block_list.{block}"
            z = y if stage == block == 0 else swish(y)
            z = swish(conv(z, f"{name}.conv1"))
            stride = sizes["stride"] if block == 0 else 1
            z = conv(z, f"{name}.conv2", stride, width // sizes["groups_width"])
            z = conv(swish(z), f"{name}.conv3")
            s = functional.linear(
                z.mean(-1), state[f"{name}.se_fc1.weight"], state[f"{name}.se_fc1.bias"]
            )
            s = functional.linear(
                swish(s), state[f"{name}.se_fc2.weight"], state[f"{name}.se_fc2.bias"]
            )
            z = z * torch.sigmoid(s)[..., None]
            if stride == 2:
                odd = y.shape[-1] % 2
                ended = torch.cat([y, y.new_zeros(*y.shape[:2], odd)], -1)
                y = torch.maximum(ended[..., ::2], ended[..., 1::2])
            front = (width - y.shape[1]) // 2
            wide = z.new_zeros(z.shape)
            wide[:, front : front + y.shape[1]] = y
            y = z + wide
    return y.mean(-1)


@pytest.mark.parametrize("n_leads", [1, 12])
@pytest.mark.parametrize("n_samples", [5000, 4999, 2500, 333, 17, 1])
@torch.no_grad()
def test_any_length_agrees_with_the_rules(n_leads: int, n_samples: int) -> None:
    config = SMALL["ecgfounder"]["config"] | {"in_channels": n_leads}
    expert = experts.load("ecgfounder", config=config)
    x_BLT = torch.randn(2, n_leads, n_samples, generator=torch.manual_seed(n_samples))
    close(expert.embed(x_BLT), by_the_rules(expert, x_BLT))
    assert expert.logits(x_BLT).shape == (2, 5)


def save(path: Path, state: dict[str, Tensor]) -> Path:
    """Write tensors in the authors' layout."""
    torch.save({"epoch": 3, "state_dict": state, "val_auroc": np.float64(0.9)}, path)
    return path


@torch.no_grad()
def test_the_one_lead_file_reads_lead_one(tmp_path: Path) -> None:
    config = SMALL["ecgfounder"]["config"]
    one = experts.load("ecgfounder", config=config | {"in_channels": 1})
    path = save(tmp_path / "1_lead.pth", one.net.state_dict())
    expert = experts.load("ecgfounder", weights=path, config=config)
    assert expert.spec.leads == ("I",)
    x_BLT = ecg_like(2)
    prepared_BLT = expert.prepare(x_BLT)
    assert prepared_BLT.shape == (2, 1, 5000)
    x_BLT[:, 1:] = 7.0
    assert torch.equal(expert.prepare(x_BLT), prepared_BLT)
    assert torch.equal(expert.features(x_BLT), one.features(x_BLT))


@pytest.mark.parametrize("n_classes", [0, 2])
def test_the_classifier_is_the_files_or_none(tmp_path: Path, n_classes: int) -> None:
    config = SMALL["ecgfounder"]["config"]
    tuned = experts.load("ecgfounder", config=config | {"n_classes": n_classes})
    path = save(tmp_path / "tuned.pth", tuned.net.state_dict())
    expert = experts.load("ecgfounder", weights=path, config=config)
    assert expert.options["config"]["n_classes"] == n_classes
    again = experts.load("ecgfounder", weights=path, **expert.options)
    assert again.fingerprint() == expert.fingerprint() == tuned.fingerprint()
    if n_classes == 0:
        with pytest.raises(UserError, match="logits need weights with a classifier"):
            expert.logits(torch.zeros(1, 12, 100))


@pytest.mark.parametrize(
    "name", ["stage_list.1.block_list.0.se_fc1.bias", "first_conv.conv.weight"]
)
def test_every_other_tensor_must_be_there(tmp_path: Path, name: str) -> None:
    state = dict(experts.load("ecgfounder", **SMALL["ecgfounder"]).net.state_dict())
    del state[name]
    with pytest.raises(UserError, match=f"tensors missing {name}"):
        experts.load("ecgfounder", weights=save(tmp_path / "x.pth", state), **SMALL["ecgfounder"])
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    with pytest.raises(UserError, match=r"missing .*; unexpected module\."):
        experts.load(
            "ecgfounder", weights=save(tmp_path / "y.pth", prefixed), **SMALL["ecgfounder"]
        )


def test_batch_normalisation_is_left_out(golden: Path, tmp_path: Path) -> None:
    content = torch.load(golden / "checkpoint.pth", weights_only=False)
    assert any(".bn2." in key for key in content["state_dict"])
    for key, tensor in content["state_dict"].items():
        if "bn" in key:
            tensor.fill_(torch.nan if tensor.is_floating_point() else 9)
    torch.save(content, tmp_path / "x.pth")
    config = golden / "config.json"
    expert = experts.load("ecgfounder", weights=tmp_path / "x.pth", config=config)
    assert expert.fingerprint() == published(golden).fingerprint()


def test_published_size_has_the_published_tensors(golden: Path) -> None:
    [wanted] = published_shapes(golden / "full_size_state_dict_shapes.txt")
    with torch.device("meta"):
        expert = experts.load("ecgfounder")
        one_lead = experts.load("ecgfounder", config={"in_channels": 1})
    ours = {key: tuple(tensor.shape) for key, tensor in expert.net.state_dict().items()}
    assert ours == {key: shape for key, shape in wanted.items() if "bn" not in key}
    assert expert.spec.parameters == 30_819_014 - 66_368
    assert one_lead.spec.parameters == 30_807_750 - 66_368
    assert expert.spec.width == 1024


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"use_bn": True}, "use_bn: Input should be False"),
        ({"filter_list": [64]}, "must be equally long"),
        ({"filter_list": [64, 60, 160, 400, 400, 1024, 1024]}, "must not fall"),
        ({"groups_width": 7}, "groups_width 7 does not divide width 64"),
        ({"in_channels": 3}, "in_channels: Input should be 1 or 12"),
        ({"filters": 3}, "unknown key 'filters'"),
    ],
)
def test_impossible_sizes_are_named(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=f"expert ecgfounder: config: .*{complaint}"):
        experts.load("ecgfounder", config=config)


def test_the_small_one_of_the_shipped_config_learns_from_scratch() -> None:
    settings = load_config(Path("ray_jobs/config/ptb_xl.yaml")).experts["ecgfounder"]
    assert (settings.weights, settings.adaptation) == (None, "full")
    expert = experts.load("ecgfounder", **settings.options).train()
    assert expert.spec.parameters == 12_356
    assert all(parameter.requires_grad for parameter in expert.parameters())
    prepared_BLT = expert.prepare(ecg_like(24))
    target_B = torch.arange(24) % 2
    prepared_BLT[:, 3] += 0.5 * target_B[:, None]
    torch.manual_seed(0)
    head = torch.nn.Linear(expert.spec.width, 1)
    optimiser = torch.optim.Adam([*expert.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(30):
        out_B = head(expert.embed(prepared_BLT))[:, 0]
        loss = functional.binary_cross_entropy_with_logits(out_B, target_B.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@torch.no_grad()
def test_a_flat_record_stays_small() -> None:
    """What rounding leaves of a constant must not be scaled up to a signal."""
    prepared_BLT = experts.load("ecgfounder", **SMALL["ecgfounder"]).prepare(
        torch.full((1, 12, signals.N_SAMPLES), 1.5)
    )
    assert prepared_BLT.abs().max() < 0.01


def test_the_golden_configuration_is_complete(golden: Path) -> None:
    config = json.loads((golden / "config.json").read_text())
    assert published(golden).options["config"] == config | {"in_channels": 12, "ratio": 1.0}
