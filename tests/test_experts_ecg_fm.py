"""ECG-FM: agreement with fairseq-signals' code and files, and with an independent computation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from enecg import experts
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.ecg_fm import PRETRAINING_ONLY, sizes_of
from enecg.experts.ecg_fm_encoder import conv_layers
from tests.expert_signals import ecg_like, golden_folder, published_shapes
from tests.small_experts import SMALL

FILES = ("checkpoint.pt", "checkpoint_pretrained.pt")


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden vectors, or a reason to skip."""
    return golden_folder("ecg-fm")


def vector(golden: Path, name: str) -> Tensor:
    """Read a golden vector."""
    return torch.from_numpy(np.load(golden / f"{name}.npy"))


def close(ours: Tensor, wanted: Tensor) -> None:
    """Fail unless both agree to 1e-5."""
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("file", FILES)
@torch.no_grad()
def test_the_golden_vectors_come_out(golden: Path, file: str) -> None:
    expert = experts.load("ecg-fm", weights=golden / file)
    net, seen = expert.backbone, {}
    for name, module in {
        "tap_conv": net.feature_extractor,
        "tap_posconv": net.conv_pos,
        "tap_encoder_in": net.encoder.layer_norm,
        "tap_layer0": net.encoder.layers[0],
    }.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    x_BLT = vector(golden, "input")
    frames_BNE = expert.frame_features(x_BLT)
    close(frames_BNE, vector(golden, "features"))
    close(frames_BNE, vector(golden, "pretrained_features"))
    for name, tap in seen.items():
        close(tap, vector(golden, name))
    assert len(seen) == 4
    close(expert.embed(x_BLT[:, None]), vector(golden, "pooled"))
    close(expert.embed(x_BLT), vector(golden, "pooled"))
    if file == FILES[0]:
        close(expert.logits(x_BLT), vector(golden, "logits"))
    else:
        with pytest.raises(UserError, match="logits need a fine-tuned classifier's weights"):
            expert.logits(x_BLT)


def test_provenance_names_the_weights_and_what_they_have_seen(golden: Path) -> None:
    expert = experts.load("ecg-fm", weights=golden / FILES[1])
    provenance = expert.provenance()
    digest = hashlib.sha256((golden / FILES[1]).read_bytes()).hexdigest()
    assert provenance["weight_files"] == {FILES[1]: digest}
    assert provenance["pretraining_corpora"] == ["mimic-iv-ecg", "challenge"]
    assert provenance["fingerprint"] == expert.fingerprint()
    assert json.loads(json.dumps(provenance)) == provenance
    from_scratch = experts.load("ecg-fm", **SMALL["ecg-fm"]).provenance()
    assert from_scratch["weight_files"] == {}
    assert from_scratch["pretraining_corpora"] == []


