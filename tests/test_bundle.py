"""Bundles: whole, free of code, the same after a round trip; and what predicts from them."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from enecg import experts
from enecg.bundle import Bundle, load_bundles
from enecg.config import ExpertSettings
from enecg.errors import UserError
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.features import PARTS
from enecg.predict import rows_of
from enecg.predictor import AT_A_TIME, Predictor
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.kernel import KernelHead, fit_kernel
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


def test_saving_replaces_the_whole_folder(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "b")
    bundle(AGE, rocket=adapted_expert("rocket", AGE)).save(tmp_path / "b")
    assert [path.name for path in (tmp_path / "b" / "experts").iterdir()] == ["rocket"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert list(Bundle.load(tmp_path / "b").experts) == ["rocket"]


def changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def wider_gate(folder: Path) -> None:
    path = folder / "bundle.json"
    description = json.loads(path.read_text())
    description["gates"][0]["choice"]["width"] += 1
    path.write_text(json.dumps(description))


def swapped(folder: Path) -> None:
    bundle(RHYTHM).save(folder.parent / "other")
    for name in ("models.safetensors", "models.json"):
        (folder.parent / "other/experts/dlinear" / name).replace(folder / "experts/dlinear" / name)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (changed(format_version=1), "this version reads 2"),
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


@pytest.fixture(scope="module")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundle")
    for task in (RHYTHM, AGE, GENDER):
        bundle(task).save(folder / task.name)
    return load_bundles(folder)


def test_a_bundle_that_a_killed_job_was_building_is_not_loaded(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / "age")
    (tmp_path / "age").rename(tmp_path / ".age.building")
    with pytest.raises(UserError, match="no bundle here"):
        load_bundles(tmp_path)
    bundle(AGE).save(tmp_path / "age")
    assert [path.name for path in tmp_path.iterdir()] == ["age"]


def test_a_folder_of_bundles_is_loaded_in_alphabetical_order(three_tasks: list[Bundle]) -> None:
    assert [one.task.name for one in three_tasks] == ["age", "gender", "report_label"]


def test_predictions_do_not_depend_on_the_batch() -> None:
    """Bit for bit: alone, in another order, in other company; for every kind of head."""
    kinds = {"ridge": RHYTHM, "ffn": AGE, "trees": GENDER, "gaussian": FINDINGS}
    more = {"trees": FINDINGS, "gaussian": AGE, "laplacian": RHYTHM}
    made = [
        bundle(
            replace(task, name=f"{task.name} by {kind}"),
            rocket=adapted_expert("rocket", task, kind),
            dlinear=adapted_expert("dlinear", task, "ffn", 3),
        )
        for kind, task in [*kinds.items(), *more.items()]
    ]
    predict, x_BLT = Predictor(made, CPU), signals(AT_A_TIME + 7)
    x_BLT[2] = np.nan
    together = predict(x_BLT)
    order = np.random.default_rng(0).permutation(len(x_BLT))
    for rows in ([0], [2], [AT_A_TIME + 3], [5, 1, 38], order):
        for task, answer in predict(x_BLT[rows]).items():
            for one, other in zip(answer, together[task], strict=True):
                assert one.tobytes() == other[rows].tobytes(), f"{task}, records {rows}"


def test_missing_leads_give_finite_predictions(three_tasks: list[Bundle]) -> None:
    x_BLT = signals(2)
    x_BLT[0] = np.nan
    for predicted, weights, _ in Predictor(three_tasks, CPU)(x_BLT).values():
        assert np.isfinite(predicted).all()
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


def test_predictions_are_the_weighted_answers_of_the_experts() -> None:
    made, x_BLT = bundle(RHYTHM), signals(3)
    names = ("rocket", "dlinear")
    gates = [(2, gate(RHYTHM, names, 1)), (1, gate(RHYTHM, names[:1], 2, depth=0))]
    made.ensemble = GateEnsemble(gates)
    predicted_BC, weights_BE, _ = Predictor([made], CPU)(x_BLT)["report_label"]
    assert (weights_BE[:, 2] == 0).all(), "no gate weighs this expert"
    rocket, dlinear = (experts.load(n, **s.options) for n, (s, _) in made.experts.items())
    x = torch.from_numpy(x_BLT)
    answers = [
        made.experts["rocket"][1].answer(rocket.features(x)),
        made.experts["dlinear"][1].answer(dlinear.prepare(x)),
    ]
    expected = sum(weights_BE[:, [e]] * answer.numpy() for e, answer in enumerate(answers))
    np.testing.assert_allclose(predicted_BC, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often experts prepare and embed, counted from here on."""
    counted: Counter[str] = Counter()

    def count(cls: type, method: str) -> None:
        real = getattr(cls, method)

        def counting(self: Any, inputs: Any) -> Any:
            counted[f"{self.name} {method}"] += 1
            return real(self, inputs)

        monkeypatch.setattr(cls, method, counting)

    for name in ("rocket", "dlinear", "beats"):
        for method in ("prepare", "embed"):
            count(experts.expert_class(name), method)
    return counted


