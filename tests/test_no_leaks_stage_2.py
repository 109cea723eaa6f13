"""The two proofs of the nested procedure (DESIGN §7), over what stage 2 learns and chooses.

Labels that a model may not see are replaced by noise; what was learned without them must stay
the same, bit for bit. Each proof is shown to fire when the rule it guards is broken.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enecg.gate.features import reduce_features
from enecg.gate.trial import Arrays, cross_validate
from enecg.gate.tuning import OBJECTIVE, Trial, _metrics
from enecg.nested import Fit, Nested
from problems import Problem, small_problem
from proofs import CHOICES, differences, learned_by_stage_2, stage_2, vars_of


@pytest.fixture(scope="module")
def problem() -> Problem:
    return small_problem(90, seed=11)


@pytest.fixture(scope="module")
def arrays(problem: Problem) -> Arrays:
    """Experts that each know some of the answer, in every scope alike."""
    random = np.random.default_rng(8)
    n = len(problem.features_ND)
    outputs = {}
    for task in problem.tasks:
        target = np.nan_to_num(problem.targets[task.name], nan=0.5)
        if task.kind == "regression":
            ideal = target[:, None]
        elif task.kind == "multilabel":
            ideal = 0.1 + 0.8 * target
        else:
            ideal = 0.1 + 0.8 * np.eye(task.width)[target.astype(int)]
        blur = random.random((4, n, 2, 1))
        far = ideal.mean(0) if task.kind == "regression" else np.full(task.width, 1 / task.width)
        mixed = (1 - blur) * ideal[None, :, None] + blur * far
        outputs[task.name] = mixed.astype(np.float32)
    return Arrays(
        random.normal(size=(n, 12, 200)).astype(np.float16), outputs, problem.targets,
        problem.nested, problem.tasks, ["rocket", "dlinear"], 5,
        reduce_features([problem.features_ND, None], problem.nested, 5)[0],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("leaky", "shows"),
    [
        ("", set()),
        ("trials", {"gates"}),
        ("choice", {"stacking", "calibration", "losses", "gain"}),
        ("refit", {"refitted gate"}),
        ("dummy", {"dummy predicts"}),
    ],
)
def test_the_proof_fires_for_every_part_of_stage_2_that_breaks_the_rule(
    leaky: str, shows: set[str], problem: Problem, arrays: Arrays, tmp_path: Path
) -> None:
    noisy = problem.with_noise(problem.nested.test("1")).targets
    found = differences(
        *(
            learned_by_stage_2(
                stage_2(replace(arrays, targets=targets), tmp_path / name, leaky),
                problem.nested,
                "1",
            )
            for name, targets in (("clean", arrays.targets), ("noisy", noisy))
        )
    )
    assert bool(found) == bool(shows), found
    for what in shows:
        assert any(key.startswith(what) for key in found), (what, found)


class _InSample(Nested):
    """Breaks the rule: what is to predict an inner fold learns from it, too."""

    def learns_from(self, fit: Fit) -> Any:
        return self.training(fit.scope)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("fit", [Fit("0", 2), Fit("all", 0)], ids=lambda fit: fit.key)
def test_labels_of_an_inner_fold_reach_no_gate_that_predicts_it(
    problem: Problem, arrays: Arrays, fit: Fit, broken: bool
) -> None:
    """What gates are ranked by is out-of-fold; the experts' outputs are the same in both."""
    if broken:
        arrays = replace(arrays, nested=_InSample(**vars_of(arrays.nested)))
    rows = problem.nested.held_out(fit)
    others = problem.nested.learns_from(fit)
    noisy = replace(arrays, targets=problem.with_noise(rows).targets)
    found: list[dict[str, Any]] = []
    arrived: list[dict[str, Any]] = []
    for labelled in (arrays, noisy):
        of_choices = {
            number: cross_validate(choice, labelled, (fit.scope,))
            for number, choice in enumerate(CHOICES)
            if len(choice.experts) > 1  # of a single one nothing can be learned
        }
        predicted = {
            f"{number} {task}": values[0]
            for number, of_tasks in of_choices.items()
            for task, values in of_tasks.items()
        }
        assert all(np.isfinite(values[rows]).all() for values in predicted.values())
        found.append({name: values[rows].tobytes() for name, values in predicted.items()})
        arrived.append({name: values[others].tobytes() for name, values in predicted.items()})
    assert differences(*found) == (sorted(found[0]) if broken else [])
    # The noise did arrive: the gates that may learn from that fold have changed.
    assert differences(*arrived) == sorted(arrived[0])


def test_an_adaptive_search_in_one_scope_sees_no_label_of_its_test_records(
    problem: Problem, arrays: Arrays
) -> None:
    """What Optuna and ASHA go by, in a scope of its own and (as it must not be) over all."""
    noisy = replace(arrays, targets=problem.with_noise(problem.nested.test("1")).targets)
    scopes = arrays.nested.scopes
    for of, same in ((("1",), True), (scopes, False)):
        trial = Trial(CHOICES[0], of)
        seen = [
            _metrics(trial, cross_validate(trial.choice, one, of), one, 2)[OBJECTIVE]
            for one in (arrays, noisy)
        ]
        assert (seen[0] == seen[1]) == same
