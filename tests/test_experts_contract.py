"""What holds for every expert, run over all of them."""

from __future__ import annotations

import os
import subprocess
import sys

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.corpora import CORPORA
from tests.expert_signals import ecg_like
from tests.small_experts import SMALL

OPTIONAL_PACKAGES = ("momentfm", "transformers", "peft")


@pytest.fixture(scope="module", params=experts.names())
def expert(request: pytest.FixtureRequest) -> Expert:
    """Every expert in turn, at a size for tests."""
    return experts.load(request.param, **SMALL.get(request.param, {}))


trainable = pytest.mark.parametrize(
    "expert",
    [name for name in experts.names() if name not in ("beats", "joined", "rocket")],
    indirect=True,
)


@pytest.fixture(scope="module")
def x_BLT() -> Tensor:
    """Five records."""
    return ecg_like(5)


def features(expert: Expert, x_BLT: Tensor) -> Tensor:
    """Return features without a graph."""
    with torch.no_grad():
        return expert.features(x_BLT)


def test_features_are_float32_of_the_width_in_the_spec(expert: Expert, x_BLT: Tensor) -> None:
    f_BD = features(expert, x_BLT)
    assert f_BD.shape == (5, expert.spec.width)
    assert f_BD.dtype == torch.float32
    assert torch.isfinite(f_BD).all()
    assert not torch.equal(f_BD[0], f_BD[1])


def test_features_are_embed_of_prepare_and_forward_is_embed(expert: Expert, x_BLT: Tensor) -> None:
    with torch.no_grad():
        prepared = expert.prepare(x_BLT)
        assert len(prepared) == 5
        assert torch.equal(expert.embed(prepared), expert.features(x_BLT))
        assert torch.equal(expert(prepared), expert.features(x_BLT))


def test_it_is_loaded_in_evaluation_mode_and_leaves_its_input_alone(
    expert: Expert, x_BLT: Tensor
) -> None:
    assert not any(module.training for module in expert.modules())
    before = x_BLT.clone()
    first = features(expert, x_BLT)
    assert torch.equal(x_BLT, before)
    assert torch.equal(features(expert, x_BLT), first)


def test_a_record_does_not_depend_on_its_batch(expert: Expert, x_BLT: Tensor) -> None:
    together_BD = features(expert, x_BLT)
    alone_BD = torch.cat([features(expert, x_BLT[i : i + 1]) for i in range(5)])
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled_BD = features(expert, x_BLT[order])
    odd_mates = torch.cat([x_BLT[:1], 1000 * x_BLT[1:2], torch.full_like(x_BLT[:1], torch.nan)])
    torch.testing.assert_close(alone_BD, together_BD, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shuffled_BD, together_BD[order], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features(expert, odd_mates)[0], together_BD[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.5, torch.nan])
def test_flat_and_missing_leads_give_finite_features(
    expert: Expert, x_BLT: Tensor, value: float
) -> None:
    one_lead, all_but_one, none, gap = x_BLT[:4].clone()
    one_lead[6] = value
    all_but_one[:1] = value
    all_but_one[2:] = value
    none[:] = value
    gap[:, 2000:2600] = value
    gap[3, :1] = torch.inf
    f_BD = features(expert, torch.stack([one_lead, all_but_one, none, gap]))
    assert torch.isfinite(f_BD).all()


def test_the_spec_is_complete(expert: Expert) -> None:
    spec = expert.spec
    assert spec.name == expert.name
    assert min(spec.sampling_rate_hz, spec.n_samples, spec.width) > 0
    assert all((spec.leads, spec.units, spec.normalisation, spec.licence))
    assert spec.parameters == sum(p.numel() for p in expert.parameters())
    assert set() < set(spec.adaptations) <= set(experts.ADAPTATIONS)
    assert set(spec.pretraining_corpora) <= set(CORPORA)
    assert ("lora" in spec.adaptations) == bool(spec.lora_targets) == (spec.parameters > 0)
    assert ("full" in spec.adaptations) == (spec.parameters > 0)
    assert spec.uses_r_peaks == (expert.name in ("beat-net", "beats", "joined", "openecg"))
    assert bool(expert.weight_files) == (type(expert).packaged() is not None)
    hash(spec)


