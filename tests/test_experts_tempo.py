"""TEMPO: agreement with the authors' code, old and new tensor names, and statsmodels' STL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import wfdb
from statsmodels.tsa.seasonal import STL
from torch import Tensor

from enecg import experts
from enecg.errors import UserError
from enecg.experts import stl
from enecg.experts.contract import Expert
from enecg.experts.preparation import resample_fourier
from enecg.experts.tempo import _published_layout
from enecg.experts.tempo_net import TOKEN_IDS, TempoNetwork, TempoSizes
from tests.expert_signals import ecg_like
from tests.small_experts import SMALL
from tests.test_weights import Calls

EXACT = {"rtol": 0, "atol": 1e-5}
NAMES = ("input", "trend", "season", "resid")


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden vectors, or a reason to skip."""
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    return Path(folder).resolve() / "tempo"


@pytest.fixture(scope="module")
def vector(golden: Path) -> Callable[[str], Tensor]:
    """Golden vectors by name."""
    return lambda name: torch.from_numpy(np.load(golden / f"{name}.npy"))


def load(weights: Path, golden: Path, **options: object) -> Expert:
    """Return the expert of golden size with some weights."""
    return experts.load("tempo", weights=weights, config=golden / "config.json", **options)


def small(**options: object) -> Expert:
    """Return a small expert with random weights."""
    return experts.load("tempo", **{**SMALL["tempo"], **options})


@torch.no_grad()
def test_the_golden_checkpoint_gives_the_golden_states_and_forecast(
    golden: Path, vector: Callable[[str], Tensor]
) -> None:
    expert = load(golden / "checkpoint.pth", golden)
    x, trend, season, resid = map(vector, NAMES)
    parts_B3T = torch.stack([trend, season, resid], dim=1)[..., 0]
    torch.testing.assert_close(expert.network.tokens(parts_B3T), vector("gpt2_in"), **EXACT)
    torch.testing.assert_close(expert.network.states(parts_B3T), vector("gpt2_out"), **EXACT)
    forecast = expert.forecast(x, trend, season, resid)
    torch.testing.assert_close(forecast, vector("output"), **EXACT)
    # Several series of one record are each forecast by themselves.
    leads = expert.forecast(*(v[..., 0].T[None] for v in (x, trend, season, resid)))
    torch.testing.assert_close(leads[0].T, vector("output")[..., 0], **EXACT)
    # Features are the states of the patches, without the prompts'.
    patches = vector("gpt2_out").unflatten(1, (3, 51))[:, :, 9:].flatten(1, 2)
    torch.testing.assert_close(expert.embed(parts_B3T[:, None]), patches.mean(dim=1), **EXACT)


@torch.no_grad()
def test_files_with_old_names_and_masks_and_without_time_attn_are_read(
    golden: Path, vector: Callable[[str], Tensor], tmp_path: Path
) -> None:
    state = torch.load(golden / "checkpoint.pth", weights_only=True)
    old = {name.replace(".base_layer", ""): tensor for name, tensor in state.items()}
    assert len(old.keys() - state.keys()) == 4  # weight and bias in two layers
    del old["time_attn.weight"]
    for layer in range(2):
        prefix = f"gpt2_trend.base_model.model.h.{layer}.attn."
        old[f"{prefix}bias"] = torch.ones(1, 1, 256, 256, dtype=torch.bool).tril()
        old[f"{prefix}masked_bias"] = torch.tensor(-1e4)
    torch.save(old, tmp_path / "old.pth")
    forecast = load(tmp_path / "old.pth", golden).forecast(*map(vector, NAMES))
    torch.testing.assert_close(forecast, vector("output"), **EXACT)


@pytest.mark.parametrize(
    "name",
    [
        "gpt2_trend.base_model.model.h.1.attn.c_attn.base_layer.weight",
        "gpt2_trend.base_model.model.h.0.attn.c_attn.lora_B.default.weight",
        "map_season.2.bias",
        "rev_in_noise.affine_bias",
    ],
)
def test_16_any_other_tensor_that_is_missing_is_named(
    golden: Path, tmp_path: Path, name: str
) -> None:
    state = torch.load(golden / "checkpoint.pth", weights_only=True)
    del state[name]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=f"tensors missing {re.escape(name)}$"):
        load(tmp_path / "less.pth", golden)


