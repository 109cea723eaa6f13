"""How often 95 % intervals hold the truth, and how often equal learners are called unequal.

python benchmarks/coverage.py --json FILE [--data-sets 1000] [--workers 2]

Many small data sets are simulated. On each, two equally good learners are cross-validated as a run
does it, and every metric gets the procedure's interval. The truth is what the learner scores on
5,000 fresh records, averaged over 400 trainings on fresh records of a training set's size. A
verdict is false where the interval of the two learners' difference leaves out 0. "Before" are the
intervals up to commit 8d1708f (groups drawn within folds, models given), on a quarter of the data
sets.

The first learner also answers by a threshold, chosen on inner out-of-fold predictions of each
fold's training records for the default aim; metrics of such answers are called "… by threshold".
For values, the half width of 90 % prediction ranges comes from out-of-fold errors, as a bundle's,
and a learner trained on all records is asked about fresh ones: key ``ranges``.

Only data sets in which an interval is given count, as many as ``--data-sets`` where events are
what decides; ``data_sets`` says how many. A metric given in less than half of them is not listed.
The JSON is replaced after every setting, so that a run that is cut off keeps what it has.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes; threads would only disturb
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from enecg.evaluation.bootstrap import resampled_means
from enecg.evaluation.events import LEAST_EVENTS, fewest_events
from enecg.evaluation.intervals import procedure_difference, procedure_interval
from enecg.evaluation.judged import Judged, judge
from enecg.evaluation.metrics import REGRESSION_METRICS
from enecg.evaluation.null_band import null_band
from enecg.evaluation.operating_points import RATES, operating_points
from enecg.evaluation.thresholds import (
    Aim,
    answers,
    as_probabilities,
    choose_thresholds,
    margins,
)
from enecg.evaluation.value_ranges import COVERAGE, fit_half_width
from enecg.evaluation.weighted_metrics import weighted_scores
from enecg.files import write_json
from enecg.tasks import TASKS, Task

Array = np.ndarray
FEATURES = 20
"""Of every record; each of the two learners sees half of them, all equally informative."""
POPULATION, TRAININGS = 5_000, 400
RESAMPLES = 200
CHUNKS = 4
MOST_TRIES = 25
"""Data sets drawn for one with enough events, before a setting is given up."""
FRESH = 500
"""Records that a prediction range is judged by, in every data set."""
AIM = Aim.read("f1")
BY_THRESHOLD = " by threshold"
OF_ANSWERS = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Setting:
    """A kind of data set, learner and cross-validation.

    Attributes
    ----------
    task : Task
        ``gender`` (two classes) or ``age`` (a value).
    n : int
        Records.
    prevalence : float
        Of the second class.
    signal : float
        Distance of the classes in standard deviations, or the features' share in the value; 0:
        labels are permuted, as it were.
    folds, repeats : int
        Of the cross-validation.
    per_group : int
        Records of one patient, who has one label and features in common.
    unstable : bool
        In each training a learner sees 1 to 5 features, chosen by chance.
    """

    task: Task
    n: int
    prevalence: float = 0.5
    signal: float = 2.0
    folds: int = 3
    repeats: int = 1
    per_group: int = 1
    unstable: bool = False

    @property
    def name(self) -> str:
        """What stands in the JSON, after the metric."""
        parts = [f"n={self.n}"]
        parts += [f"prevalence={self.prevalence:g}"] if self.task.kind == "classification" else []
        parts += ["permuted labels"] if self.signal == 0 else []
        parts += ["well separated"] if self.signal > 2 else []
        parts += [f"folds={self.folds}"] if self.folds != 3 else []
        parts += [f"repeats={self.repeats}"] if self.repeats != 1 else []
        parts += [f"{self.per_group} records a patient"] if self.per_group != 1 else []
        return ", ".join(parts + ["unstable learner"] * self.unstable)


def settings() -> list[Setting]:
    """Return everything that is simulated."""
    sex, age = TASKS["gender"], TASKS["age"]
    rare = [Setting(sex, n, p) for n in (100, 300, 1000) for p in (0.5, 0.1, 0.03)]
    permuted = [Setting(sex, n, signal=0.0) for n in (100, 300, 1000)]
    values = [Setting(age, n, signal=s) for n in (100, 300, 1000) for s in (1.0, 0.0)]
    values += [Setting(age, 300, signal=1.0, per_group=3)]
    values += [Setting(age, 300, signal=1.0, unstable=True)]
    usual = Setting(sex, 300)
    others = [
        replace(usual, folds=2), replace(usual, folds=5), replace(usual, folds=10, n=1000),
        replace(usual, signal=4.0), replace(usual, per_group=3), replace(usual, repeats=3),
        replace(usual, repeats=3, signal=0.0), replace(usual, unstable=True),
        replace(usual, unstable=True, repeats=5),
        replace(usual, n=1000, signal=0.0, folds=10),
        replace(usual, n=1000, prevalence=0.1, signal=0.0),
    ]  # fmt: skip
    return [*rare, *permuted, *values, *others]


def draw(setting: Setting, n: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Draw records: features (n, 20), labels and patients (n,)."""
    patient = np.arange(n) // setting.per_group
    patients = patient[-1] + 1
    x = rng.normal(size=(n, FEATURES))
    if setting.per_group > 1:
        x = np.sqrt(0.5) * (x + rng.normal(size=(patients, FEATURES))[patient])
    if setting.task.kind == "regression":
        noise = rng.standard_t(5, size=patients)[patient]
        return x, 50.0 + setting.signal * x.sum(1) / np.sqrt(FEATURES) + noise, patient
    y = (rng.random(patients) < setting.prevalence)[patient].astype(float)
    x += np.outer(y - 0.5, np.full(FEATURES, setting.signal * np.sqrt(2.0 / FEATURES)))
    return x, y, patient


