"""What a clinical task is: where its label stands, what values it may take, how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from enecg.errors import UserError, brief, did_you_mean
from enecg.label_lists import lists_of, undeclared_in
from enecg.label_text import UNDECLARED, Unread, names_of, normal, numbers_of, often, texts_of
from enecg.names import check_class_name, check_task_name, is_printable, shown

Kind = Literal["regression", "classification", "multilabel"]
OTHER = "other"
"""A class of this name takes every label that is present but not declared."""
SMALLEST = 1e-7
"""Smaller probabilities count as this one: a certain mistake must cost a finite amount."""
SEPARATOR = ";"
"""Between the names of several labels in predictions."""


@dataclass(frozen=True)
class Task:
    """A prediction target.

    Attributes
    ----------
    name : str
        Name of the task.
    kind : {"regression", "classification", "multilabel"}
        A number, one of `classes`, or any number of them.
    unit : str
        Unit of a regression target; empty for classes.
    classes : tuple of str
        The declared vocabulary, in the order of the output's columns; never learned from data.
        Labels that are not in it become ``other`` where that is declared, else missing.
    valid : tuple of float or None
        Smallest and largest possible value of a regression target; outside it a label is missing.
    column : str
        Column of the record store's index; the task's name by default.
    from_r_peaks : bool
        Whether labels come from detected R-peaks: then no expert may use R-peak detection.
    """

    name: str
    kind: Kind
    unit: str = ""
    classes: tuple[str, ...] = ()
    valid: tuple[float, float] | None = None
    column: str = field(default="")
    from_r_peaks: bool = False

    def __post_init__(self) -> None:
        if not self.column:
            object.__setattr__(self, "column", self.name)
        if self.kind not in get_args(Kind):
            raise UserError(
                f"task {self.name}: kind is {self.kind!r}; allowed: {', '.join(get_args(Kind))}"
            )
        # As label columns are read: "é" may be one character or two.
        classes = tuple(normal(one) if isinstance(one, str) else one for one in self.classes)
        object.__setattr__(self, "classes", classes)
        distinct = len(set(self.classes)) == len(self.classes)
        if self.kind == "classification" and (len(self.classes) < 2 or not distinct):
            raise UserError(f"task {self.name}: classes must be at least two, all different")
        if self.kind == "multilabel" and (not self.classes or not distinct):
            raise UserError(f"task {self.name}: classes must be at least one, all different")
        if self.kind == "multilabel" and any(SEPARATOR in name for name in self.classes):
            raise UserError(f"task {self.name}: a class's name must not hold {SEPARATOR!r}")
        if self.kind == "regression" and self.classes:
            raise UserError(f"task {self.name}: a regression has no classes")
        if self.valid is not None and not self.valid[0] < self.valid[1]:
            raise UserError(f"task {self.name}: valid must be [smallest, largest]")

    def check_names(self) -> None:
        """Refuse names that cannot be folders, columns and rows; for what reads a task.

        Raises
        ------
        UserError
            The task's name, a class's or the unit; says what is allowed.
        """
        check_task_name(self.name)
        for name in self.classes:
            check_class_name(self.name, name)
        if not is_printable(self.unit):
            raise UserError(f"task {self.name}: {shown(self.unit)} is no unit; give printable text")

    @property
    def width(self) -> int:
        """Number of output columns: 1 for a regression, else one per class."""
        return len(self.classes) or 1

    def targets(self, labels: pd.Series) -> npt.NDArray[np.float64]:
        """Turn a label column into what models learn.

        Parameters
        ----------
        labels : Series, length B
            Values, class names, or lists of the names that hold (as text: see
            `enecg.label_lists.lists_of`); missing ones null or blank. An empty list says that
            none holds. Text is compared as it stands: ``01`` is not ``1``.

        Returns
        -------
        float64 array, shape (B,), or (B, C) for several labels
            The value, the class's number, or 1 for each name that holds and 0 for the others;
            NaN where the label is missing or not allowed (see `known`).
        """
        return self.read(labels)[0]

    def read(self, labels: pd.Series) -> tuple[npt.NDArray[np.float64], Unread]:
        """Return what `targets` returns, and what of the labels could not be used.

        Raises
        ------
        UserError
            Several names in one cell, joined by something that is no separator.
        """
        if self.kind == "multilabel":
            return self._several(labels)
        if self.kind == "regression":
            numbers, unreadable = numbers_of(labels)
            low, high = self.valid or (-np.inf, np.inf)
            outside = (numbers < low) | (numbers > high)
            unread = Unread(unreadable, out_of_range=often(texts_of(labels[outside])))
            numbers[outside] = np.nan
            return numbers, unread
        number, undeclared = names_of(labels, self.classes)
        targets = np.where(number >= 0, number, np.nan).astype(np.float64)
        if OTHER in self.classes:
            targets[number == UNDECLARED] = self.classes.index(OTHER)
        return targets, Unread(undeclared=undeclared)

    def _several(self, labels: pd.Series) -> tuple[npt.NDArray[np.float64], Unread]:
        try:
            lists = lists_of(labels, self.classes)
        except ValueError as error:
            raise UserError(f"task {self.name}: column {self.column!r}: {error}") from None
        rows_DC = np.full((len(lists.different) + 1, self.width), np.nan)
        for row, names in enumerate(lists.different):
            rows_DC[row] = [name in names for name in self.classes]
            if OTHER in self.classes and not set(names) <= set(self.classes):
                rows_DC[row, self.classes.index(OTHER)] = 1
        unread = Unread(lists.unreadable, undeclared=undeclared_in(lists, self.classes))
        return rows_DC[lists.number], unread  # −1, missing: the last row

    def told(self, unread: Unread) -> list[str]:
        """Return a line for each kind of label that `read` could not use as it stands."""
        rest = "missing"
        if OTHER in self.classes:
            rest = f"taken as {OTHER!r}"
        elif self.kind == "multilabel":
            rest = "left out of the lists"
        return [f"task {self.name}: {said}" for said in unread.sentences(rest)]

    def loss(
        self, truth_B: npt.NDArray[np.floating], prediction_BC: npt.NDArray[np.floating]
    ) -> float:
        """Return the figure by which everything is chosen on training groups.

        Parameters
        ----------
        truth_B : array, shape (B,) or (B, C)
            What `targets` gives; rows with a missing label are left out.
        prediction_BC : array, shape (B, width)
            Values, or class probabilities.

        Returns
        -------
        float
            The mean of `losses`; infinity where nothing is labelled, so that nothing is ever
            chosen by it.
        """
        rows = known(truth_B)
        if not rows.any():
            return float("inf")
        return float(self.losses(truth_B[rows], prediction_BC[rows]).mean())

    def losses(
        self, truth_B: npt.NDArray[np.floating], prediction_BC: npt.NDArray[np.floating]
    ) -> npt.NDArray[np.float64]:
        """Return each labelled record's loss, shape (…, B), for predictions of shape (…, B, C).

        Absolute error, or negative log-likelihood (of several labels: their mean).
        """
        prediction = prediction_BC.astype(np.float64)
        if self.kind == "regression":
            return np.abs(prediction[..., 0] - truth_B)
        if self.kind == "multilabel":
            likelihood = np.where(truth_B > 0.5, prediction, 1.0 - prediction)
            return -np.log(np.clip(likelihood, SMALLEST, None)).mean(-1)
        likelihood = prediction[..., np.arange(len(truth_B)), truth_B.astype(int)]
        return -np.log(np.clip(likelihood, SMALLEST, None))


def known(target_B: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Return which records have a label, bool (B,), from what `Task.targets` gives."""
    missing: npt.NDArray[np.bool_] = np.isnan(target_B)
    return ~missing if missing.ndim == 1 else ~np.any(missing, axis=1)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("rr_interval", "regression", unit="ms", valid=(200.0, 3000.0), from_r_peaks=True),
        Task("age", "regression", unit="years", valid=(0.0, 120.0)),
        Task("gender", "classification", classes=("male", "female")),
        Task("flag", "classification", classes=("normal", "abnormal")),
        Task("report_label", "classification", classes=("SR", "AFIB", "SARRH", OTHER)),
    )
}
"""The tasks of EnECG (arXiv 2511.22935), with PTB-XL's rhythm codes for the arrhythmia classes."""