def test_what_is_not_known_is_named_and_code_is_not_run(golden: Path, tmp_path: Path) -> None:
    state = torch.load(golden / "checkpoint.pth", weights_only=True)
    torch.save(state | {"h.2.ln_1.weight": torch.zeros(32)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"tensors unexpected h\.2\.ln_1\.weight$"):
        load(tmp_path / "more.pth", golden)
    trace = tmp_path / "executed"
    torch.save({"model": state, "args": Calls(os.mkdir, str(trace))}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="which is not data"):
        load(tmp_path / "evil.pth", golden)
    assert not trace.exists()


def test_names_and_shapes_are_those_of_the_published_size(golden: Path) -> None:
    lines = (golden / "full_size_state_dict_shapes.txt").read_text().splitlines()[1:]
    published = {
        name: tuple(map(int, re.findall(r"\d+", shape)))
        for name, shape, _ in (line.split("\t") for line in lines)
    }
    del published["time_attn.weight"]
    with torch.device("meta"):
        layout = _published_layout(TempoNetwork(TempoSizes()), TempoSizes())
    assert {name: tuple(tensor.shape) for name, tensor in layout.items()} == published


def test_11_the_adapter_in_the_file_is_merged_and_nothing_of_it_is_left(golden: Path) -> None:
    expert = load(golden / "checkpoint.pth", golden)
    assert not any("lora" in name for name, _ in expert.named_parameters())
    state = torch.load(golden / "checkpoint.pth", weights_only=True)
    prefix = "gpt2_trend.base_model.model.h.0.attn.c_attn."
    base, down, up = (
        state[f"{prefix}{name}.weight"]
        for name in ("base_layer", "lora_A.default", "lora_B.default")
    )
    merged = expert.network.gpt2.h[0].attn.c_attn.weight
    torch.testing.assert_close(merged, base + down.T @ up.T, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(merged, base, atol=1e-3)


def test_prompts_are_fixed_tokens_and_only_their_rows_are_kept(golden: Path) -> None:
    assert TempoSizes().stub_token_ids == TOKEN_IDS
    expert = load(golden / "checkpoint.pth", golden)
    table = torch.load(golden / "checkpoint.pth", weights_only=True)[
        "gpt2_trend.base_model.model.wte.weight"
    ]
    words = expert.network.gpt2.wte(expert.network.prompt_3W)
    assert torch.equal(words[2], table[[5, 6, 7, 8, 9, 10, 11, 7, 14]])
    assert expert.network.gpt2.wte.weight.shape == (10, 32)


def reference(x_BLT: Tensor) -> np.ndarray:
    """Decompose every lead by statsmodels, scaled as the expert says, (B, 12, 3, 336)."""
    wide = x_BLT.double()
    deviation = wide.std(dim=-1, unbiased=False, keepdim=True)
    scaled = (wide - wide.mean(dim=-1, keepdim=True)) / deviation.where(deviation > 0, 1.0)
    series = resample_fourier(scaled, 336).numpy()
    fits = [[STL(x_T, period=50).fit() for x_T in x_LT] for x_LT in series]
    return np.array([[(f.trend, f.seasonal, f.resid) for f in leads] for leads in fits])


@pytest.mark.parametrize("way", ["matrix", "statsmodels"])
def test_prepare_is_statsmodels_stl_of_every_lead(way: str) -> None:
    x_BLT = ecg_like(2)
    x_BLT[1, 3] = 0.7
    prepared = small(stl=way).prepare(x_BLT)
    assert prepared.dtype == torch.float32
    np.testing.assert_allclose(prepared.numpy(), reference(x_BLT), atol=2e-6)
    assert torch.equal(prepared[1, 3], torch.zeros(3, 336))


def test_prepare_is_statsmodels_stl_on_a_real_recording(real_ecgs: Path) -> None:
    header = min((real_ecgs / "ptb-xl" / "records500").rglob("*.hea"))
    signal_TL = wfdb.rdrecord(str(header.with_suffix(""))).p_signal
    x_BLT = torch.from_numpy(signal_TL.T[None]).float()
    np.testing.assert_allclose(small().prepare(x_BLT).numpy(), reference(x_BLT), atol=5e-6)


def test_statsmodels_itself_belongs_on_cpu_workers_which_need_no_tensors() -> None:
    assert small().prepares_on == "device"
    expert = small(stl="statsmodels")
    assert expert.prepares_on == "cpu"
    with torch.device("meta"):
        without_tensors = small(stl="statsmodels")
    x_BLT = ecg_like(1)
    assert torch.equal(without_tensors.prepare(x_BLT), expert.prepare(x_BLT))


def test_18_a_lead_is_decomposed_as_itself_wherever_its_record_sits() -> None:
    expert, x_BLT = small(), ecg_like(3)
    prepared = expert.prepare(x_BLT)
    turned = expert.prepare(x_BLT.flip(0).roll(5, dims=1))
    torch.testing.assert_close(turned.roll(-5, dims=1).flip(0), prepared, rtol=0, atol=1e-6)


def test_stl_is_linear_to_the_last_digits() -> None:
    x_NT = np.random.default_rng(0).normal(size=(4, 336)).cumsum(axis=1)
    together = stl.decompose_in_batch(torch.from_numpy(x_NT), 50)
    np.testing.assert_allclose(together.numpy(), stl.decompose(x_NT, 50), rtol=0, atol=1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(stl.decompose_in_batch(torch.from_numpy(x_NT), 50), together)


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"pool": "max"}, 16), ({"pool": "mean_std"}, 32), ({"pool": "forecast"}, 96),
        ({"leads": "apart"}, 192), ({"leads": "apart", "pool": "forecast"}, 1152),
    ],
    ids=str,
)  # fmt: skip
def test_other_poolings(options: dict[str, str], width: int) -> None:
    expert = small(**options)
    prepared = expert.prepare(ecg_like(2))
    f_BD = expert.embed(prepared)
    assert f_BD.shape == (2, width) and torch.isfinite(f_BD).all()
    if options.get("leads") == "apart":
        one_lead = small(**(options | {"leads": "pooled"})).embed(prepared[:, 4:5])
        torch.testing.assert_close(f_BD.unflatten(1, (12, -1))[:, 4], one_lead)


