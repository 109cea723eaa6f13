"""Compare a run's ensemble with a plain yardstick on the same folds of PTB-XL, in pairs.

The yardstick: 2,004 random convolution kernels (six dilations, three statistics each) on 100 Hz
leads of unit variance, and ridge regression. It learns on the training groups of the
run's outer folds and is tested on the others; the ensemble is asked through the bundles that the
run kept of each fold. Differences come with 95 % intervals of a
bootstrap over groups within folds, the same groups for both. No cluster is started.

    python benchmarks/rhythm_yardstick.py --run RUN
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from enecg import signals
from enecg.bundle import load_bundles
from enecg.config import parse_config
from enecg.evaluation.metrics import score
from enecg.evaluation.weighted_metrics import weighted_scores
from enecg.experiment import open_experiment
from enecg.experts.preparation import resample_fourier, z_scored
from enecg.nested import ALL, Fit, Nested
from enecg.predictor import Predictor
from enecg.stage1.ridge import fit_ridge
from enecg.tasks import Task, known

KERNELS, TAPS = 2004, 9
DILATIONS = (1, 2, 4, 8, 16, 32)
RESAMPLES = 2000
BATCH = 64

Predictions = dict[str, np.ndarray]


def yardstick(x_BLT: Tensor) -> Tensor:
    """Maximum, mean and share of positive values of every kernel's output, (B, 3 × 2004)."""
    x_BLT = resample_fourier(z_scored(x_BLT), 1000)
    generator = torch.Generator().manual_seed(0)
    found = []
    for dilation in DILATIONS:
        n = KERNELS // len(DILATIONS)
        weights_KLW = torch.randn(n, len(signals.LEADS), TAPS, generator=generator)
        # Each kernel sees one to all leads.
        seen_KL = torch.rand(n, len(signals.LEADS), generator=generator)
        weights_KLW *= (seen_KL < torch.rand(n, 1, generator=generator).clamp_min(0.1))[..., None]
        weights_KLW -= weights_KLW.mean(2, keepdim=True)
        bias_K = torch.rand(n, generator=generator) * 2 - 1
        y_BKT = functional.conv1d(x_BLT, weights_KLW, bias_K, dilation=dilation, padding="same")
        found += [y_BKT.amax(-1), y_BKT.mean(-1), (y_BKT > 0).float().mean(-1)]
    return torch.cat(found, dim=1)


def of_yardstick(f_ND: Tensor, task: Task, target_N: np.ndarray, nested: Nested) -> np.ndarray:
    """Predict every record by the ridge head that was fitted without its outer fold, (N, C)."""
    out_NC = np.zeros((len(f_ND), task.width))
    for scope in _folds(nested):
        rows = nested.learns_from(Fit(scope, None)) & known(target_N)
        part_R = torch.from_numpy(nested.stopping_N[rows])
        head = fit_ridge(
            f_ND[torch.from_numpy(rows)], torch.from_numpy(target_N[rows]), part_R, task
        )
        test_N = nested.test(scope)
        with torch.no_grad():
            out_NC[test_N] = head.answer(head(f_ND[torch.from_numpy(test_N)])).numpy()
    return out_NC


def of_run(run: Path, x_NLT: np.ndarray, tasks: list[Task], nested: Nested) -> Predictions:
    """Predict every record by the bundles that a run made without its outer fold, by task."""
    found = {task.name: np.zeros((len(x_NLT), task.width)) for task in tasks}
    for scope in _folds(nested):
        predictor = Predictor(load_bundles(run / "folds" / scope), torch.device("cpu"))
        test_N = np.flatnonzero(nested.test(scope))
        started = time.process_time()
        for task, answer in predictor(x_NLT[test_N]).items():
            found[task][test_N] = answer.prediction_BC
        each = 1000 * (time.process_time() - started) / len(test_N)
        print(f"fold {scope}: {len(test_N)} records, {each:.0f} ms of CPU each", flush=True)
    return found


def _folds(nested: Nested) -> list[str]:
    return [scope for scope in nested.scopes if scope != ALL]


def difference(
    task: Task,
    metric: str,
    target_N: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    nested: Nested,
) -> tuple[float, float]:
    """The 95 % interval of ``one`` − ``other``, mean over folds."""  # fmt: skip
    random = np.random.default_rng(0)
    of_folds = []
    for scope in _folds(nested):
        rows = nested.test(scope) & known(target_N)
        names, group_B = np.unique(nested.group_N[rows].astype(str), return_inverse=True)
        times_GR = random.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES).T
        times_BR = times_GR[group_B].astype(np.float64)
        scores = [
            weighted_scores(task, target_N[rows], p_NC[rows], times_BR)[metric]
            for p_NC in (one, other)
        ]
        of_folds.append(scores[0] - scores[1])
    low, high = np.nanpercentile(np.mean(of_folds, axis=0), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run folder")
    run = parser.parse_args().run
    torch.set_num_threads(1)
    results = json.loads((run / "results.json").read_text())
    experiment = open_experiment(parse_config(results["config"]))
    tasks, nested = experiment.tasks, experiment.nested
    place_of = {record: place for place, record in enumerate(experiment.store.index["record_id"])}
    x_NLT = np.zeros((len(place_of), len(signals.LEADS), signals.N_SAMPLES), dtype=np.float32)
    for records, x_BLT in experiment.store.signals():
        x_NLT[[place_of[record] for record in records]] = x_BLT
    ensemble = of_run(run, x_NLT, tasks, nested)
    with torch.no_grad():
        f_ND = torch.cat([yardstick(part) for part in torch.from_numpy(x_NLT).split(BATCH)])
    print("| task | metric, mean of folds | yardstick | ensemble | difference, 95 % interval |")
    print("|---|---|---|---|---|")
    for task in tasks:
        target_N = experiment.targets[task.name]
        metric = "mae" if task.kind == "regression" else "auroc"
        both = (of_yardstick(f_ND, task, target_N, nested), ensemble[task.name])
        means = [
            np.mean(
                [
                    score(task, target_N[r], p_NC[r])[metric]
                    for r in map(nested.test, _folds(nested))
                ]
            )
            for p_NC in both
        ]
        in_results = results["tasks"][task.name]["predictors"]["ensemble"][metric]["mean"]
        if abs(means[1] - in_results) > 1e-3:
            raise SystemExit(f"{task.name}: the bundles give {means[1]}, results.json {in_results}")
        low, high = difference(task, metric, target_N, both[1], both[0], nested)
        print(
            f"| {task.name} | {metric} | {means[0]:.4f} | {means[1]:.4f} | "
            f"{means[1] - means[0]:+.4f} [{low:+.4f}, {high:+.4f}] |",
            flush=True,
        )


if __name__ == "__main__":
    main()
