"""Choosing heads on training groups, and what stage 1 finds out about an expert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from enecg.config import ExpertSettings, Stage1Settings
from enecg.nested import ALL, Fit, Nested
from enecg.stage1.adapted import AdaptedExpert, Model
from enecg.stage1.fitting import Targets
from enecg.tasks import Task, known


@dataclass(frozen=True)
class Setup:
    """What one expert's job is about.

    Attributes
    ----------
    tasks, nested, targets
        What is predicted, by which folds, from which labels.
    settings : Stage1Settings
    expert : ExpertSettings
    seed : int
    """

    tasks: list[Task]
    nested: Nested
    targets: Targets
    settings: Stage1Settings
    expert: ExpertSettings
    seed: int

    @property
    def heads(self) -> list[str]:
        """The kinds of head that are tried on a frozen backbone."""
        return list(self.expert.heads or self.settings.heads)

    @property
    def balance(self) -> bool:
        """Whether classes count alike."""
        return self.settings.class_weights == "balanced"

    @property
    def fixed_epochs(self) -> int | None:
        """How long inner models train where nothing stops them earlier."""
        return self.settings.epochs if self.settings.patience == "none" else None

    def median_epochs(self, epochs: list[int]) -> int:
        """How long a final model trains, by the best epochs of the inner ones."""
        return round(float(np.median(epochs)))


@dataclass
class Outcome:
    """What stage 1 finds out about one expert.

    Attributes
    ----------
    outputs : dict of str to float32 array, shape (S, N, C)
        Per task and scope: out-of-fold outputs for the scope's training records, the final
        model's (or the inner models' mean) for its test records.
    adapted : dict of str to AdaptedExpert
        Key ``<task>/<scope>``.
    choices : dict
        Per task and scope: losses on training groups by head, the head that was chosen, and what
        it is.
    """

    outputs: dict[str, np.ndarray]
    adapted: dict[str, AdaptedExpert]
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """The head that is taken for one task in one scope.

    Attributes
    ----------
    kind : str
        One of `config.Heads`, or ``ffn-<n>`` for the n-th drawn feed-forward one.
    losses : dict of str to float
        Out-of-fold losses on the scope's training groups, by kind.
    output_NC : float32 array, shape (N, C)
        The chosen kind's out-of-fold outputs; 0 for the scope's test records.
    """

    kind: str
    losses: dict[str, float]
    output_NC: np.ndarray


def choose_heads(
    setup: Setup,
    models: dict[tuple[str, str, Fit], Model],
    answers_of: Callable[[Model, np.ndarray], np.ndarray],
) -> dict[tuple[str, str], Chosen]:
    """Per task and scope, take the head with the least out-of-fold loss on training groups.

    Parameters
    ----------
    setup : Setup
    models : dict
        `Nested.inner_models`, by kind, name of the task, and fit.
    answers_of : callable
        Gives a model's answers for some records, chosen by a bool array of shape (N,).

    Returns
    -------
    dict
        By name of the task, and scope.
    """
    nested = setup.nested
    kinds = list(dict.fromkeys(kind for kind, _, _ in models))
    chosen = {}
    for task in setup.tasks:
        target_N = setup.targets[task.name]
        for scope in nested.scopes:
            training = nested.training(scope)
            outputs, losses = {}, {}
            for kind in kinds:
                output_NC = np.zeros((len(nested.outer_N), task.width), dtype=np.float32)
                for fit in nested.fits(scope):
                    held_out = nested.held_out(fit)
                    model = models[kind, task.name, nested.model_of(fit)]
                    output_NC[held_out] = answers_of(model, held_out)
                losses[kind] = _loss(task, target_N[training], output_NC[training], setup.balance)
                outputs[kind] = output_NC
            kind = min(losses, key=lambda k: losses[k])
            chosen[task.name, scope] = Chosen(kind, losses, outputs[kind])
    return chosen


def _loss(task: Task, truth: np.ndarray, output: np.ndarray, balance: bool) -> float:
    """The loss by which heads are compared; with ``balance``, the mean of the classes' own."""
    if not balance or task.kind != "classification":
        return task.loss(truth, output)
    classes = np.unique(truth[known(truth)])
    return float(np.mean([task.loss(truth[truth == c], output[truth == c]) for c in classes]))


def outcome_of(
    setup: Setup,
    models: dict[tuple[str, str, Fit], Model],
    chosen: dict[tuple[str, str], Chosen],
    answers_of: Callable[[Model, np.ndarray], np.ndarray],
    facts: dict[str, Any],
) -> Outcome:
    """Put the chosen heads' models and outputs together; ``facts`` say what each kind is."""
    nested, outcome = setup.nested, Outcome({}, {})
    for task in setup.tasks:
        outputs = []
        for scope in nested.scopes:
            choice, test = chosen[task.name, scope], nested.test(scope)
            average = setup.expert.final_rule == "average"
            fits = nested.fits(scope) if average else [Fit(scope, None)]
            final = [models[choice.kind, task.name, nested.model_of(fit)] for fit in fits]
            output_NC = choice.output_NC
            if scope != ALL:
                output_NC[test] = np.mean([answers_of(model, test) for model in final], axis=0)
            outputs.append(output_NC)
            key = f"{task.name}/{scope}"
            outcome.adapted[key] = AdaptedExpert(final, choice.kind.partition("-")[0])
            outcome.choices[key] = {"head": choice.kind, "losses": choice.losses}
            if choice.kind in facts:
                outcome.choices[key]["settings"] = facts[choice.kind]
        outcome.outputs[task.name] = np.stack(outputs)
    return outcome
