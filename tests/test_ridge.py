"""The linear head against scikit-learn, and its calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from enecg.stage1 import ridge
from enecg.stage1.heads import Head, spread
from enecg.stage1.ridge import Tall, Wide, calibrate, fit_ridge
from problems import AGE, FINDINGS, GENDER


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
@pytest.mark.parametrize("solver", [Wide, Tall])
@pytest.mark.parametrize("without", [None, 2])
def test_solutions_equal_scikit_learns(
    shape: tuple[int, int], solver: Any, without: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ridge, "CHUNK", 7)
    random = np.random.default_rng(0)
    x, y = random.normal(size=shape) + 3, random.normal(size=(shape[0], 2))
    part = np.arange(shape[0]) % 5
    alphas = torch.tensor([0.5, 20.0], dtype=torch.float64)
    rows_of = torch.from_numpy(x).__getitem__
    path = solver(rows_of, torch.from_numpy(y), torch.from_numpy(part)).solve(alphas, without)
    for alpha, (coef_DC, intercept_C) in zip(alphas.tolist(), path, strict=True):
        known = Ridge(alpha=alpha).fit(x[part != without], y[part != without])
        np.testing.assert_allclose(coef_DC.T.numpy(), known.coef_, atol=1e-9)
        np.testing.assert_allclose(intercept_C.numpy(), known.intercept_, atol=1e-9)


def test_calibration_finds_the_slope_that_logistic_regression_finds() -> None:
    random = np.random.default_rng(1)
    score = random.normal(size=4000)
    labels = (random.random(4000) < 1 / (1 + np.exp(-(1.5 * score + 0.4)))).astype(int)
    slope, bias_C = calibrate(np.stack([-score / 2, score / 2], axis=1), labels)
    known = LogisticRegression(C=1e6).fit(score[:, None], labels)
    assert slope == pytest.approx(known.coef_[0, 0], abs=0.01)
    assert bias_C[1] - bias_C[0] == pytest.approx(known.intercept_[0], abs=0.01)


def test_a_class_without_records_gets_a_finite_small_probability() -> None:
    _, bias_C = calibrate(np.zeros((30, 3)), np.array([0] * 20 + [1] * 10))
    assert np.isfinite(bias_C).all()
    assert bias_C[2] < bias_C.min() + 1e-9


def test_a_head_answers_in_the_tasks_unit_and_with_probabilities() -> None:
    random = np.random.default_rng(2)
    f_RD = torch.from_numpy(random.normal(size=(200, 8))).float()
    part_R = torch.from_numpy(random.integers(0, 5, 200))
    age_R = 50 + 10 * f_RD[:, 0]
    head = fit_ridge(f_RD, age_R, part_R, AGE)
    assert (head.answer(head(f_RD))[:, 0] - age_R).abs().mean() < 1
    gender_R = (f_RD[:, 1] > 0).float()
    head = fit_ridge(f_RD, gender_R, part_R, GENDER)
    probabilities = head.answer(head(f_RD)).detach()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(200))
    assert (probabilities.argmax(1) == gender_R).float().mean() > 0.9


def test_each_of_several_labels_gets_probabilities_of_its_own() -> None:
    random = np.random.default_rng(3)
    f_RD = torch.from_numpy(random.normal(size=(400, 8))).float()
    noise_RC = torch.from_numpy(random.normal(0, 0.2, (400, 3)))
    holds_RC = (f_RD[:, 2:5] + noise_RC > torch.tensor([0.0, 1.0, 9.0])).double()
    head = fit_ridge(f_RD, holds_RC, torch.arange(400) % 5, FINDINGS)
    answer = head.answer(head(f_RD)).detach()
    assert ((answer > 0.5) == holds_RC.bool()).double().mean(0).min() > 0.9
    assert 0 <= answer[:, 2].max() < 0.05, "nobody has it"
    torch.testing.assert_close(answer.mean(0), holds_RC.float().mean(0), atol=0.02, rtol=0)


@pytest.mark.parametrize("width", [3, 20])
def test_with_a_single_part_it_answers_all_the_same(width: int) -> None:
    f_RD = torch.randn(12, width, generator=torch.Generator().manual_seed(0))
    for task, target_R in ((AGE, 50 + f_RD[:, 0].double()), (GENDER, torch.arange(12.0) % 4 // 3)):
        head = fit_ridge(f_RD, target_R, torch.zeros(12, dtype=torch.int64), task)
        answer_RC = head.answer(head(f_RD))
        assert torch.isfinite(answer_RC).all()
        if task is GENDER:  # nothing was left out to be told apart; the shares are known
            assert abs(float(answer_RC[:, 1].mean()) - 0.25) < 0.2


def test_constant_features_do_no_harm() -> None:
    f_RD = torch.ones(60, 3)
    f_RD[:, 0] = torch.arange(60.0)
    head = fit_ridge(f_RD, f_RD[:, 0] + 20, torch.arange(60) % 5, AGE)
    assert torch.isfinite(head.answer(head(f_RD))).all()


def test_a_feature_that_was_constant_but_once_cannot_carry_a_prediction_away() -> None:
    random = np.random.default_rng(5)
    f_RD = torch.from_numpy(random.normal(size=(200, 20))).float()
    f_RD[:, 7] = 0
    f_RD[3, 7] = 1e-3
    age_R = 50 + 10 * f_RD[:, 0]
    head = fit_ridge(f_RD, age_R, torch.arange(200) % 5, AGE)
    new = f_RD[:1].clone()
    new[0, 7] = 10.0
    moved = head.answer(head(new)) - head.answer(head(f_RD[:1]))
    assert abs(float(moved)) < 10


@pytest.mark.parametrize(("n", "width"), [(40, 6), (3_000, 515), (700, 2_113)])
def test_rows_of_a_larger_array_give_the_same_head_bit_for_bit(n: int, width: int) -> None:
    """Features are looked at part by part; their scale is what it is when they are taken whole."""
    random = np.random.default_rng(n)
    scale_D = random.uniform(0.1, 10, width)
    f_ND = torch.from_numpy(random.normal(3, scale_D, (n + 50, width)).astype(np.float32))
    row_R = torch.from_numpy(random.permutation(n + 50)[:n])
    head = Head(width, AGE, ())
    head.scale_features(f_ND, row_R)
    torch.testing.assert_close(head.feature_mean, f_ND[row_R].mean(0), rtol=0, atol=0)
    torch.testing.assert_close(head.feature_std, spread(f_ND[row_R]), rtol=0, atol=0)
    if n < 2_000:
        age_R, part_R = 50 + 10 * f_ND[row_R, 0], torch.arange(n) % 5
        found = fit_ridge(f_ND, age_R, part_R, AGE, row_R=row_R)
        known = fit_ridge(f_ND[row_R], age_R, part_R, AGE)
        for name, value in known.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=0)
