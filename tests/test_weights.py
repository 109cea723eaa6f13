"""Weight files are read without running anything that is in them."""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from enecg.errors import UserError
from enecg.experts import weights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


class Calls:
    """Pickles as a call of any function: what a malicious file does."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        """Ask the reader to call the function."""
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("how", ["os.system", "builtins.exec", "builtins.eval", "os.mkdir"])
def test_a_malicious_pickle_is_not_executed(tmp_path: Path, how: str, legacy: bool) -> None:
    trace = tmp_path / "executed"
    code = f"__import__('os').mkdir({str(trace)!r})"
    payload = {
        "os.system": Calls(os.system, f"mkdir {trace}"),
        "builtins.exec": Calls(exec, code),
        "builtins.eval": Calls(eval, code),
        "os.mkdir": Calls(os.mkdir, str(trace)),
    }[how]
    path = tmp_path / "evil.pt"
    content = {"state_dict": STATE, "cfg": payload}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy or how.startswith("os."):
        with pytest.raises(
            UserError, match=r"evil\.pt: refused: its pickle asks for .*which is not"
        ):
            weights.read(path)
    else:
        assert isinstance(weights.read(path)["cfg"], weights.Inert)
    assert not trace.exists()


def test_a_bare_malicious_pickle_is_refused(tmp_path: Path) -> None:
    trace, path = tmp_path / "executed", tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Calls(os.mkdir, str(trace)), protocol=2))
    with pytest.raises(UserError, match=r"asks for posix\.mkdir, which is not data"):
        weights.read(path)
    assert not trace.exists()


def test_other_classes_are_inert_and_tensors_come_through(tmp_path: Path) -> None:
    path = tmp_path / "fairseq_like.pt"
    settings = argparse.Namespace(layers=12, path=Path("somewhere"))
    content = {"cfg": settings, "model": collections.OrderedDict(STATE), "epoch": 3, "n": [1, "a"]}
    torch.save(content, path)
    read = weights.read(path)
    assert isinstance(read["cfg"], weights.Inert)
    assert read["cfg"].stands_for == "argparse.Namespace"
    assert (read["epoch"], read["n"]) == (3, [1, "a"])
    tensors = weights.tensors_of(read, path)
    assert all(torch.equal(tensors[key], STATE[key]) for key in STATE)


def test_fairseqs_own_layout_is_read() -> None:
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no golden vectors to compare with")
    path = Path(folder) / "ecg-fm" / "checkpoint.pt"
    tensors = weights.tensors_of(weights.read(path), path)
    assert len(tensors) > 20


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin"])
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_a_state_dict_is_found(tmp_path: Path, suffix: str, wrap: str | None) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save({wrap: STATE} if wrap else STATE, path)
    tensors = weights.tensors_of(weights.read(path), path)
    assert all(torch.equal(tensors[key], STATE[key]) for key in STATE)
    module = nn.Linear(3, 2)
    weights.assign(module, tensors, path)
    assert torch.equal(module.weight, STATE["weight"])


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = module[0].weight.clone()
    tensors = {"0.weight": torch.ones(2, 4), "0.bais": torch.ones(2), "1.bias": torch.ones(2)}
    with pytest.raises(UserError) as raised:
        weights.assign(module, tensors, "x.pt")
    assert str(raised.value) == (
        "weights x.pt: tensors missing 0.bias, 1.weight; unexpected 0.bais; "
        "of another shape 0.weight (2, 4) instead of (2, 3), did you mean '0.bais'?"
    )
    assert torch.equal(module[0].weight, before)


@pytest.mark.parametrize(
    "foreign",
    [
        (STATE["weight"] * 10).to(torch.int8),
        STATE["weight"] > 0,
        STATE["weight"].to(torch.complex64),
        STATE["weight"].to_sparse(),
        STATE["weight"].to("meta"),
        torch.quantize_per_tensor(STATE["weight"], 0.1, 0, torch.qint8),
    ],
    ids=["int8", "bool", "complex", "sparse", "meta", "quantised"],
)
def test_tensors_a_copy_would_change_are_refused(tmp_path: Path, foreign: torch.Tensor) -> None:
    path, module = tmp_path / "foreign.pt", nn.Linear(3, 2)
    before = module.weight.clone()
    torch.save(STATE | {"weight": foreign}, path)
    with pytest.raises(UserError, match=r"(of the kind wanted|without values:) weight"):
        weights.assign(module, weights.tensors_of(weights.read(path), path), path)
    assert torch.equal(module.weight, before)
    halved = {key: tensor.half() for key, tensor in STATE.items()}
    weights.assign(module, halved, path)
    assert torch.equal(module.weight, STATE["weight"])


def test_other_kinds_of_dict_are_read_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "kinds.pt"
    torch.save({"model": STATE, "history": collections.defaultdict(list, loss=[1.0])}, path)
    assert weights.read(path)["history"] == {"loss": [1.0]}
    torch.save({"model": STATE, "settings": collections.UserDict(a=1)}, path)
    assert isinstance(weights.read(path)["settings"], weights.Inert)
    torch.save({"model": STATE, "settings": OwnDict(a=1)}, path)
    with pytest.raises(UserError, match="it keeps values in a dict or list of a class of its own"):
        weights.read(path)


class OwnDict(dict[str, int]):
    """What some frameworks keep settings in."""


def test_a_long_list_is_cut() -> None:
    tensors = {f"layer{i:03}": torch.ones(1) for i in range(30)}
    with pytest.raises(UserError, match=r"layer011 and 18 more$"):
        weights.assign(nn.Identity(), tensors, "x.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02.", b"PK\x03\x04 nor a zip"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        weights.read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


def test_a_cut_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"weight": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged, or not written"):
        weights.read(path)


def test_no_file_and_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        weights.read(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder; give the file"):
        weights.read(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="no state dict"):
        weights.tensors_of(weights.read(tmp_path / "list.pt"), tmp_path / "list.pt")


def hugging_face_folder(folder: Path, how: str) -> Path:
    """Write `STATE` as a Hugging Face model does, in one of the four ways it may."""
    folder.mkdir()
    (folder / "config.json").write_text('{"d_model": 3}')
    parts = {"one": STATE} if "index" not in how else {name: {name: STATE[name]} for name in STATE}
    suffix = "safetensors" if "safetensors" in how else "bin"
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    index = {}
    for number, part in enumerate(parts.values()):
        middle = f"-{number}" if "index" in how else ""
        file = folder / f"{stem}{middle}.{suffix}"
        index |= dict.fromkeys(part, file.name)
        if suffix == "safetensors":
            safetensors.torch.save_file(part, file)
        else:
            torch.save(part, file)
    if "index" in how:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


HOWS = ("safetensors", "bin", "safetensors.index", "bin.index")


@pytest.mark.parametrize("how", HOWS)
def test_a_hugging_face_folder_is_read_whole(tmp_path: Path, how: str) -> None:
    folder = hugging_face_folder(tmp_path / "model", how)
    config, tensors = weights.read_folder(folder)
    assert config == {"d_model": 3}
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[key], STATE[key]) for key in STATE)
    found = weights.hashes(folder)
    assert "config.json" in found
    assert len(found) == (4 if "index" in how else 2)
    for name, digest in found.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path / "model", "safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Calls(os.mkdir, str(tmp_path / "x"))))
    assert weights.hashes(folder).keys() == {"config.json", "model.safetensors"}
    weights.read_folder(folder)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("how", ["bin", "bin.index"])
def test_a_malicious_pickle_in_a_folder_is_not_executed(tmp_path: Path, how: str) -> None:
    folder = hugging_face_folder(tmp_path / "model", how)
    file = next(folder.glob("*.bin"))
    torch.save({"weight": STATE["weight"], "more": Calls(os.mkdir, str(tmp_path / "x"))}, file)
    with pytest.raises(UserError, match=r"asks for posix\.mkdir, which is not data"):
        weights.read_folder(folder)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("named", ["../model.bin", "/etc/passwd", "absent.bin"])
def test_an_index_gives_only_files_of_its_folder(tmp_path: Path, named: str) -> None:
    folder = hugging_face_folder(tmp_path / "model", "bin.index")
    torch.save(STATE, tmp_path / "model.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(UserError, match=r"of this folder|files missing beside it: absent\.bin"):
        weights.read_folder(folder)


def test_an_incomplete_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        weights.hashes(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.json"):
        weights.read_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        weights.read_folder(tmp_path)
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="must hold a JSON object"):
        weights.read_folder(tmp_path)
    with pytest.raises(UserError, match="must be the folder"):
        weights.read_folder(tmp_path / "pytorch_model.bin")
