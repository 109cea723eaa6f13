"""No weights file of any expert runs the code that it holds, and none needs a network."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from enecg import experts
from enecg.errors import UserError
from tests.expert_signals import ecg_like
from tests.small_experts import SMALL

LOADING = [name for name in experts.names() if name != "rocket"]
GOLDEN = {"ecg-fm": "checkpoint.pt", "ecgfounder": "checkpoint.pth", "dlinear": "checkpoint.pth",
          "tempo": "checkpoint.pth", "timesnet": "checkpoint.pth", "moment": "model"}  # fmt: skip


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        """Ask the reader to call the function."""
        return self.call


def payloads(trace: Path) -> list[Any]:
    """Objects whose unpickling, as pickle does it, makes a folder ``trace``."""
    return [
        Calls(os.mkdir, str(trace)),
        Calls(exec, f"__import__('os').mkdir({str(trace)!r})"),
        np.array([Calls(os.mkdir, str(trace))], dtype=object),
    ]


def test_the_payloads_do_work(tmp_path: Path) -> None:
    for payload in payloads(tmp_path / "made"):
        pickle.loads(pickle.dumps(payload))
        (tmp_path / "made").rmdir()


def contents(state: dict[str, Any], payload: Any) -> list[Any]:
    """Checkpoints that hold a payload: bare, beside the tensors, among them, in what describes."""
    return [
        payload,
        {"model": state, "cfg": {"model": {"encoder_layers": payload}}, "args": payload},
        {**state, next(iter(state)): payload},
        {"state_dict": state, "extra_state": {"best": [payload]}, "optimizer": (payload,)},
    ]


@pytest.mark.parametrize("name", LOADING)
@pytest.mark.parametrize("form", ["zip", "legacy", "folder"])
def test_code_in_weights_is_not_run(name: str, form: str, tmp_path: Path) -> None:
    trace, options = tmp_path / "made", SMALL.get(name, {})
    state = dict(experts.load(name, **options).state_dict())
    for payload in payloads(trace):
        for content in contents(state, payload):
            path = file = tmp_path / "weights"
            if form == "folder":
                path.mkdir(exist_ok=True)
                (path / "config.json").write_text("{}")
                file = path / "pytorch_model.bin"
            torch.save(content, file, _use_new_zipfile_serialization=form != "legacy")
            with suppress(UserError):  # read without what is not data, or refused: both will do
                experts.load(name, path, **options)
            assert not trace.exists()


@pytest.mark.parametrize("name", sorted(set(GOLDEN) & set(LOADING)))
def test_code_beside_real_tensors_is_not_run(name: str, tmp_path: Path) -> None:
    folder = os.environ.get("ENECG_GOLDEN_DIR")
    if not folder:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no published files to tamper with")
    source, trace = Path(folder).resolve() / name / GOLDEN[name], tmp_path / "made"
    options = {"config": source.parent / "config.json"} if name in ("ecgfounder", "tempo") else {}
    if source.is_dir():
        path = tmp_path / "model"
        shutil.copytree(source, path, copy_function=shutil.copyfile)
        content = safetensors.torch.load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
    else:
        content, path = torch.load(source, weights_only=False), tmp_path / "weights.pt"
    untouched = experts.load(name, source, **options).fingerprint()
    nested = {"state_dict", "model", "cfg"} & set(content)
    for payload in payloads(trace):
        tampered = {**content, "more": {"x": payload}} if nested else {**content, "more": payload}
        torch.save(tampered, path / "pytorch_model.bin" if path.is_dir() else path)
        with suppress(UserError):
            assert experts.load(name, path, **options).fingerprint() == untouched
        assert not trace.exists()


@pytest.mark.parametrize("name", experts.names())
def test_no_network_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    expert = experts.load(name, **SMALL.get(name, {}))
    with torch.no_grad():
        expert.features(ecg_like(1))
    assert asked == []
