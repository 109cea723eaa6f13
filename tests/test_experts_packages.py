"""MOMENT, Mantis and Chronos: what their authors' packages give, out of the folders they write."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from enecg import experts
from enecg.errors import UserError
from enecg.experts.pooling import segments
from tests.expert_signals import ecg_like
from tests.small_experts import SMALL
from tests.test_weights import Calls

EXACT = {"rtol": 0, "atol": 1e-5}
MANTIS = {"hidden_dim": 16, "num_patches": 8, "transf_depth": 3, "transf_num_heads": 2,
          "transf_mlp_dim": 16, "transf_dim_head": 8, "hidden_dim_scalar_enc": 8}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
FORECASTING = {"context_length": 2048, "input_patch_size": 16, "input_patch_stride": 16,
               "quantiles": [0.1, 0.5, 0.9], "use_reg_token": True}  # fmt: skip


@pytest.fixture(scope="module")
def golden() -> Path:
    """The folder of golden vectors of MOMENT, or a reason to skip."""
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    return Path(folder).resolve() / "moment"


@pytest.fixture(scope="module")
def mantis_package() -> Any:
    """The package's architectures."""
    return pytest.importorskip("mantis.architecture")


@pytest.fixture(scope="module")
def chronos_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Small models with random weights, written by the package: by version, folder and pipeline."""
    chronos = pytest.importorskip("chronos")
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    root = tmp_path_factory.mktemp("chronos")
    torch.manual_seed(0)
    second = Chronos2Model(
        Chronos2CoreConfig(
            **T5,
            initializer_factor=1.0,
            chronos_config=FORECASTING | {"output_patch_size": 16, "use_arcsinh": True},
        )
    ).eval()
    bolt = ChronosBoltModelForForecasting(
        T5Config(
            **T5,
            num_decoder_layers=2,
            decoder_start_token_id=0,
            chronos_config=FORECASTING | {"prediction_length": 64},
        )
    ).eval()
    second.save_pretrained(root / "chronos-2")
    bolt.save_pretrained(root / "chronos-bolt")
    return {
        "chronos-2": (root / "chronos-2", chronos.Chronos2Pipeline(second)),
        "chronos-bolt": (root / "chronos-bolt", chronos.ChronosBoltPipeline(bolt)),
    }


@torch.no_grad()
def test_moments_golden_folder_gives_the_golden_embedding(golden: Path) -> None:
    expert = experts.load("moment", weights=golden / "model")
    x_BLT, embedding, unreduced = (
        torch.from_numpy(np.load(golden / f"{name}.npy"))
        for name in ("input", "embedding", "embedding_unreduced")
    )
    torch.testing.assert_close(expert.embed(x_BLT), embedding, **EXACT)
    # Single values of the golden run are themselves 3e-5 away from float64; as a whole they agree.
    away = expert.patches(x_BLT) - unreduced
    assert away.norm() < 1e-5 * unreduced.norm()
    assert away.abs().max() < 5e-5
    assert set(expert.weight_files) == {"config.json", "model.safetensors"}


@torch.no_grad()
def test_moment_equals_momentfms_own_pipeline(golden: Path) -> None:
    from momentfm import MOMENTPipeline

    config = json.loads((golden / "model" / "config.json").read_text())
    theirs = MOMENTPipeline(config, model_kwargs={"task_name": "embedding"})
    theirs.init()
    tensors = safetensors.torch.load_file(golden / "model" / "model.safetensors")
    theirs.load_state_dict(tensors, strict=False)
    expert = experts.load("moment", weights=golden / "model")
    prepared = expert.prepare(ecg_like(3))
    wanted = theirs.eval().embed(x_enc=prepared, reduction="mean").embeddings
    torch.testing.assert_close(expert.embed(prepared), wanted, rtol=1e-6, atol=1e-6)


def test_a_moment_folder_may_hold_a_checkpoint_that_is_read_without_running_it(
    golden: Path, tmp_path: Path
) -> None:
    folder, trace = tmp_path / "model", tmp_path / "executed"
    folder.mkdir()
    shutil.copy(golden / "model" / "config.json", folder)
    tensors = safetensors.torch.load_file(golden / "model" / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    ours, theirs = (experts.load("moment", weights=p) for p in (folder, golden / "model"))
    assert ours.fingerprint() == theirs.fingerprint()
    torch.save(tensors | {"x": Calls(os.mkdir, str(trace))}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="which is not data"):
        experts.load("moment", weights=folder)
    assert not trace.exists()
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"missing encoder\.block\.1\.layer\.0\.SelfAttention\.q"):
        experts.load("moment", weights=folder)


def test_building_moment_is_quiet_and_leaves_logging_and_its_options_alone(
    recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    root, before = logging.getLogger(), SMALL["moment"]["config"]
    handlers, text = list(root.handlers), json.dumps(before)
    experts.load("moment", **SMALL["moment"])
    assert root.handlers == handlers
    assert json.dumps(before) == text
    assert [str(w.message) for w in recwarn if "momentfm" in str(w.filename)] == []
    assert capfd.readouterr() == ("", "")


@torch.no_grad()
def test_mantis_gives_what_its_package_gives(mantis_package: Any, tmp_path: Path) -> None:
    x_BLT = ecg_like(2)
    for kind in ("MantisV1", "Mantis8M", "MantisV2"):
        network = getattr(mantis_package, kind)(**MANTIS, device="cpu").eval()
        network.save_pretrained(tmp_path / kind)
        expert = experts.load("mantis", weights=tmp_path / kind)
        prepared = expert.prepare(x_BLT)
        wanted = network(prepared.flatten(0, 1)[:, None]).unflatten(0, (2, 12)).flatten(1)
        torch.testing.assert_close(expert.embed(prepared), wanted, **EXACT)
        assert expert.spec.width == 12 * 16
        if kind == "Mantis8M":  # has no choice of layer and token
            continue
        network.return_transf_layer, network.output_token = 1, "combined"
        chosen = experts.load("mantis", weights=tmp_path / kind, layer=1, token="combined")
        wanted = network(prepared.flatten(0, 1)[:, None]).unflatten(0, (2, 12)).flatten(1)
        torch.testing.assert_close(chosen.embed(prepared), wanted, **EXACT)
        frozen = [n for n, p in chosen.network.named_parameters() if not p.requires_grad]
        assert frozen and all(".layers.2." in name for name in frozen)


@torch.no_grad()
@pytest.mark.parametrize("version", ["chronos-2", "chronos-bolt"])
def test_chronos_gives_what_its_package_gives(
    chronos_folders: dict[str, tuple[Path, Any]], version: str
) -> None:
    folder, pipeline = chronos_folders[version]
    expert = experts.load("chronos", weights=folder)
    prepared = expert.prepare(ecg_like(5))
    if version == "chronos-2":  # the leads of a record are one multivariate series
        wanted = torch.stack(pipeline.embed(prepared)[0])
    else:
        wanted = pipeline.embed(prepared.flatten(0, 1))[0].unflatten(0, (5, 12))
    torch.testing.assert_close(expert.states(prepared), wanted, **EXACT)
    patches = wanted[:, :, :64]
    torch.testing.assert_close(expert.embed(prepared), patches.flatten(1, 2).mean(1), **EXACT)
    reg = experts.load("chronos", weights=folder, pool="reg", leads="apart")
    torch.testing.assert_close(reg.embed(prepared), wanted[:, :, 64].flatten(1), **EXACT)
    assert (reg.spec.width, expert.spec.width) == (12 * 16, 16)


@pytest.mark.parametrize("name", ["mantis", "chronos"])
def test_checkpoints_in_the_other_folders_are_not_run_either(
    mantis_package: Any,
    chronos_folders: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    name: str,
) -> None:
    if name == "mantis":
        mantis_package.MantisV1(**MANTIS, device="cpu").save_pretrained(tmp_path)
    else:
        shutil.copytree(chronos_folders["chronos-2"][0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    trace = tmp_path / "executed"
    torch.save({"x": Calls(os.mkdir, str(trace))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="which is not data"):
        experts.load(name, weights=tmp_path)
    assert not trace.exists()


@torch.no_grad()
@pytest.mark.parametrize("name", ["moment", "mantis"])
def test_19_at_a_higher_rate_all_of_the_record_is_seen_in_windows(name: str) -> None:
    expert = experts.load(name, **SMALL[name], sampling_rate_hz=100.0)
    x_BLT = ecg_like(1)
    prepared = expert.prepare(x_BLT)
    assert prepared.shape == (1, 12, 1000)
    whole = expert.embed(prepared)
    windows = [expert.embed(window) for window in segments(prepared, 512).unbind(dim=1)]
    torch.testing.assert_close(whole, torch.stack(windows).mean(dim=0), rtol=1e-4, atol=1e-5)
    for moment in (100, 4900):  # milliseconds / 2: both ends matter
        changed = x_BLT.clone()
        changed[:, :, moment : moment + 50] += 1.0
        assert not torch.allclose(expert.features(changed), whole, atol=1e-4)


BLOCKED: dict[str, tuple[str, str]] = {
    "moment": ("momentfm", "pip install --no-deps momentfm==0.1.4"),
    "mantis": ("mantis", "pip install 'enecg[mantis]'"),
    "chronos": ("chronos", "pip install 'enecg[chronos]'"),
}


def test_a_missing_package_is_said_and_everything_else_goes_on() -> None:
    program = (
        "import sys\n"
        f"for package, _ in {list(BLOCKED.values())}: sys.modules[package] = None\n"
        "from enecg import experts\n"
        f"for name in {list(BLOCKED)}:\n"
        "    assert experts.expert_class(name).published and experts.options(name)\n"
        "    try: experts.load(name)\n"
        "    except ImportError as error: print(error)\n"
        "print(experts.load('dlinear').spec.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *messages, last = done.stdout.splitlines()
    for name, message in zip(BLOCKED, messages, strict=True):
        assert message.startswith(f"expert {name} needs ") and BLOCKED[name][1] in message
    assert last == "dlinear"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moment", {"sampling_rate_hz": 51.0}, r"sampling_rate_hz is 51.0 \(allowed: 51.2 to 500"),
        ("moment", {"sampling_rate_hz": 60.03}, "whole number of samples in 10 s"),
        ("moment", {"pool": "meen"}, "pool is 'meen', did you mean 'mean'"),
        ("mantis", {"layer": 6}, r"layer is 6 \(allowed: -1 to 5\)"),
        ("mantis", {"token": "cls"}, "token is 'cls', did you mean 'cls_token'"),
        ("mantis", {"config": {"num_patches": 30}}, "seq_len must be a multiple of num_patches"),
        ("chronos", {"config": {"architectures": ["T5"]}}, r"architectures is \['T5'\]"),
        ("chronos", {"sampling_rate_hz": 500.0, "config": {"chronos_config": {
            "context_length": 2048}}}, "gives 5000 samples"),
        ("chronos", {"pool": "reg", "config": {"chronos_config": {"use_reg_token": False}}},
         r"no \[REG\] token"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_options_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=f"expert {name}: .*{message}"):
        experts.load(name, **options)


@torch.no_grad()
def test_leads_of_chronos_2_see_each_other_and_records_do_not() -> None:
    expert = experts.load("chronos", **SMALL["chronos"])
    prepared = expert.prepare(ecg_like(6))
    before = expert.states(prepared)
    changed = prepared.clone()
    changed[0, 3] = changed[0, 3].flip(0)
    after = expert.states(changed)
    assert not torch.allclose(after[0, 7], before[0, 7], atol=1e-4)
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-5, atol=1e-6)