def learn(setting: Setting, x: Array, y: Array, seen: Array) -> Any:
    """Fit a linear discriminant or ridge regression to the features a learner sees."""
    x = x[:, seen]
    if setting.task.kind == "regression":
        x_mean, y_mean = x.mean(0), y.mean()
        gram = (x - x_mean).T @ (x - x_mean) + 5.0 * np.eye(x.shape[1])
        w = np.linalg.solve(gram, (x - x_mean).T @ (y - y_mean))
        return seen, w, y_mean - x_mean @ w
    ill = y > 0.5
    if ill.all() or not ill.any():
        return seen, np.zeros(x.shape[1]), 5.0 if ill.all() else -5.0
    means = np.stack([x[~ill].mean(0), x[ill].mean(0)])
    rest = x - means[ill.astype(int)]
    w = np.linalg.solve(rest.T @ rest / len(x) + 0.1 * np.eye(x.shape[1]), means[1] - means[0])
    odds = np.log((ill.sum() + 1.0) / ((~ill).sum() + 1.0))
    return seen, w, odds - w @ means.mean(0)


def predict(setting: Setting, model: Any, x: Array) -> Array:
    """Return values (n, 1) or probabilities of the two classes (n, 2)."""
    seen, w, offset = model
    answer = x[:, seen] @ w + offset
    if setting.task.kind == "regression":
        return answer[:, None]
    second = 1.0 / (1.0 + np.exp(-np.clip(answer, -30.0, 30.0)))
    return np.stack([1.0 - second, second], axis=1)


def seen_by(setting: Setting, learner: int, rng: np.random.Generator) -> Array:
    """Return which features one of the two learners sees in one training."""
    if setting.unstable:
        return rng.choice(FEATURES, rng.integers(1, 6), replace=False)
    return np.arange(learner, FEATURES, 2)


def thresholds(
    setting: Setting, x: Array, y: Array, patient: Array, learner: int, rng: np.random.Generator
) -> tuple[float, ...]:
    """Choose thresholds on three inner folds' predictions of training records."""
    fold_B = rng.integers(3, size=patient.max() + 1)[patient]
    predicted = np.full((len(y), setting.task.width), np.nan)
    for test in (fold_B == fold for fold in range(3)):
        if test.any() and not test.all():
            model = learn(setting, x[~test], y[~test], seen_by(setting, learner, rng))
            predicted[test] = predict(setting, model, x[test])
    return choose_thresholds(setting.task, predicted, y, AIM)


