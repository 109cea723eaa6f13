"""Predicting: the same in any company, each backbone once, and what the columns are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from enecg import experts
from enecg.bundle import Bundle, load_bundles
from enecg.config import ExpertSettings
from enecg.gate.ensemble import GateEnsemble
from enecg.gate.network import constant_gate
from enecg.predict import rows_of
from enecg.predictor import AT_A_TIME, Predictor
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.heads import Head
from enecg.stage1.kernel import KernelHead, fit_kernel
from enecg.tasks import Task
from models import ROCKET, adapted_expert, bundle, gate, signals
from problems import AGE, FINDINGS, GENDER, RHYTHM

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def three_tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    folder = tmp_path_factory.mktemp("bundle")
    for task in (RHYTHM, AGE, GENDER):
        bundle(task).save(folder / task.name)
    return load_bundles(folder)


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


def test_where_all_weights_are_constant_nothing_is_shown_to_gates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, x_BLT = bundle(RHYTHM), signals(3)
    constant = (1, constant_gate({"rocket": 2.0, "dlinear": 1.0}))
    names = ("rocket", "dlinear")
    made.ensemble = GateEnsemble([constant, (0, gate(RHYTHM, names, 1))])
    shown = Predictor([made], CPU)(x_BLT)["report_label"]
    made.ensemble = GateEnsemble([constant])
    monkeypatch.setattr("enecg.predictor.gate_view", None)
    for one, other in zip(Predictor([made], CPU)(x_BLT)["report_label"], shown, strict=True):
        np.testing.assert_array_equal(one, other)


def test_gates_that_look_are_shown_the_signal_beside_tasks_whose_weights_are_constant() -> None:
    looks, constant, x_BLT = bundle(GENDER), bundle(RHYTHM), signals(3)
    looks.ensemble = GateEnsemble([(1, gate(GENDER, ("rocket", "dlinear"), 1))])
    constant.ensemble = GateEnsemble([(1, constant_gate({"rocket": 2.0, "dlinear": 1.0}))])
    both = Predictor([constant, looks], CPU)(x_BLT)
    alone = Predictor([looks], CPU)(x_BLT)["gender"]
    np.testing.assert_array_equal(both["gender"].weights_BE, alone.weights_BE)
    assert np.ptp(alone.weights_BE, axis=0).max() > 0, "this gate does not look"


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

    for name in ("rocket", "dlinear", "beats", "beat-net"):
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


def test_tasks_share_what_is_alike_to_the_same_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    similar, asked = KernelHead.similar, []

    def counting(self: KernelHead, f_BD: torch.Tensor) -> torch.Tensor:
        asked.append(self)
        return similar(self, f_BD)

    width = experts.load("beats").spec.width
    made = []
    for task, seed in ((AGE, 0), (GENDER, 0), (RHYTHM, 1)):
        head = AdaptedExpert([Model(fit_kernel_head(width, task, seed))], "laplacian")
        beats = {"beats": (ExpertSettings(), head)}
        made.append(Bundle(task, ["beats"], beats, GateEnsemble([(1, gate(task, ("beats",)))]), {}))
    alone = [Predictor([one], CPU)(signals(2))[one.task.name] for one in made]
    monkeypatch.setattr(KernelHead, "similar", counting)
    together = Predictor(made, CPU)(signals(2))
    assert len(asked) == 2, "those of age serve sex; rhythm has landmarks of its own"
    for one, answer in zip(made, alone, strict=True):
        found = together[one.task.name].prediction_BC
        assert found.tobytes() == answer.prediction_BC.tobytes()


def test_experts_that_prepare_alike_prepare_once(calls: Counter[str]) -> None:
    names = ("beats", "beat-net")
    frozen, trained = (
        ExpertSettings(),
        ExpertSettings.model_validate({"adaptation": "full", "channels": 4}),
    )
    net, width = experts.load("beat-net", channels=4), experts.load("beats").spec.width
    made = Bundle(
        AGE,
        list(names),
        {
            "beats": (frozen, AdaptedExpert([Model(Head(width, AGE, (4,)))], "ffn")),
            "beat-net": (
                trained,
                AdaptedExpert([Model(Head(net.spec.width, AGE, (4,)), net)], "ffn"),
            ),
        },
        GateEnsemble([(1, gate(AGE, names))]),
        {},
    )
    [answer] = Predictor([made], CPU)(signals(2)).values()
    assert np.isfinite(answer.prediction_BC).all()
    assert calls["beats prepare"] == calls["beats embed"] == calls["beat-net embed"] == 1
    assert calls["beat-net prepare"] == 0


def fit_kernel_head(width: int, task: Task = AGE, seed: int = 0) -> KernelHead:
    """A kernel head on random features."""
    f_RD = torch.randn(40, width, generator=torch.Generator().manual_seed(seed))
    if task.kind == "regression":
        target_R = 50 + 10 * f_RD[:, 0].double()
    else:
        target_R = (f_RD[:, 0] > 0).double()
    return fit_kernel("laplacian", f_RD, target_R, torch.arange(40) % 4, task)


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


def test_of_several_labels_those_that_hold_are_named() -> None:
    made = bundle(FINDINGS)
    [answer] = Predictor([made], CPU)(signals(3)).values()
    answer.prediction_BC[:] = [[0.9, 0.5, 0.1], [0.1, 0.2, 0.3], [0.0, 0.0, 1.0]]
    columns = rows_of(made, answer)
    assert columns["findings"].tolist() == ["MI;CD", "", "HYP"]
    np.testing.assert_array_equal(columns["findings__p__CD"], answer.prediction_BC[:, 1])