def task_from(entry: str | dict[str, Any]) -> Task:
    """Return the task that one entry of a config's ``tasks`` describes.

    Parameters
    ----------
    entry : str or dict
        A known task's name; or ``{name: settings}``, which changes fields of a known task or
        describes a new one (then with ``kind``).

    Raises
    ------
    UserError
        Unknown task without a kind, unknown setting, or a value that is not allowed.
    """
    if isinstance(entry, str):
        if entry not in TASKS:
            check_task_name(entry)
            raise UserError(
                f"tasks: unknown task {brief(entry)}{did_you_mean(entry, TASKS)}; known: "
                f"{', '.join(TASKS)}; a new one is written {{{brief(entry, False)}: {{kind: …}}}}"
            )
        return TASKS[entry]
    if len(entry) != 1 or not isinstance(next(iter(entry.values())), dict):
        raise UserError("tasks: an entry is a name or {name: {setting: value}}")
    name, settings = next(iter(entry.items()))
    known = {f.name for f in fields(Task)} - {"name"}
    for key in settings:
        if key not in known:
            raise UserError(
                f"tasks.{name}: unknown setting {brief(key)}{did_you_mean(key, known)}; "
                f"allowed: {', '.join(sorted(known))}"
            )
    if not isinstance(name, str):
        raise UserError(f"tasks: a task's name is {_as_read(name)}; write it in quotes")
    if isinstance(settings.get("classes"), list):
        _check_classes(name, settings["classes"])
    base = TASKS.get(name)
    values = {f.name: getattr(base, f.name) for f in fields(Task)} if base else {}
    values.update(settings, name=name)
    if "kind" not in values:
        raise UserError(f"tasks.{name}: a new task needs kind: {' or '.join(get_args(Kind))}")
    try:
        task = TypeAdapter(Task).validate_python(values)
        task.check_names()
        return task
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"tasks.{name}.{where}: {first['msg']}, not {brief(first['input'])}"
        ) from None