def truth(setting: Setting, seed: list[int]) -> dict[str, float]:
    """Return what learning on a training set of one fold scores on average."""
    rng = np.random.default_rng(seed)
    n = round(setting.n * (1 - 1 / setting.folds)) // setting.per_group * setting.per_group
    found: list[dict[str, float]] = []
    for training in range(TRAININGS):
        x, y, patient = draw(setting, n, rng)
        learner = training % 2
        model = learn(setting, x, y, seen_by(setting, learner, rng))
        if setting.task.kind == "classification":
            chosen = thresholds(setting, x, y, patient, learner, rng)
        x, y, _ = draw(replace(setting, per_group=1), POPULATION, rng)
        predicted = predict(setting, model, x)
        found.append(scores(setting.task, y, predicted))
        if setting.task.kind == "classification":
            for after, given in (("", ()), (BY_THRESHOLD, chosen)):
                said = answers(setting.task, predicted, given)
                found[-1] |= {rate + after: value for rate, value in rates(y, said).items()}
            of_answers = scores(setting.task, y, as_probabilities(setting.task, said))
            found[-1] |= {metric + BY_THRESHOLD: of_answers[metric] for metric in OF_ANSWERS}
    metrics = dict.fromkeys(metric for one in found for metric in one)
    return {m: float(np.mean([one[m] for one in found if m in one])) for m in metrics}


def rates(y: Array, said: Array) -> dict[str, float]:
    """Return sensitivity and its like of the second class, those that are defined."""
    ill, yes = y > 0.5, said == 1
    counted = zip(RATES, (ill, ~ill, yes, ~yes), strict=True)
    return {rate: float((ill == yes)[of].mean()) for rate, of in counted if of.any()}


@dataclass
class Simulated:
    """One data set, cross-validated.

    Attributes
    ----------
    both : list of two Judged
    by_threshold : Judged or None
        The first learner's answers by threshold, as certain probabilities.
    operating : dict
        `operating_points` of the first learner, rates by threshold under names that say so.
    enough : bool
        Whether events suffice in every fold.
    inside, width : float
        Of values: the share of fresh ones in their 90 % ranges, and these ranges' width.
    """

    both: list[Judged]
    enough: bool
    by_threshold: Judged | None = None
    operating: dict[str, Any] = field(default_factory=dict)
    inside: float = 0.0
    width: float = 0.0


def cross_validated(
    setting: Setting, rng: np.random.Generator, *, only_with_events: bool
) -> Simulated | None:
    """Cross-validate both learners on a fresh data set.

    None where events do not suffice and nothing else is wanted.
    """
    task = setting.task
    x, y, patient = draw(setting, setting.n, rng)
    fold_RB = rng.integers(setting.folds, size=(setting.repeats, patient[-1] + 1))[:, patient]
    group_B = np.char.mod("%04d", patient)
    fewest = min(fewest_events(task, y, fold_B, group_B) for fold_B in fold_RB)
    if fewest < LEAST_EVENTS and only_with_events:
        return None
    predictions = np.zeros((2, setting.repeats, setting.n, task.width))
    chosen_RBC = np.full(predictions.shape[1:], 0.5)
    said_RB = np.zeros(fold_RB.shape, dtype=int)
    rows = [[np.flatnonzero(fold_B == fold) for fold in range(setting.folds)] for fold_B in fold_RB]
    with_rates = task.kind == "classification"
    for repeat, folds in enumerate(rows):
        for test in folds:
            rest = np.delete(np.arange(setting.n), test)
            for learner in range(2):
                model = learn(setting, x[rest], y[rest], seen_by(setting, learner, rng))
                predictions[learner, repeat, test] = predict(setting, model, x[test])
            if with_rates:
                chosen = thresholds(setting, x[rest], y[rest], patient[rest], 0, rng)
                chosen_RBC[repeat, test] = chosen
                said_RB[repeat, test] = answers(task, predictions[0, repeat, test], chosen)

    def judged(predicted_RBC: Array, margin_RBC: Array | None) -> Judged:
        of_folds = [
            [scores(task, y[test], predicted_BC[test]) for test in folds]
            for predicted_BC, folds in zip(predicted_RBC, rows, strict=True)
        ]
        return Judged(task, y, predicted_RBC, group_B, rows, of_folds, margin_RBC)

    above = [margins(task, one, None) if with_rates else None for one in predictions]
    both = [judged(*one) for one in zip(predictions, above, strict=True)]
    made = Simulated(both, fewest >= LEAST_EVENTS)
    if with_rates:
        first, where = predictions[0], (fold_RB, group_B)
        for after, said, given in (
            ("", answers(task, first, ()), None),
            (BY_THRESHOLD, said_RB, chosen_RBC),
        ):
            found = operating_points(task, y, said, *where, margins(task, first, given))
            made.operating |= {rate + after: one for rate, one in found.items()}
        by_threshold = as_probabilities(task, said_RB).astype(float)
        made.by_threshold = judged(by_threshold, margins(task, first, chosen_RBC))
    if task.kind == "regression":
        half = fit_half_width(task, predictions[0, 0], y)
        assert half is not None
        model = learn(setting, x, y, seen_by(setting, 0, rng))
        fresh, value, _ = draw(replace(setting, per_group=1), FRESH, rng)
        error = np.abs(predict(setting, model, fresh)[:, 0] - value)
        made.inside, made.width = float((error <= half).mean()), 2.0 * half
    return made


