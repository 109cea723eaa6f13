"""Bundles: whole, free of code, the same after a round trip."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from enecg import experts
from enecg.bundle import Bundle, load_bundles
from enecg.checked_files import read_sealed_json, write_sealed_json
from enecg.config import ExpertSettings
from enecg.errors import UserError
from enecg.evaluation.model_card import model_card
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import PARTS
from enecg.predict import predict_file
from enecg.predictor import Predictor
from enecg.tasks import Task, task_from
from models import ROCKET, adapted_expert, bundle, gate, signals
from problems import AGE, FINDINGS, GENDER, RHYTHM

CPU = torch.device("cpu")
OWN_TASK = task_from(
    {"qt": {"kind": "regression", "unit": "ms", "valid": [200, 700], "column": "qt_ms"}}
)


@pytest.mark.parametrize("task", [AGE, RHYTHM, FINDINGS, OWN_TASK], ids=lambda task: task.name)
def test_what_is_loaded_predicts_as_what_was_saved(task: Task, tmp_path: Path) -> None:
    made = bundle(task)
    made.save(tmp_path / task.name)
    [read] = load_bundles(tmp_path / task.name)
    assert read.task == task
    assert read.expert_names == made.expert_names
    assert read.provenance == made.provenance
    x_BLT = signals(5)
    [before], [after] = (list(Predictor([one], CPU)(x_BLT).values()) for one in (made, read))
    for one, other in zip(before, after, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)
    assert np.isfinite(before.prediction_BC).all() and np.isfinite(before.weights_BE).all()


def test_two_experts_of_one_kind_answer_under_their_own_names(tmp_path: Path) -> None:
    """Bundled, each keeps its own options."""
    first, second = adapted_expert("rocket", AGE), adapted_expert("rocket", AGE, "trees")
    seeds = ExpertSettings.model_validate(ROCKET.model_dump() | {"expert": "rocket", "seed": 5})
    names = ("rocket", "again")
    made = Bundle(
        AGE,
        list(names),
        {"rocket": (ROCKET, first), "again": (seeds, second)},
        GateEnsemble([(1, gate(AGE, names, depth=0))]),
        {},
    )
    made.save(tmp_path / "b")
    [read] = load_bundles(tmp_path / "b")
    x_BLT = signals(3)
    [(answer_BC, weights_BE, _)] = Predictor([read], CPU)(x_BLT).values()
    by_hand_BC = sum(
        torch.from_numpy(weights_BE[:, place, None])
        * adapted.answer(
            experts.load("rocket", **settings.options).features(torch.from_numpy(x_BLT))
        )
        for place, (settings, adapted) in enumerate(made.experts.values())
    )
    np.testing.assert_allclose(answer_BC, by_hand_BC, rtol=1e-5)


def test_every_tensor_is_in_the_bundle(tmp_path: Path) -> None:
    made = bundle(RHYTHM)
    made.save(tmp_path / "b")
    written = [
        value.numpy().tobytes()
        for path in (tmp_path / "b").rglob("*.safetensors")
        for value in load_file(path).values()
    ]
    modules = [
        module
        for _, adapted in made.experts.values()
        for model in adapted.models
        for module in (model.head, model.backbone)
        if module is not None
    ]
    wanted = [value for module in modules for value in module.state_dict().values()]
    wanted += [
        torch.from_numpy(getattr(reduction, part))
        for reduction in made.reductions.values()
        for part in PARTS
    ]
    wanted += [value for _, g in made.ensemble.members for value in g.parameters.values()]
    assert Counter(value.numpy().tobytes() for value in wanted) == Counter(written)


def test_a_bundle_holds_json_and_safetensors_and_no_pickle(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    files = [path for path in (tmp_path / "b").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        assert not zipfile.is_zipfile(path)
        assert path.read_bytes()[:1] != b"\x80", "the first byte of a pickle"
        if path.suffix == ".json":
            json.loads(path.read_text())


def test_the_card_says_what_answers(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    card = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert "one model refitted" in card["experts"]["rocket"]["answer"]
    assert "the mean of 3 models" in card["experts"]["dlinear"]["answer"]
    assert [gate["drawn"] for gate in card["gates"]] == [2, 1, 1]


ELSEWHERE = ExpertSettings(expert="dlinear", weights="nowhere.pth", adaptation="head")


def test_the_model_card_says_what_is_not_in_the_bundle_and_what_may_flatter() -> None:
    made = bundle(AGE, rocket=adapted_expert("rocket", AGE))
    made.expert_names, ensemble = ["rocket", "published"], [(1, gate(AGE, ("rocket", "published")))]
    made.ensemble = GateEnsemble(ensemble)
    made.experts["published"] = (ELSEWHERE, adapted_expert("rocket", AGE))
    corpora = {"rocket": [], "published": ["mimic-iv-ecg", "challenge"]}
    made.provenance |= {
        "trained_on": "all groups", "source": "ptb-xl", "records": "0" * 64, "commit": None,
        "experts": {
            name: {"licence": "MIT", "pretraining_corpora": of} for name, of in corpora.items()
        },
    }  # fmt: skip
    decision = {
        "way": "greedy", "gain_of_gates": 1.0, "standard_error": 0.1, "calibration": "none",
    }  # fmt: skip
    score = {"mean": 8.0, "ci95": [7.0, 9.0]}
    results = {
        "n": 7, "predictors": {"deployed": {"mae": score}}, "comparisons": {},
        "decisions": {"all": decision},
    }  # fmt: skip
    lines = {line[:10]: line for line in model_card(made, results).splitlines()}
    own, published = lines["- `rocket`"], lines["- `publish"]
    assert "one model refitted on all training groups" in own and "nothing)" in own
    assert "weights" not in own and "flatter" not in own
    assert "challenge, which shares records with these: results may flatter" in published
    assert published.endswith("Its weights are not in the bundle but read from `nowhere.pth`")


def test_weights_that_are_not_there_are_told_before_a_cluster_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle(AGE)
    made.experts["dlinear"] = (ELSEWHERE, made.experts["dlinear"][1])
    made.save(tmp_path / "b")
    monkeypatch.setattr("enecg.predict.connect", None)
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        predict_file(tmp_path / "b", tmp_path, tmp_path / "out.parquet")


def test_saving_replaces_the_whole_folder(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    bundle(AGE, rocket=adapted_expert("rocket", AGE)).save(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b" / "experts").iterdir()] == ["rocket"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert list(Bundle.load(tmp_path / "b").experts) == ["rocket"]


def changed(**values: Any) -> Callable[[Path], None]:
    """Another description, with the checksum that is right for it."""

    def change(folder: Path) -> None:
        path = folder / "bundle.json"
        write_sealed_json(path, read_sealed_json(path) | values)

    return change


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def wider_gate(folder: Path) -> None:
    path = folder / "bundle.json"
    description = read_sealed_json(path)
    description["gates"][0]["choice"]["width"] += 1
    write_sealed_json(path, description)


def swapped(folder: Path) -> None:
    bundle(RHYTHM).save(folder.parent / "other")
    for name in ("models.safetensors", "models.json"):
        (folder.parent / "other/experts/dlinear" / name).replace(folder / "experts/dlinear" / name)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (changed(format_version=1), "this version reads 4"),
        (changed(format="something else"), "something else"),
        (text("bundle.json", "{"), "not a bundle's description"),
        (text("bundle.json", "[]"), "not a bundle's description"),
        (text("bundle.json", "{}"), "not a bundle's description"),
        (changed(task={}), "damaged"),
        (changed(task={"name": "x", "kind": "regression", "classes": ["a"]}), "damaged"),
        (changed(experts={"rocket": {"settings": {"adaptation": "x"}}}), "damaged"),
        (changed(experts={"rocket": None}), "damaged"),
        (changed(gates=[{"drawn": 1, "choice": {"leads": "V9"}}]), "damaged"),
        (changed(gates=[{"drawn": 1}]), "damaged"),
        (changed(calibration={"kind": "temperature"}), "damaged"),
        (wider_gate, "gate 0 is of another shape than its description says"),
        (without("gates.safetensors"), "damaged"),
        (without("features.safetensors"), "damaged"),
        (without("experts/rocket/models.json"), "damaged"),
        (without("experts/dlinear/models.safetensors"), "damaged"),
        (cut("gates.safetensors"), "damaged"),
        (cut("experts/dlinear/models.safetensors"), "damaged"),
        (cut("experts/rocket/models.json"), "damaged"),
        (text("experts/rocket/models.json", '{"model": {}}'), "damaged"),
        (swapped, "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_bundle_is_told_in_one_clear_error(
    harm: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "b"
    bundle(AGE).save(folder)
    harm(folder)
    with pytest.raises(UserError, match=told) as caught:
        load_bundles(folder)
    assert str(folder) in str(caught.value)


def test_where_no_bundle_is_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no bundle here; give bundle/ or bundle/<task>"):
            load_bundles(folder)
    with pytest.raises(UserError, match="no bundle here"):
        Bundle.load(tmp_path)


def test_a_bundle_that_a_killed_job_was_building_is_not_loaded(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "age")
    (tmp_path / "age").rename(tmp_path / ".age.building")
    with pytest.raises(UserError, match="no bundle here"):
        load_bundles(tmp_path)
    bundle(AGE).save(tmp_path / "age")
    assert [path.name for path in tmp_path.iterdir()] == ["age"]


def test_a_folder_of_bundles_is_loaded_in_alphabetical_order(tmp_path: Path) -> None:
    for task in (RHYTHM, AGE, GENDER):
        bundle(task).save(tmp_path / task.name)
    read = load_bundles(tmp_path)
    assert [one.task.name for one in read] == ["age", "gender", "report_label"]


def test_experts_that_no_gate_weighs_are_read_only_to_be_judged(tmp_path: Path) -> None:
    made = bundle(RHYTHM)
    made.ensemble = GateEnsemble([(1, gate(RHYTHM, ("rocket",), depth=0))])
    made.stacking, made.dummy = {"rocket": 0.75, "dlinear": 0.25}, (0.4, 0.3, 0.2, 0.1)
    made.expert_names = ["rocket", "dlinear"]
    made.save(tmp_path / "b")
    [lean], [whole] = load_bundles(tmp_path / "b"), load_bundles(tmp_path / "b", every_expert=True)
    assert list(lean.experts) == lean.weighed == whole.weighed == ["rocket"]
    assert list(whole.experts) == ["rocket", "dlinear"]
    assert (whole.stacking, whole.dummy) == (made.stacking, made.dummy)
    x_BLT = signals(3)
    [one], [other] = (Predictor([read], CPU)(x_BLT).values() for read in (lean, whole))
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert np.isnan(one.outputs_BEC[:, 1]).all() and np.isfinite(other.outputs_BEC).all()
    np.testing.assert_array_equal(one.outputs_BEC[:, 0], other.outputs_BEC[:, 0])


def test_a_bundle_refuses_a_backbone_that_it_was_not_made_with(tmp_path: Path) -> None:
    made = bundle(AGE, rocket=adapted_expert("rocket", AGE))
    made.fingerprints["rocket"] = "another"
    made.save(tmp_path / "bundle")
    with pytest.raises(UserError, match="expert rocket is not the one"):
        Predictor([Bundle.load(tmp_path / "bundle")], torch.device("cpu"))