def test_the_state_dict_carries_the_features(
    expert: Expert, x_BLT: Tensor, tmp_path: object
) -> None:
    path = f"{tmp_path}/state.pt"
    torch.save(expert.state_dict(), path)
    settings = dict(expert.options)
    if "seed" in settings:
        settings["seed"] += 1
    other = experts.load(expert.name, **settings)
    other.load_state_dict(torch.load(path, weights_only=True), strict=True)
    assert torch.equal(features(other, x_BLT), features(expert, x_BLT))


def test_the_fingerprint_says_whether_features_would_be_the_same(expert: Expert) -> None:
    again = experts.load(expert.name, **expert.options)
    assert again.fingerprint() == expert.fingerprint()
    assert len(expert.fingerprint()) == 64
    if "seed" in expert.options:
        other = experts.load(expert.name, **(expert.options | {"seed": 7}))
        assert other.fingerprint() != expert.fingerprint()
    tensors = [*again.parameters(), *again.buffers()]
    tensor = next(t for t in tensors if t.is_floating_point())
    with torch.no_grad():
        tensor.view(-1)[0] += 1
    assert again.fingerprint() != expert.fingerprint()


def test_the_version_is_in_the_fingerprint(expert: Expert, monkeypatch: pytest.MonkeyPatch) -> None:
    before = expert.fingerprint()
    monkeypatch.setattr(type(expert), "version", expert.version + 1)
    assert expert.fingerprint() != before


def test_bfloat16_autocast_is_close(expert: Expert, x_BLT: Tensor) -> None:
    """Within 5 % of the features' norm: eight bits of mantissa, through some layers."""
    exact_BD = features(expert, x_BLT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded_BD = features(expert, x_BLT)
    assert rounded_BD.dtype == torch.float32
    error = (rounded_BD - exact_BD).norm() / exact_BD.norm()
    assert error < 0.05


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_agrees_with_the_cpu(
    expert: Expert, x_BLT: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # 10 bits of mantissa
    gpu = experts.load(expert.name, **expert.options)
    gpu.load_state_dict(expert.state_dict())
    f_BD = features(gpu.cuda(), x_BLT.cuda())
    assert f_BD.is_cuda
    torch.testing.assert_close(f_BD.cpu(), features(expert, x_BLT), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(12, 5000), (1, 8, 5000), (1, 12, 1000)])
def test_signals_of_another_shape_are_refused(expert: Expert, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="5000"):
        expert.prepare(torch.zeros(shape))


@trainable
def test_full_training_reaches_and_moves_every_parameter(expert: Expert, x_BLT: Tensor) -> None:
    copy = experts.load(expert.name, **expert.options).train()
    before = {name: p.detach().clone() for name, p in copy.named_parameters() if p.requires_grad}
    with torch.no_grad():
        prepared = copy.prepare(x_BLT)
    f_BD = copy.embed(prepared)
    (f_BD * torch.linspace(-1, 1, f_BD.shape[1])).square().sum().backward()
    for name, parameter in copy.named_parameters():
        assert name not in before or torch.isfinite(parameter.grad).all(), name
    torch.optim.AdamW(copy.parameters(), lr=0.01).step()
    for name, parameter in copy.named_parameters():
        assert torch.equal(parameter, before.get(name, parameter)) == (name not in before), name
    assert torch.isfinite(features(copy.eval(), x_BLT)).all()


def with_lora(expert: Expert, seed: int = 0) -> tuple[Expert, set[str]]:
    """Return a copy with LoRA of rank 2 in it, no part of it zero, and the base weights' names."""
    adapted = experts.load(expert.name, **expert.options)
    adapted.load_state_dict(expert.state_dict())
    targets = list(expert.spec.lora_targets)
    settings = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(seed)
    peft.inject_adapter_in_model(settings, adapted)
    for target in targets:
        assert any(name.endswith(f"{target}.lora_A") for name, _ in adapted.named_modules())
    return adapted.eval(), {n for n, _ in adapted.named_parameters() if "lora_" not in n}


@trainable
def test_lora_trains_itself_alone_and_all_of_itself(expert: Expert, x_BLT: Tensor) -> None:
    adapted, base = with_lora(expert)
    with torch.no_grad():
        prepared = adapted.prepare(x_BLT)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    assert {n for n, p in adapted.named_parameters() if not p.requires_grad} == base
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1.0)
    f_BD = adapted.embed(prepared)
    assert not torch.allclose(f_BD, features(expert, x_BLT))
    (f_BD * torch.linspace(-1, 1, f_BD.shape[1])).sum().backward()
    for name, parameter in adapted.named_parameters():
        assert name in base or parameter.grad.abs().max() > 0, name
        parameter.grad = None if name in base else parameter.grad.sign()
    optimiser.step()
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, before[name]) == (name in base), name