def scores(task: Task, y: Array, predicted: Array) -> dict[str, float]:
    """Return what `metrics.score` gives, but for ``ece``, ten times as fast."""
    found = weighted_scores(task, y, predicted, np.ones((len(y), 1)))
    return {metric: float(value) for metric, [value] in found.items() if not np.isnan(value)}


def simulate(setting: Setting, seed: list[int], wanted: int) -> dict[str, list[list[float]]]:
    """Return rows of numbers from many data sets.

    ``new/<metric>``: mean, low, high, 1 where the verdict is false (NaN where there is none).
    ``before/<metric>``: the same of the intervals before, for a quarter of `wanted` data sets,
    events or not. Rates of answers: of the first `wanted`. ``ranges/``: share inside and width.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, list[list[float]]] = {}
    given = 0
    for tried in range(wanted * MOST_TRIES):
        if tried >= wanted and (given >= wanted or given * MOST_TRIES < wanted):
            break
        made = cross_validated(setting, rng, only_with_events=tried >= wanted)
        if made is None:
            continue
        ours, theirs = made.both
        if 4 * tried < wanted:
            for key, row in _rows_before(ours, theirs):
                rows.setdefault(key, []).append(row)
        if tried < wanted:
            for rate, one in made.operating.items():
                if "ci95" in one:
                    row = [one["mean"], *one["ci95"], np.nan]
                    rows.setdefault(f"new/{rate}", []).append(row)
            if setting.task.kind == "regression":
                rows.setdefault("ranges/", []).append([made.inside, made.width])
        if not made.enough or given >= wanted:
            continue
        given += 1
        for metric in ours.metrics:
            if not (ours.enough(metric) and theirs.enough(metric)):
                continue
            least, most = procedure_difference(ours, theirs, metric)
            if (ends := procedure_interval(ours, metric)) is not None:
                row = [ours.values(metric).mean(), *ends, not least <= 0.0 <= most]
                rows.setdefault(f"new/{metric}", []).append(row)
        said = made.by_threshold
        for metric in OF_ANSWERS if said is not None else ():
            if said.enough(metric) and (ends := procedure_interval(said, metric)) is not None:
                row = [said.values(metric).mean(), *ends, np.nan]
                rows.setdefault(f"new/{metric}{BY_THRESHOLD}", []).append(row)
    return rows


def _rows_before(ours: Judged, theirs: Judged) -> Iterator[tuple[str, list[float]]]:
    ours_R, theirs_R = (resampled_means(one, RESAMPLES, 0) for one in (ours, theirs))
    for metric in ours_R:
        mean = ours.values(metric).mean()
        if np.isnan([mean, theirs.values(metric).mean()]).any():
            continue  # no interval was given
        low, high = np.nanpercentile(ours_R[metric], [2.5, 97.5])
        least, most = np.nanpercentile(ours_R[metric] - theirs_R[metric], [2.5, 97.5])
        yield f"before/{metric}", [mean, low, high, not least <= 0.0 <= most]


def calibrated(n: int, seed: list[int], wanted: int) -> dict[str, float]:
    """Return how a perfectly calibrated model's calibration error comes out in three folds."""
    rng = np.random.default_rng(seed)
    task, inside, plain, debiased = TASKS["gender"], 0, [], []
    for number in range(wanted):
        second = 1.0 / (1.0 + np.exp(-1.5 * rng.normal(size=n)))
        y = (rng.random(n) < second).astype(float)
        predicted = np.stack([1.0 - second, second], axis=1)
        judged = judge(task, y, predicted, rng.integers(3, size=n), np.arange(n).astype(str))
        low, high = null_band(judged.confidences(), number)
        debiased.append(float(judged.values("ece").mean()))
        plain.append(float(np.mean([_plain_error(judged, rows) for rows in judged.rows[0]])))
        inside += low <= debiased[-1] <= high
    return {
        "in the null band": inside / wanted,
        "mean, before": float(np.mean(plain)),
        "mean, debiased": float(np.mean(debiased)),
    }