@torch.no_grad()
def test_17_features_are_states_and_the_forecast_only_on_request() -> None:
    expert, forecasting = small(), small(pool="forecast")
    prepared = expert.prepare(ecg_like(2))
    parts = prepared[:, 0].unbind(dim=1)
    forecast = expert.forecast(*(v[..., None] for v in (sum(parts), *parts)))[..., 0]
    torch.testing.assert_close(forecasting.embed(prepared[:, :1]), forecast, rtol=1e-5, atol=1e-5)
    assert expert.embed(prepared).shape[1] == 16  # the width of the states, not 96 steps
    assert not expert.network.out_layer_trend.weight.requires_grad
    assert forecasting.network.out_layer_trend.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "meen"}, "pool is 'meen', did you mean 'mean'"),
        ({"leads": "all"}, "leads is 'all'"),
        ({"stl": "none"}, "stl is 'none'"),
        ({"config": {"d_model": 0}}, "config: d_model"),
        ({"config": {"d_model": 100}}, "multiple of gpt2.n_head, 12"),
        ({"config": {"stub_token_ids": {"trend": [1]}}}, "needs the keys trend, season, residual"),
        ({"config": {"gpt2": {"vocab_size": 64}}}, "tokens must be below 64"),
        ({"config": {"seq_len": 15}}, "seq_len must be at least patch_size, 16"),
        ({"config": {"gpt2": {"n_positions": 152}}}, "n_positions must be at least 153"),
        ({"config": "absent.json"}, "absent.json: no such file"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"expert tempo: .*{re.escape(message)}"):
        experts.load("tempo", **options)
