"""Kernel heads: as scikit-learn solves them, approximated where there are many records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import laplacian_kernel, rbf_kernel

from enecg.config import ExpertSettings
from enecg.stage1 import kernel as kernels
from enecg.stage1.adapted import AdaptedExpert, Model, load_adapted, save_adapted
from enecg.stage1.kernel import KERNELS, KernelHead, fit_kernel, similarity
from enecg.stage1.ridge import fit_ridge
from enecg.tasks import Task
from problems import AGE, FINDINGS, GENDER, adapt, small_problem

each_kernel = pytest.mark.parametrize("kernel", KERNELS)


def data(n: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, a value that is no linear function of them, and parts."""
    random = np.random.default_rng(seed)
    f_RD = random.normal(size=(n, 5)).astype(np.float32)
    years_R = 50 + 15 * np.tanh(f_RD[:, 0] * f_RD[:, 1]) + 2 * random.normal(size=n)
    return torch.from_numpy(f_RD), torch.from_numpy(years_R), torch.arange(n) % 4


@each_kernel
def test_the_similarities_are_scikit_learns(kernel: str) -> None:
    one_BD, other_MD = data(7)[0], data(9, seed=1)[0]
    known = {
        "gaussian": lambda: rbf_kernel(one_BD, other_MD, gamma=1 / (2 * 5)),
        "laplacian": lambda: laplacian_kernel(one_BD, other_MD, gamma=1 / (1.128 * 5)),
    }[kernel]()
    np.testing.assert_allclose(similarity(kernel, one_BD, other_MD), known, atol=1e-6)


@each_kernel
def test_a_value_is_scikit_learns_kernel_ridge(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "ALPHAS", torch.tensor([0.1], dtype=torch.float64))
    f_RD, years_R, part_R = data()
    head = fit_kernel(kernel, f_RD, years_R, part_R, AGE)
    new_BD = data(50, seed=1)[0]
    z_RD, z_BD = ((f - head.feature_mean) / head.feature_std for f in (f_RD, new_BD))
    # With an unpenalised intercept, kernel ridge is that of the centred kernel and targets.
    own_RR = similarity(kernel, z_RD, z_RD).numpy()
    new_BR = similarity(kernel, z_BD, z_RD).numpy()
    column_R, everything = own_RR.mean(0), own_RR.mean()
    centred_RR = own_RR - column_R - column_R[:, None] + everything
    centred_BR = new_BR - column_R - new_BR.mean(1, keepdims=True) + everything
    reference = KernelRidge(alpha=0.1, kernel="precomputed")
    reference.fit(centred_RR, years_R - years_R.mean())
    wanted_B = reference.predict(centred_BR) + float(years_R.mean())
    np.testing.assert_allclose(head.answer(head(new_BD))[:, 0], wanted_B, atol=1e-3)


@each_kernel
def test_it_learns_what_a_linear_head_cannot(kernel: str) -> None:
    f_RD, years_R, part_R = data()
    new_BD, truth_B, _ = data(300, seed=1)
    error = {}
    for name, head in (
        ("kernel", fit_kernel(kernel, f_RD, years_R, part_R, AGE)),
        ("ridge", fit_ridge(f_RD, years_R, part_R, AGE)),
    ):
        with torch.no_grad():
            error[name] = float((head.answer(head(new_BD))[:, 0] - truth_B).abs().mean())
    assert error["kernel"] < 0.75 * error["ridge"]


@each_kernel
def test_fewer_landmarks_come_close(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f_RD, years_R, part_R = data(400)
    whole = fit_kernel(kernel, f_RD, years_R, part_R, AGE)
    monkeypatch.setattr(kernels, "MOST_LANDMARKS", 200)
    half = fit_kernel(kernel, f_RD, years_R, part_R, AGE)
    assert half.landmark_MD.shape == (200, 5)
    new_BD, truth_B, _ = data(300, seed=1)
    errors = [(h.answer(h(new_BD))[:, 0] - truth_B).abs().mean() for h in (whole, half)]
    assert errors[1] < 1.15 * errors[0]


@each_kernel
def test_the_same_record_twice_and_features_that_do_not_vary(kernel: str) -> None:
    f_RD, years_R, part_R = data(60)
    f_RD = torch.cat([f_RD, f_RD])
    f_RD[:, 4] = 3.0
    head = fit_kernel(kernel, f_RD, years_R.repeat(2), part_R.repeat(2), AGE)
    assert torch.isfinite(head.answer(head(f_RD))).all()


@each_kernel
@pytest.mark.parametrize("apart", [1e-7, 1e-6, 1e-5])
def test_many_records_that_are_almost_the_same(kernel: str, apart: float) -> None:
    generator = torch.Generator().manual_seed(0)
    f_RD = torch.randn(10, 20, generator=generator).repeat(30, 1)
    f_RD += apart * torch.randn(f_RD.shape, generator=generator)
    years_R = 50 + 10 * f_RD[:, 0].double()
    head = fit_kernel(kernel, f_RD, years_R, torch.arange(300) // 10 % 4, AGE)
    assert (head.answer(head(f_RD))[:, 0] - years_R).abs().max() < 1


@pytest.mark.parametrize("task", [GENDER, FINDINGS], ids=lambda task: task.name)
def test_probabilities_tell_classes_apart_and_are_calibrated(task: Task) -> None:
    f_RD, years_R, part_R = data(400)
    holds_R = (years_R > 50).double()
    target_R = holds_R if task is GENDER else holds_R[:, None].repeat(1, task.width)
    head = fit_kernel("laplacian", f_RD, target_R, part_R, task)
    new_BD, new_years_B, _ = data(400, seed=1)
    p_B = head.answer(head(new_BD))[:, -1]
    holds_B = new_years_B > 50
    assert ((p_B > 0.5) == holds_B).float().mean() > 0.75
    assert abs(float(p_B.mean()) - float(holds_B.float().mean())) < 0.05


@each_kernel
def test_it_comes_back_from_disk_bit_for_bit(kernel: str, tmp_path: Path) -> None:
    f_RD, years_R, part_R = data(50)
    expert = AdaptedExpert([Model(fit_kernel(kernel, f_RD, years_R, part_R, AGE))], kernel)
    save_adapted(tmp_path, {"age/all": expert})
    settings = ExpertSettings()
    read = load_adapted(tmp_path, {"age/all": AGE}, "rocket", settings)["age/all"]
    assert isinstance(read.models[0].head, KernelHead)
    assert read.head_kind == kernel
    assert torch.equal(read.answer(f_RD), expert.answer(f_RD))


def test_an_expert_may_have_heads_of_its_own() -> None:
    problem = small_problem()
    own = adapt(problem, heads=["ridge"], own_heads=[*KERNELS])
    assert {choice["head"] for choice in own.choices.values()} <= set(KERNELS)
    assert all(set(choice["losses"]) == set(KERNELS) for choice in own.choices.values())
    test = problem.nested.test("0")
    noisy = adapt(problem.with_noise(test), own_heads=[*KERNELS])
    for key, adapted in own.adapted.items():
        same = [
            torch.equal(one, other)
            for one, other in zip(
                adapted.models[0].head.state_dict().values(),
                noisy.adapted[key].models[0].head.state_dict().values(),
                strict=True,
            )
        ]
        assert all(same) == key.endswith("/0"), key