@trainable
def test_lora_can_be_merged_and_taken_out_again(expert: Expert, x_BLT: Tensor) -> None:
    adapted, _ = with_lora(expert)
    apart_BD = features(adapted, x_BLT)
    layers = [m for m in adapted.modules() if isinstance(m, BaseTunerLayer)]
    for layer in layers:
        layer.merge()
    merged_BD = features(adapted, x_BLT)
    for layer in layers:
        layer.unmerge()
    close = {"rtol": 1e-4, "atol": 1e-5 * float(apart_BD.abs().max())}
    torch.testing.assert_close(merged_BD, apart_BD, **close)
    torch.testing.assert_close(features(adapted, x_BLT), apart_BD, **close)


def test_preparation_that_belongs_on_cpus_needs_no_tensors(expert: Expert, x_BLT: Tensor) -> None:
    assert expert.prepares_on in ("device", "cpu")
    if expert.prepares_on == "cpu":
        with torch.device("meta"):
            without_tensors = experts.load(expert.name, **expert.options)
        assert torch.equal(without_tensors.prepare(x_BLT), expert.prepare(x_BLT))


def test_an_unknown_option_is_named(expert: Expert) -> None:
    with pytest.raises(UserError, match=f"expert {expert.name}: unknown option 'sede'"):
        experts.load(expert.name, sede=1)


@pytest.mark.parametrize("value", [True, [1], None, {"a": 1}])
def test_an_option_of_another_type_is_named(expert: Expert, value: object) -> None:
    for key, default in experts.options(expert.name).items():
        if default is not None:
            with pytest.raises(UserError, match=rf"expert {expert.name}: {key} is .* it must be"):
                experts.load(expert.name, **{key: value})


def test_an_unknown_expert_is_answered_with_the_nearest_and_all() -> None:
    with pytest.raises(UserError, match=r"did you mean 'rocket'.*dlinear.*rocket"):
        experts.load("rokcet")


def test_experts_are_listed_without_optional_packages() -> None:
    program = (
        "import sys\n"
        f"for name in {OPTIONAL_PACKAGES}: sys.modules[name] = None\n"
        "from enecg import experts\n"
        "print(*experts.names())\n"
    )
    # Not through PYTHONPATH, by which the tests' cluster knows experts of the tests' own.
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=own
    )
    assert tuple(done.stdout.split()) == experts.names()


def test_an_adaptation_without_the_weights_it_needs_is_refused() -> None:
    rocket, dlinear = experts.load("rocket").spec, experts.load("dlinear").spec
    experts.check_adaptation(rocket, "head", has_weights=False)
    experts.check_adaptation(dlinear, "full", has_weights=False)
    experts.check_adaptation(dlinear, "lora", has_weights=True)
    with pytest.raises(UserError, match="one of: head"):
        experts.check_adaptation(rocket, "full", has_weights=False)
    for adaptation in ("head", "head_lora", "lora"):
        with pytest.raises(UserError, match=f"{adaptation}' needs pretrained weights"):
            experts.check_adaptation(dlinear, adaptation, has_weights=False)