def _check_classes(task: str, classes: list[Any]) -> None:
    """Refuse class names that YAML has read as something else, with what to write instead."""
    for place, name in enumerate(classes):
        where = f"tasks.{task}.classes.{place}"
        if not isinstance(name, str):
            raise UserError(
                f"{where}: must be a string, not {_as_read(name)}; write every class in quotes, as "
                f"the labels are written: classes: [{', '.join(map(_quoted, classes))}]"
            )
        if name != name.strip() or not name:
            raise UserError(
                f"{where}: {name!r} is empty or has blanks around it; labels are read without them"
            )


def _as_read(value: Any) -> str:
    """Say what YAML made of a word without quotes, and of which words it makes that."""
    if isinstance(value, bool):
        words = "yes, on or true" if value else "no, off or false"
        return f"{value} (what YAML reads for {words} without quotes)"
    if value is None:
        return "None (what YAML reads for null, ~ or nothing)"
    if isinstance(value, int | float):
        return f"{value!r} (a number; YAML reads 010 as 8, 1:30 as 90 and 427.30 as 427.3)"
    if isinstance(value, date):
        return f"{value.isoformat()} (a date)"
    return f"{str(value)[:60]!r}"


def _quoted(value: Any) -> str:
    """Return a class name in quotes, as it was most likely meant."""
    if isinstance(value, bool):
        return "'yes'" if value else "'no'"
    if value is None:
        return "'null'"
    text = value.isoformat() if isinstance(value, date) else str(value)
    return "'" + text[:60].replace("'", "''") + "'"
