"""What a clinical task is: where its label stands, what values it may take, how it is scored."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from enecg.errors import UserError, did_you_mean

Kind = Literal["regression", "classification", "multilabel"]
OTHER = "other"
"""A class of this name takes every label that is present but not declared."""
SMALLEST = 1e-7
"""Smaller probabilities count as this one: a certain mistake must cost a finite amount."""
SEPARATOR = ";"
"""Between the names of a multi-label column that is text, and in predictions."""


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

    @property
    def width(self) -> int:
        """Number of output columns: 1 for a regression, else one per class."""
        return len(self.classes) or 1

    def targets(self, labels: pd.Series) -> npt.NDArray[np.float64]:
        """Turn a label column into what models learn.

        Parameters
        ----------
        labels : Series, length B
            Values, class names, or lists of the names that hold (as text: joined by ``;``);
            missing ones null. An empty list says that none holds.

        Returns
        -------
        float64 array, shape (B,), or (B, C) for several labels
            The value, the class's number, or 1 for each name that holds and 0 for the others;
            NaN where the label is missing or not allowed (see `known`).
        """
        if self.kind == "multilabel":
            return self._several(labels)
        if self.kind == "regression":
            numbers = pd.to_numeric(labels, errors="coerce").to_numpy(dtype=np.float64, copy=True)
            low, high = self.valid or (-np.inf, np.inf)
            numbers[~(np.isfinite(numbers) & (numbers >= low) & (numbers <= high))] = np.nan
            return numbers
        numbers = np.full(len(labels), np.nan)
        present = labels.notna().to_numpy()
        # Whole numbers are read as floats where some are missing: "1", not "1.0".
        names = labels.convert_dtypes().astype("string").fillna("").to_numpy()
        if OTHER in self.classes:
            numbers[present] = self.classes.index(OTHER)
        for number, name in enumerate(self.classes):
            numbers[present & (names == name)] = number
        return numbers

    def _several(self, labels: pd.Series) -> npt.NDArray[np.float64]:
        target_BC = np.full((len(labels), self.width), np.nan)
        for row, entry in enumerate(labels):
            if isinstance(entry, str):
                entry = [part.strip() for part in entry.split(SEPARATOR)]
            elif entry is None or np.isscalar(entry) or entry is pd.NA:
                continue  # null; and a number is no list of names
            names = {str(name) for name in entry}
            target_BC[row] = [name in names for name in self.classes]
            if OTHER in self.classes and not names <= set(self.classes):
                target_BC[row, self.classes.index(OTHER)] = 1
        return target_BC

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
            raise UserError(
                f"tasks: unknown task {entry!r}{did_you_mean(entry, TASKS)}; known: "
                f"{', '.join(TASKS)}; a new one is written {{{entry}: {{kind: …}}}}"
            )
        return TASKS[entry]
    if len(entry) != 1 or not isinstance(next(iter(entry.values())), dict):
        raise UserError("tasks: an entry is a name or {name: {setting: value}}")
    name, settings = next(iter(entry.items()))
    known = {f.name for f in fields(Task)} - {"name"}
    for key in settings:
        if key not in known:
            raise UserError(
                f"tasks.{name}: unknown setting {key!r}{did_you_mean(key, known)}; "
                f"allowed: {', '.join(sorted(known))}"
            )
    base = TASKS.get(name)
    values = {f.name: getattr(base, f.name) for f in fields(Task)} if base else {}
    values.update(settings, name=name)
    if "kind" not in values:
        raise UserError(f"tasks.{name}: a new task needs kind: {' or '.join(get_args(Kind))}")
    try:
        return TypeAdapter(Task).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"tasks.{name}.{where}: {first['msg']}, not {first['input']!r}") from None