class Reference(nn.Module):
    """The network from torch's own layers, with an expert's weights: another way to compute it."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        net, sizes = expert.backbone, expert.sizes
        self.net = net
        width, heads = sizes.encoder_embed_dim, sizes.encoder_attention_heads
        self.conv_pos = nn.utils.parametrizations.weight_norm(
            nn.Conv1d(width, width, sizes.conv_pos, padding=sizes.conv_pos // 2, groups=4), dim=2
        )
        self.conv_pos.load_state_dict(
            {
                "bias": net.conv_pos.bias,
                "parametrizations.weight.original0": net.conv_pos.weight_g,
                "parametrizations.weight.original1": net.conv_pos.weight_v,
            }
        )
        self.layers = nn.ModuleList()
        for theirs in net.encoder.layers:
            layer = nn.TransformerEncoderLayer(
                width, heads, sizes.encoder_ffn_embed_dim, 0.0, nn.functional.gelu,
                batch_first=True, norm_first=sizes.layer_norm_first,
            )  # fmt: skip
            state = {k: v for k, v in theirs.state_dict().items() if "_proj" not in k}
            for kind in ("weight", "bias"):
                qkv = [getattr(getattr(theirs.self_attn, f"{part}_proj"), kind) for part in "qkv"]
                state[f"self_attn.in_proj_{kind}"] = torch.cat(qkv)
                state[f"self_attn.out_proj.{kind}"] = getattr(theirs.self_attn.out_proj, kind)
            names = {"fc1": "linear1", "fc2": "linear2", "self_attn_layer_norm": "norm1"}
            names |= {"final_layer_norm": "norm2"}
            layer.load_state_dict(
                {".".join(names.get(p, p) for p in key.split(".")): v for key, v in state.items()}
            )
            self.layers.append(layer)
        self.norm_first = sizes.layer_norm_first

    def forward(self, x_BLT: Tensor, padded_BN: Tensor | None = None) -> Tensor:
        """Return frames."""
        y_BCT = x_BLT
        for layer in self.net.feature_extractor.conv_layers:
            conv, *norm = [m for m in layer if not isinstance(m, nn.Identity)]
            y_BCT = nn.functional.conv1d(y_BCT, conv.weight, stride=2)
            for one in norm:
                centred = y_BCT - y_BCT.mean(-1, keepdim=True)
                y_BCT = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
                y_BCT = y_BCT * one.weight[:, None] + one.bias[:, None]
            y_BCT = nn.functional.gelu(y_BCT)
        y_BNE = self.net.post_extract_proj(self.net.layer_norm(y_BCT.mT))
        y_BNE = y_BNE + nn.functional.gelu(self.conv_pos(y_BNE.mT)[..., : y_BNE.shape[1]]).mT
        if padded_BN is not None:
            y_BNE = torch.where(padded_BN[..., None], 0.0, y_BNE)
        if not self.norm_first:
            y_BNE = self.net.encoder.layer_norm(y_BNE)
        for layer in self.layers:
            y_BNE = layer(y_BNE, src_key_padding_mask=padded_BN)
        return self.net.encoder.layer_norm(y_BNE) if self.norm_first else y_BNE


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("n_samples", [16, 700, 2499, 5000])
@torch.no_grad()
def test_any_length_agrees_with_another_computation(norm_first: bool, n_samples: int) -> None:
    config = SMALL["ecg-fm"]["config"] | {"layer_norm_first": norm_first, "num_labels": 3}
    expert = experts.load("ecg-fm", config=config)
    for parameter in expert.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    x_BLT = torch.randn(3, 12, n_samples, generator=torch.manual_seed(2))
    reference = Reference(expert).train()  # in evaluation mode torch takes a nested fast path
    frames_BNE = expert.frame_features(x_BLT)
    assert frames_BNE.shape[1] == (((n_samples // 2) // 2) // 2) // 2
    close(frames_BNE, reference(x_BLT))
    if n_samples < 700:
        return
    mask_BT = torch.zeros(3, n_samples, dtype=torch.bool)
    mask_BT[1, 641:] = True
    mask_BT[2, 31:] = True
    padded_BN = torch.arange(frames_BNE.shape[1]) >= torch.tensor([[10**4], [40], [1]])
    wanted_BNE = reference(x_BLT, padded_BN)
    ours_BNE = expert.frame_features(x_BLT, mask_BT)
    close(ours_BNE[~padded_BN], wanted_BNE[~padded_BN])
    pooled_BE = torch.stack([wanted_BNE[0].mean(0), wanted_BNE[1, :40].mean(0), wanted_BNE[2, 0]])
    close(expert.logits(x_BLT, mask_BT), expert.proj(pooled_BE))
    close(expert.logits(x_BLT, mask_BT[:, None].expand(3, 12, -1)), expert.proj(pooled_BE))


def test_fifteen_samples_are_too_few() -> None:
    with pytest.raises(RuntimeError, match="Kernel size"):
        experts.load("ecg-fm", **SMALL["ecg-fm"]).frame_features(torch.zeros(1, 12, 15))


@torch.no_grad()
def test_an_empty_record_is_nan_to_the_classifier_and_full_to_the_pretrained(golden: Path) -> None:
    classifier, pretrained = (experts.load("ecg-fm", weights=golden / file) for file in FILES)
    x_BLT = vector(golden, "input")
    mask_BT = torch.zeros(3, 2500, dtype=torch.bool)
    mask_BT[1, 15:] = True
    logits_BC = classifier.logits(x_BLT, mask_BT)
    assert logits_BC[1].isnan().all()
    close(logits_BC[[0, 2]], vector(golden, "logits")[[0, 2]])
    close(pretrained.frame_features(x_BLT, mask_BT), vector(golden, "features"))
    close(classifier.logits(x_BLT, torch.zeros_like(mask_BT)), vector(golden, "logits"))


def test_a_padding_mask_is_the_same_for_all_leads() -> None:
    expert = experts.load("ecg-fm", **SMALL["ecg-fm"])
    x_BLT, mask_BLT = torch.zeros(2, 12, 100), torch.zeros(2, 12, 100, dtype=torch.bool)
    mask_BLT[0, 3, 90:] = True
    for mask in (mask_BLT, torch.ones(2, 99, dtype=torch.bool)):
        with pytest.raises(ValueError, match="the same for all leads"):
            expert.frame_features(x_BLT, mask)


@torch.no_grad()
def test_prepare_scales_whole_records_and_cuts_them_in_two() -> None:
    expert = experts.load("ecg-fm", **SMALL["ecg-fm"])
    x_BLT = ecg_like(3)
    x_BLT[1, 4] = 1.3
    x_BLT[2, 5] = torch.nan
    x_BLT[2, 6, 100:300] = torch.nan
    prepared = expert.prepare(x_BLT)
    assert prepared.shape == (3, 2, 12, 2500)
    whole = torch.cat([prepared[:, 0], prepared[:, 1]], dim=-1).numpy()
    x = x_BLT.numpy().astype(np.float64)
    x[2, 5] = 0.0
    spread = np.nanstd(x, -1, keepdims=True)
    wanted = (x - np.nanmean(x, -1, keepdims=True)) / np.where(spread > 1e-12, spread, 1.0)
    np.testing.assert_allclose(whole, np.nan_to_num(wanted, nan=0.0), atol=1e-5)
    assert (whole[1, 4] == 0).all()
    assert (whole[2, 5] == 0).all()
    apart = [expert.embed(prepared[:, [part]]) for part in range(2)]
    close(expert.embed(prepared), (apart[0] + apart[1]) / 2)


@pytest.mark.parametrize("pool", ["max", "mean_std"])
def test_other_poolings(pool: str) -> None:
    expert = experts.load("ecg-fm", pool=pool, **SMALL["ecg-fm"])
    prepared = expert.prepare(ecg_like(2))
    frames_BNE = expert.frame_features(prepared.flatten(0, 1)).reshape(2, 312, 16)
    f_BD = expert.embed(prepared)
    assert f_BD.shape == (2, expert.spec.width)
    close(f_BD[:, :16], frames_BNE.amax(1) if pool == "max" else frames_BNE.mean(1))


def content(golden: Path, file: str = FILES[0]) -> dict[str, Any]:
    """Read a golden checkpoint, to write it anew in another guise."""
    return torch.load(golden / file, weights_only=True)


@pytest.mark.parametrize("file", FILES)
def test_old_names_of_weight_norm_and_unusual_scalars_are_read(
    golden: Path, tmp_path: Path, file: str
) -> None:
    old = content(golden, file)
    for number, letter in enumerate("gv"):
        key = next(k for k in old["model"] if k.endswith(f"weight.original{number}"))
        name = key.replace(f"parametrizations.weight.original{number}", f"weight_{letter}")
        old["model"][name] = old["model"].pop(key)
    old["extra_state"] = {"best": np.float64(0.5), "n": np.int64(3), "a": np.arange(3)}
    old["task_state"] = {"path": Path("somewhere")}
    torch.save(old, tmp_path / "old.pt")
    ours, theirs = (experts.load("ecg-fm", weights=p) for p in (tmp_path / "old.pt", golden / file))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])


def test_a_file_without_sizes_needs_them_as_config(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "no_cfg.pt"
    full = content(golden)
    torch.save({"args": None, "model": full["model"]}, path)
    with pytest.raises(UserError, match=r"no cfg\.model in this file.*give them as `config`"):
        experts.load("ecg-fm", weights=path)
    options = experts.load("ecg-fm", weights=golden / FILES[0]).options
    expert = experts.load("ecg-fm", weights=path, **options)
    close(expert.logits(vector(golden, "input")), vector(golden, "logits"))
    # The options alone give a module that the tensors fit.
    experts.load("ecg-fm", **options).load_state_dict(expert.state_dict())


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_tensors_must_fit(golden: Path, tmp_path: Path, change: str) -> None:
    full = content(golden)
    key = "encoder.encoder.layers.1.fc1.bias"
    if change == "missing":
        del full["model"][key]
    elif change == "unexpected":
        full["model"]["encoder.quantizer.vars"] = torch.zeros(3)
    else:
        full["model"][key] = torch.zeros(3)
    torch.save(full, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"fc1\.bias|quantizer\.vars"):
        experts.load("ecg-fm", weights=tmp_path / "x.pt")


def test_the_stack_of_convolutions_is_parsed_not_evaluated() -> None:
    assert conv_layers("[(256, 2, 2)] * 4") == [(256, 2, 2)] * 4
    assert conv_layers("[(8, 3, 2), (9,2,1)]*2 + [(4, 1, 1)]") == [(8, 3, 2), (9, 2, 1)] * 2 + [
        (4, 1, 1)
    ]
    for text in (
        "", "[]", "[(1, 2)]", "[(0, 2, 2)]", "4", "[(1,2,3)] * x", "[(1,2)(4)]", "[1,2]",
        "[(1, 2, 2)] * 0",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="must be lists of"):
            conv_layers(text)


@pytest.mark.parametrize("text", ["__import__('os').mkdir('{}')", "[(1, 2, 2)] * 10**9", "[" * 999])
def test_malicious_sizes_are_refused(golden: Path, tmp_path: Path, text: str) -> None:
    full = content(golden)
    full["cfg"]["model"]["conv_feature_layers"] = text.format(tmp_path / "made")
    torch.save(full, tmp_path / "x.pt")
    with pytest.raises(UserError, match="conv_feature_layers must be lists of"):
        experts.load("ecg-fm", weights=tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


def test_impossible_sizes_and_options_are_named() -> None:
    for config, complaint in (
        ({"conv_pos_groups": 7}, "conv_pos_groups must divide encoder_embed_dim"),
        ({"extractor_mode": "layer_norm"}, "extractor_mode: .*'default'"),
        ({"encoder_layer": 2}, "unknown key 'encoder_layer', did you mean 'encoder_layers'"),
    ):
        with pytest.raises(UserError, match=f"expert ecg-fm: config: {complaint}"):
            experts.load("ecg-fm", config=config)
    with pytest.raises(UserError, match="expert ecg-fm: pool is 'mode'"):
        experts.load("ecg-fm", pool="mode")


def test_published_size_has_the_published_tensors(golden: Path) -> None:
    shapes = published_shapes(golden / "full_size_state_dict_shapes.txt")
    cfg = json.loads((golden / "full_size_model_cfg.json").read_text())
    with torch.device("meta"):
        assert experts.load("ecg-fm").spec.parameters == 90_373_248
    for kind, wanted, total in zip(cfg, shapes, (90_883_072, 90_393_242), strict=True):
        tensors = {name: torch.empty(shape, device="meta") for name, shape in wanted.items()}
        assert sum(tensor.numel() for tensor in tensors.values()) == total
        with torch.device("meta"):
            expert = experts.load("ecg-fm", config=sizes_of(cfg[kind]))
        expert._assign(tensors, "published")
        unused = [t for name, t in tensors.items() if name.startswith(PRETRAINING_ONLY)]
        assert len(unused) == (8 if kind == "pretrained" else 0)
        assert expert.spec.parameters == total - sum(tensor.numel() for tensor in unused)