def test_a_backbone_that_tasks_share_runs_once_per_batch(
    three_tasks: list[Bundle], calls: Counter[str]
) -> None:
    predict = Predictor(three_tasks, CPU)
    for batch in (1, 2):
        predict(signals(2))
        assert calls["rocket prepare"] == calls["rocket embed"] == batch
        assert calls["dlinear prepare"] == batch
        assert calls["dlinear embed"] == batch * 3 * 3, "each task has three backbones of its own"


def test_a_backbone_that_was_trained_for_two_tasks_runs_once(
    tmp_path: Path, calls: Counter[str]
) -> None:
    for_age = adapted_expert("dlinear", AGE, n_models=2)
    for_sex = adapted_expert("dlinear", GENDER, n_models=2)
    for one, other in zip(for_age.models, for_sex.models, strict=True):
        other.backbone = one.backbone
    for task, adapted in ((AGE, for_age), (GENDER, for_sex)):
        bundle(task, dlinear=adapted).save(tmp_path / task.name)
    Predictor(load_bundles(tmp_path), CPU)(signals(2))
    assert calls["dlinear prepare"] == 1
    assert calls["dlinear embed"] == 2


def test_joined_experts_run_once_with_those_that_stand_alone(calls: Counter[str]) -> None:
    joined = ExpertSettings.model_validate(
        {"expert": "joined", "of": [{"rocket": {"kernels": 8}}, "beats"]}
    )
    width = experts.load("joined", **joined.options).spec.width
    head = AdaptedExpert([Model(fit_kernel_head(width))], "laplacian")
    names = ("rocket", "both")
    made = Bundle(
        AGE,
        list(names),
        {"rocket": (ROCKET, adapted_expert("rocket", AGE)), "both": (joined, head)},
        GateEnsemble([(1, gate(AGE, names))]),
        {},
    )
    x_BLT = signals(2)
    [(answer_BC, weights_BE, _)] = Predictor([made], CPU)(x_BLT).values()
    assert calls["rocket embed"] == calls["beats embed"] == 1
    x = torch.from_numpy(x_BLT)
    by_hand = [
        made.experts[name][1].answer(experts.load(expert, **settings.options).features(x)).numpy()
        for name, expert, settings in (("rocket", "rocket", ROCKET), ("both", "joined", joined))
    ]
    known_BC = sum(weights_BE[:, [e]] * answer for e, answer in enumerate(by_hand))
    np.testing.assert_allclose(answer_BC, known_BC, rtol=1e-5)


def fit_kernel_head(width: int) -> KernelHead:
    """A kernel head for ages, on random features."""
    generator = torch.Generator().manual_seed(0)
    f_RD = torch.randn(40, width, generator=generator)
    age_R = 50 + 10 * f_RD[:, 0].double()
    return fit_kernel("laplacian", f_RD, age_R, torch.arange(40) % 4, AGE)


def test_backbones_of_other_settings_are_not_shared() -> None:
    one, other = (
        bundle(AGE, rocket=adapted_expert("rocket", AGE)),
        bundle(GENDER, rocket=adapted_expert("rocket", GENDER)),
    )
    other.experts["rocket"] = (
        ExpertSettings.model_validate(ROCKET.model_dump() | {"seed": 5}), other.experts["rocket"][1]
    )  # fmt: skip
    x_BLT = signals(2)
    together = Predictor([one, other], CPU)(x_BLT)
    np.testing.assert_array_equal(together["age"][0], Predictor([one], CPU)(x_BLT)["age"][0])
    np.testing.assert_array_equal(
        together["gender"][0], Predictor([other], CPU)(x_BLT)["gender"][0]
    )


def test_columns_are_named_by_task_class_and_expert(three_tasks: list[Bundle]) -> None:
    answers = Predictor(three_tasks, CPU)(signals(4))
    age, _, rhythm = (rows_of(one, answers[one.task.name]) for one in three_tasks)
    weights = ["__w__rocket", "__w__dlinear", "__w__unused"]
    assert list(age) == ["age", *("age" + name for name in weights)]
    probabilities = [f"report_label__p__{name}" for name in RHYTHM.classes]
    assert list(rhythm) == ["report_label", *probabilities, *("report_label" + w for w in weights)]
    shares = np.stack([rhythm[name] for name in probabilities], axis=1)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert rhythm["report_label"].tolist() == [RHYTHM.classes[c] for c in shares.argmax(1)]


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


def test_of_several_labels_those_that_hold_are_named() -> None:
    made = bundle(FINDINGS)
    [answer] = Predictor([made], CPU)(signals(3)).values()
    answer.prediction_BC[:] = [[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [0.0, 0.0, 1.0]]
    columns = rows_of(made, answer)
    assert columns["findings"].tolist() == ["MI;CD", "", "HYP"]
    np.testing.assert_array_equal(columns["findings__p__CD"], answer.prediction_BC[:, 1])


def test_a_bundle_refuses_a_backbone_that_it_was_not_made_with(tmp_path: Path) -> None:
    made = bundle(AGE, rocket=adapted_expert("rocket", AGE))
    made.fingerprints["rocket"] = "another"
    made.save(tmp_path / "bundle")
    with pytest.raises(UserError, match="expert rocket is not the one"):
        Predictor([Bundle.load(tmp_path / "bundle")], torch.device("cpu"))
