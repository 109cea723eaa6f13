"""Adapted experts: saved and read back, they answer the same, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from enecg import experts
from enecg.config import ExpertSettings
from enecg.stage1.adapted import (
    TENSORS,
    AdaptedExpert,
    Model,
    load_adapted,
    load_outputs,
    save_adapted,
    save_outputs,
)
from enecg.stage1.heads import Head
from enecg.tasks import Task
from models import DLINEAR, SETTINGS, adapted_expert, randomised, signals
from problems import AGE, FINDINGS, GENDER, RHYTHM


def inputs_of(name: str, n: int = 3) -> torch.Tensor:
    expert = experts.load(name, **SETTINGS[name].options)
    x_BLT = torch.from_numpy(signals(n))
    return expert.features(x_BLT) if SETTINGS[name].frozen else expert.prepare(x_BLT)


@pytest.mark.parametrize("n_models", [1, 3])
@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("name", "kind"),
    [("rocket", "ridge"), ("rocket", "ffn"), ("rocket", "trees"), ("dlinear", "ffn")],
)
def test_what_is_read_answers_as_what_was_saved(
    name: str, kind: str, task: Task, n_models: int, tmp_path: Path
) -> None:
    saved = adapted_expert(name, task, kind, n_models)
    save_adapted(tmp_path, {"key/0": saved})
    read = load_adapted(tmp_path, {"key/0": task}, name, SETTINGS[name])["key/0"]
    assert (read.head_kind, len(read.models)) == (kind, n_models)
    inputs = inputs_of(name)
    answer = saved.answer(inputs)
    assert answer.shape == (3, task.width)
    assert torch.isfinite(answer).all()
    assert torch.equal(read.answer(inputs), answer)


def test_a_backbone_whose_sizes_came_from_its_weights_is_read_back(tmp_path: Path) -> None:
    golden = os.environ.get("ENECG_GOLDEN_DIR")
    if not golden:
        pytest.skip("ENECG_GOLDEN_DIR is not set: no published folder to begin with")
    folder = Path(golden).resolve() / "moment" / "model"
    settings = ExpertSettings.model_validate({"adaptation": "full", "weights": str(folder)})
    backbone = experts.load("moment", weights=folder)
    head = randomised(Head(backbone.spec.width, AGE, (), trained_backbone=True), 0)
    save_adapted(tmp_path, {"key": AdaptedExpert([Model(head, backbone)], "ffn")})
    read = load_adapted(tmp_path, {"key": AGE}, "moment", settings)["key"].models[0].backbone
    assert read is not None
    assert read.spec == backbone.spec
    assert read.fingerprint() == backbone.fingerprint()


def test_every_tensor_is_saved(tmp_path: Path) -> None:
    """The authors save the LoRA tensors alone; heads, projections and gates are lost."""
    saved = adapted_expert("dlinear", RHYTHM, "ffn", 2)
    save_adapted(tmp_path, {"key": saved})
    written = load_file(tmp_path / TENSORS)
    for number, model in enumerate(saved.models):
        assert model.backbone is not None
        for part, module in (("head", model.head), ("backbone", model.backbone)):
            names = {**dict(module.named_parameters()), **module.state_dict()}
            for name, value in names.items():
                assert torch.equal(written.pop(f"key/{number}/{part}/{name}"), value)
    assert not written


def test_keys_that_begin_alike_do_not_mix(tmp_path: Path) -> None:
    saved = {f"age/{scope}": adapted_expert("rocket", AGE) for scope in ("1", "10", "all")}
    for number, adapted in enumerate(saved.values()):
        randomised(adapted.models[0].head, 100 + number)
    save_adapted(tmp_path, saved)
    read = load_adapted(tmp_path, dict.fromkeys(saved, AGE), "rocket", SETTINGS["rocket"])
    inputs = inputs_of("rocket")
    answers = [read[key].answer(inputs) for key in saved]
    assert all(
        torch.equal(a, saved[key].answer(inputs)) for a, key in zip(answers, saved, strict=True)
    )
    assert not torch.equal(answers[0], answers[1])


def test_a_backbone_that_heads_share_is_written_and_read_once(tmp_path: Path) -> None:
    backbone = randomised(experts.load("dlinear", **DLINEAR.options), 1)
    saved = {
        task.name: AdaptedExpert(
            [Model(randomised(Head(24, task, (256, 256), trained_backbone=True), 2), backbone)],
            "ffn",
        )
        for task in (AGE, GENDER)
    }
    save_adapted(tmp_path, saved)
    names = [name for name in load_file(tmp_path / TENSORS) if "/backbone/" in name]
    assert len(names) == len(backbone.state_dict())
    read = load_adapted(tmp_path, {"age": AGE, "gender": GENDER}, "dlinear", DLINEAR)
    assert read["age"].models[0].backbone is read["gender"].models[0].backbone
    inputs = inputs_of("dlinear")
    assert torch.equal(read["gender"].answer(inputs), saved["gender"].answer(inputs))


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS], ids=lambda task: task.name)
def test_the_answer_is_the_mean_of_the_models_answers(task: Task) -> None:
    several = adapted_expert("rocket", task, "ffn", 3)
    inputs = inputs_of("rocket")
    alone = [AdaptedExpert([model], "ffn").answer(inputs) for model in several.models]
    torch.testing.assert_close(several.answer(inputs), torch.stack(alone).mean(0))
    if task.kind == "classification":
        torch.testing.assert_close(several.answer(inputs).sum(1), torch.ones(3))


def test_what_is_saved_replaces_what_was_there(tmp_path: Path) -> None:
    save_adapted(tmp_path, {"a": adapted_expert("rocket", AGE), "b": adapted_expert("rocket", AGE)})
    save_adapted(tmp_path, {"a": adapted_expert("rocket", GENDER)})
    assert all(name.startswith("a/") for name in load_file(tmp_path / TENSORS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models.json", "models.safetensors"]


def test_outputs_come_back_bit_for_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    outputs = {
        "age": random.normal(size=(4, 5, 1)).astype(np.float32),
        "turned": random.normal(size=(5, 4, 2)).astype(np.float32).transpose(1, 0, 2),
        "view": random.normal(size=(3, 2)).astype(np.float16),
    }
    outputs["age"][2] = np.nan
    save_outputs(tmp_path / "deep" / "outputs.safetensors", outputs)
    read = load_outputs(tmp_path / "deep" / "outputs.safetensors")
    assert read.keys() == outputs.keys()
    for name, value in outputs.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)