def _plain_error(judged: Judged, rows: Array) -> float:
    top = judged.prediction_RBC[0][rows].max(1)
    right = judged.prediction_RBC[0][rows].argmax(1) == judged.truth_B[rows]
    gap = np.bincount(np.ceil(top * 15).astype(int), weights=top - right)
    return float(np.abs(gap).sum() / rows.size)


def _work(job: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any, float]:
    kind, number, chunk, wanted = job
    started = time.process_time()
    if kind == "calibrated":
        result: Any = calibrated(number, [3, number], wanted)
    elif kind == "truth":
        result = truth(settings()[number], [1, number])
    else:
        result = simulate(settings()[number], [2, number, chunk], wanted)
    return job, result, time.process_time() - started


def results_of(
    numbers: list[int], data_sets: int, workers: int, output: Path | None = None
) -> dict[str, Any]:
    """Simulate some settings, by their number, and return what the JSON holds.

    The JSON at `output` is written after every setting.
    """
    chunks = min(CHUNKS, data_sets)
    sizes = [data_sets // chunks + (c < data_sets % chunks) for c in range(chunks)]
    jobs: list[tuple[Any, ...]] = []
    for number in numbers:
        jobs += [("truth", number, 0, 0)]
        jobs += [("simulate", number, chunk, size) for chunk, size in enumerate(sizes)]
    jobs += [("calibrated", n, 0, -(-data_sets // 4)) for n in (100, 300, 1000)]
    found: dict[str, Any] = {
        "coverage": {}, "coverage_before": {}, "false_verdicts": 0.0, "false_verdicts_before": 0.0,
        "ranges": {}, "false_verdicts_by_setting": {}, "data_sets": {}, "truth": {}, "width": {},
        "width_before": {}, "width_needed": {}, "calibrated": {}, "cpu_seconds": {},
    }  # fmt: skip
    wrong: dict[str, list[float]] = {"new": [], "before": []}
    rows: dict[str, list[list[float]]] = {}
    true: dict[str, float] = {}
    cpu = 0.0
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        for (kind, number, chunk, _), result, seconds in pool.imap(_work, jobs):
            cpu += seconds
            if kind == "calibrated":
                found["calibrated"][f"n={number}"] = result
            elif kind == "truth":
                true, rows, cpu = result, {}, seconds
            else:
                for key, of_chunk in result.items():
                    rows.setdefault(key, []).extend(of_chunk)
            if kind == "simulate" and chunk == chunks - 1:
                setting = settings()[number]
                least = {"before": data_sets / 8}
                kept = [k for k in rows if len(rows[k]) >= least.get(k[:6], data_sets / 2)]
                for key in kept:  # the others are hardly ever given
                    _put(found, wrong, setting, key, np.array(rows[key], dtype=float), true)
                for which, after in (("new", ""), ("before", "_before")):
                    if wrong[which]:
                        found[f"false_verdicts{after}"] = float(np.mean(wrong[which]))
                found["cpu_seconds"][f"{setting.task.name}, {setting.name}"] = round(cpu, 1)
            if output is not None and (kind == "calibrated" or chunk == chunks - 1):
                write_json(output, found)
    return found


def _put(
    found: dict[str, Any],
    wrong: dict[str, list[float]],
    setting: Setting,
    key: str,
    rows: Array,
    true: dict[str, float],
) -> None:
    """Put a setting's rows of one metric into what the JSON holds."""
    which, metric = key.split("/")
    if which == "ranges":
        found["ranges"][setting.name] = {
            "asked": COVERAGE, "coverage": float(rows[:, 0].mean()),
            "mean_width": float(rows[:, 1].mean()), "data_sets": len(rows),
        }  # fmt: skip
        return
    name = f"{metric}, {setting.name}"
    mean, low, high, false = rows.T
    after = "" if which == "new" else "_before"
    covered = (low <= true[metric]) & (true[metric] <= high)
    found[f"coverage{after}"][name] = float(covered.mean())
    found[f"width{after}"][name] = float((high - low).mean())
    if not np.isnan(false).any():
        wrong[which].append(float(false.mean()))
    if which == "new":
        if not np.isnan(false).any():
            found["false_verdicts_by_setting"][name] = wrong[which][-1]
        found["truth"][name] = true[metric]
        found["width_needed"][name] = float(3.92 * mean.std())
        found["data_sets"][name] = len(rows)


def markdown(found: dict[str, Any]) -> str:
    """Return the tables of docs/intervals.md: per cent covered, in brackets before."""
    lines = []
    names = dict.fromkeys(name.partition(", ")[2] for name in found["coverage_before"])
    for metrics in (
        ("auroc", "auprc", "accuracy", "precision", "recall", "f1"),
        REGRESSION_METRICS,
        RATES,
        tuple(rate + BY_THRESHOLD for rate in RATES),
        tuple(metric + BY_THRESHOLD for metric in OF_ANSWERS),
    ):
        with_verdicts = metrics[0] in ("auroc", REGRESSION_METRICS[0])
        heads = ["setting", *metrics, "width / needed"] + ["false verdicts, %"] * with_verdicts
        lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for name in names:
            keys = [f"{metric}, {name}" for metric in metrics]
            if not any(key in found[of] for key in keys for of in ("coverage", "coverage_before")):
                continue
            cells = [name]
            for key in keys:
                new, before = found["coverage"].get(key), found["coverage_before"].get(key)
                cells.append("–" if new is None else f"{100 * new:.1f}")
                cells[-1] += "" if before is None else f" ({100 * before:.0f})"
            given = [key for key in keys if key in found["coverage"]]
            needed = [key for key in given if found["width_needed"][key] > 1e-6]
            widths = [found["width"][key] / found["width_needed"][key] for key in needed]
            cells.append(f"{min(widths):.1f}–{max(widths):.1f}" if widths else "–")
            if with_verdicts:
                false = [100 * found["false_verdicts_by_setting"][key] for key in given]
                cells.append(f"{min(false):.1f}–{max(false):.1f}" if false else "–")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| setting | inside, % | mean width |", "|---|---|---|"]
    for name, one in found["ranges"].items():
        lines.append(f"| {name} | {100 * one['coverage']:.1f} | {one['mean_width']:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Simulate every setting; print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--data-sets", type=int, default=1000, help="per setting")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    if arguments.data_sets < 1 or arguments.workers < 1:
        parser.error("--data-sets and --workers must be at least 1")
    started = time.monotonic()
    numbers = list(range(len(settings())))
    found = results_of(numbers, arguments.data_sets, arguments.workers, arguments.json)
    print(markdown(found))
    print(f"calibration error of a calibrated model: {found['calibrated']}")
    print(
        f"false verdicts: {found['false_verdicts']:.3f}, before "
        f"{found['false_verdicts_before']:.3f}; {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
