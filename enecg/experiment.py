"""An experiment opened: config, records, folds and targets together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from enecg import experts
from enecg.absent_classes import absent_classes
from enecg.config import Config, ExpertSettings
from enecg.errors import UserError, brief, did_you_mean
from enecg.experts.contract import ExpertSpec
from enecg.nested import ALL, Nested, nested_folds
from enecg.records.store import RecordStore
from enecg.repeats import run_of
from enecg.tasks import Task, known


@dataclass(frozen=True)
class Experiment:
    """What every stage works on; the N rows are those of the store's index, in its order.

    Attributes
    ----------
    config : Config
    store : RecordStore
    tasks : list of Task
    nested : Nested
    targets : dict of str to float array, shape (N,) or (N, C)
        Per task; NaN where the label is missing.
    label_notes : tuple of str
        Which labels could not be used as they stand, a line for each task and kind.
    repeat : int
        Which repeat of the cross-validation it is, counted from 1; the settings of a further one
        are those that `run_of` gives.
    """

    config: Config
    store: RecordStore
    tasks: list[Task]
    nested: Nested
    targets: dict[str, np.ndarray]
    label_notes: tuple[str, ...] = ()
    repeat: int = 1

    @cached_property
    def repeats(self) -> list[Experiment]:
        """This experiment, and its further repeats.

        Raises
        ------
        UserError
            A task has too few labels in some fold of one of them.
        """
        numbers = range(2, self.config.repeats + 1)
        return [self, *(self._repeated(number) for number in numbers)]

    def _repeated(self, number: int) -> Experiment:
        config = run_of(self.config, number)
        try:
            nested = nested_folds(self.store.index, config, deployed=False)
            for task in self.tasks:
                _check_labels(task, self.targets[task.name], nested, [])
        except UserError as error:
            raise UserError(f"repeat {number} of {self.config.repeats}: {error}") from None
        return replace(self, config=config, nested=nested, label_notes=(), repeat=number)

    @property
    def first_run(self) -> Path:
        """The folder of the first repeat's run; its further repeats are in there."""
        run = Path(self.config.run_dir)
        return run if self.repeat == 1 else run.parent.parent

    def called(self, what: str) -> str:
        """Name a part of this experiment, such as an expert, apart from other repeats' parts."""
        return what if self.repeat == 1 else f"{what}, repeat {self.repeat}"

    @property
    def record_ids(self) -> list[str]:
        """Record ids of the N rows."""
        return self.store.index["record_id"].tolist()


def open_experiment(config: Config, deployed: bool = True) -> Experiment:
    """Open the record store and lay out folds and targets.

    Parameters
    ----------
    config : Config
    deployed : bool
        Whether something is trained on all groups, to be deployed.

    Raises
    ------
    UserError
        No store there; a task's label column is missing, or some fold has too few labels, in any
        of the repeats.
    """
    store = RecordStore.open(config.records)
    nested = nested_folds(store.index, config, deployed)
    targets: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for task in config.task_list:
        if task.column not in store.index:
            raise UserError(
                f"task {task.name}: {config.records} has no label column {task.column!r}"
                f"{did_you_mean(task.column, store.index.columns)}"
            )
        targets[task.name], unread = task.read(store.index[task.column])
        hints = absent_classes(task, store.index[task.column])
        said = [*task.told(unread), *(f"task {task.name}: {hint}" for hint in hints)]
        _check_labels(task, targets[task.name], nested, said)
        notes += said
    experiment = Experiment(config, store, config.task_list, nested, targets, tuple(notes))
    _ = experiment.repeats  # too few labels for one of them are told now, not an hour later
    return experiment


def check_experts(config: Config) -> None:
    """Refuse experts, options and adaptations that cannot be used as the config says.

    Raises
    ------
    UserError
        Unknown expert or option, an adaptation it does not have, an expert without any task, or a
        task without any expert: see `answered`.
    """
    answering: dict[str, list[str]] = {task.name: [] for task in config.task_list}
    for name, settings in config.experts.items():
        allowed = [*ExpertSettings.model_fields, *experts.options(settings.backbone(name))]
        for key in settings.options:
            if key not in allowed:
                raise UserError(
                    f"config: unknown key 'experts.{name}.{brief(key, False)}'"
                    f"{did_you_mean(key, allowed)}; allowed in experts.{name}: {', '.join(allowed)}"
                )
        if settings.heads is not None and not settings.frozen:
            raise UserError(
                f"config: experts.{name}: heads are chosen on a frozen backbone; "
                f"{settings.adaptation} trains the paper's head with it: leave heads out"
            )
        expert = experts.load(settings.backbone(name), weights=settings.weights, **settings.options)
        spec = expert.spec
        has_weights = settings.weights is not None or bool(expert.weight_files)
        experts.check_adaptation(spec, settings.adaptation, has_weights)
        tasks = answered(config.task_list, spec)
        if not tasks:
            raise UserError(
                f"expert {name} detects R-peaks, and the labels of all tasks come from R-peaks; "
                "leave it out"
            )
        for task in tasks:
            answering[task.name].append(name)
    for task_name, names in answering.items():
        if not names:
            raise UserError(
                f"task {task_name}: its labels come from R-peaks, and every expert detects them; "
                "add an expert that does not"
            )


def answered(tasks: Sequence[Task], spec: ExpertSpec) -> list[Task]:
    """Return the tasks that an expert has outputs for.

    One that detects R-peaks has none where labels come from R-peaks: its output would only repeat
    the rule by which the labels were made.
    """
    return [task for task in tasks if not (spec.uses_r_peaks and task.from_r_peaks)]


def _check_labels(task: Task, target_N: np.ndarray, nested: Nested, said: list[str]) -> None:
    """Refuse a task that has nothing to learn from, or nothing to be tested on, in some fold."""
    labelled = known(target_N)
    if not labelled.any():
        why = f" ({'; '.join(line.partition(': ')[2] for line in said)})" if said else ""
        raise UserError(
            f"task {task.name}: no record has a valid label in column {task.column!r}{why}"
        )
    for scope in nested.scopes:
        of_scope = "when all are used" if scope == ALL else f"when outer fold {scope} is left out"
        if scope != ALL and not (labelled & nested.test(scope)).any():
            raise UserError(f"task {task.name}: no labelled record in outer fold {scope}")
        for fit in nested.fits(scope):
            learned, stops = nested.learns_from(fit), nested.stops_by(fit)
            of_fit = target_N[labelled & learned & ~stops]
            varied = len(of_fit) > 0 and bool((of_fit != of_fit[0]).any())
            if not varied or not (labelled & stops).any():
                raise UserError(
                    f"task {task.name}: of the {int(labelled.sum())} labelled records too few, or "
                    f"only ones with the same label, are left to learn from {of_scope}"
                )
