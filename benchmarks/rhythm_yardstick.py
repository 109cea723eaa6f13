"""Compare frozen experts with a plain yardstick on a PTB-XL folder, fold by fold, in pairs.

The yardstick: 2,004 random convolution kernels (six dilations, three statistics each) on 100 Hz
leads of unit variance, and ridge regression. Every predictor learns on the training groups of
the config's outer folds and is tested on the others. Differences come with 95 % intervals of a
bootstrap over groups within folds, the same groups for both. No cluster is started.

    python benchmarks/rhythm_yardstick.py --ecg FOLDER --keep FOLDER [--config FILE] [--only NAMES]
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import wfdb
from torch import Tensor
from torch.nn import functional

from enecg import experts, signals
from enecg.config import Config, load_config
from enecg.evaluation.metrics import score
from enecg.evaluation.weighted_metrics import weighted_scores
from enecg.experts.preparation import resample_fourier, z_scored
from enecg.nested import ALL, Fit, Nested, nested_folds
from enecg.records.corpus import Corpus
from enecg.records.groups import group_ids
from enecg.records.sources.ptb_xl import list_records
from enecg.stage1.ridge import fit_ridge
from enecg.stage1.trees import fit_trees
from enecg.tasks import Task, known

KERNELS, TAPS = 2004, 9
DILATIONS = (1, 2, 4, 8, 16, 32)
RESAMPLES = 2000
BATCH = 64
YARDSTICK = "yardstick"

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


def read(folder: Path, listed: pd.DataFrame) -> np.ndarray:
    """Read the records as experts get them: float32 mV at 500 Hz, (N, 12, 5000)."""
    x_NLT = np.zeros((len(listed), len(signals.LEADS), signals.N_SAMPLES), dtype=np.float32)
    for x_LT, path in zip(x_NLT, listed["path"], strict=True):
        record = wfdb.rdrecord(str(folder / path))
        order = [record.sig_name.index(name) for name in map(_ptb_xl_name, signals.LEADS)]
        for x_T, place in zip(x_LT, order, strict=True):
            x_T[:] = signals.resample(record.p_signal[:, place], record.fs)
    return x_NLT


def _ptb_xl_name(lead: str) -> str:
    return lead.upper()


def features(
    name: str, embed: Callable[[Tensor], Tensor], x_NLT: Callable[[], np.ndarray], keep: Path
) -> np.ndarray:
    """Compute features, or take them from an earlier call."""
    path = keep / f"{name}.npy"
    if not path.exists():
        signals_NLT, started = torch.from_numpy(x_NLT()), time.process_time()
        with torch.no_grad():
            f_ND = torch.cat([embed(part) for part in signals_NLT.split(BATCH)]).numpy()
        each = (time.process_time() - started) / len(f_ND)
        print(f"{name}: {f_ND.shape[1]} features, {1000 * each:.1f} ms of CPU a record", flush=True)
        np.save(path, f_ND)
    return np.asarray(np.load(path))


def predictions(
    f_ND: np.ndarray, head: str, task: Task, target_N: np.ndarray, nested: Nested
) -> np.ndarray:
    """Predict every record by what was learned without its outer fold, (N, C)."""
    f_ND_tensor, out_NC = torch.from_numpy(f_ND), np.zeros((len(f_ND), task.width))
    for scope in nested.scopes:
        if scope == ALL:
            continue
        rows = nested.learns_from(Fit(scope, None)) & known(target_N)
        f_RD, target_R = f_ND_tensor[torch.from_numpy(rows)], torch.from_numpy(target_N[rows])
        part_R = torch.from_numpy(nested.stopping_N[rows])
        model = (
            fit_trees(f_RD, target_R, task)
            if head == "trees"
            else fit_ridge(f_RD, target_R, part_R, task)
        )
        test_N = nested.test(scope)
        with torch.no_grad():
            out_NC[test_N] = model.answer(model(f_ND_tensor[torch.from_numpy(test_N)])).numpy()
    return out_NC


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
    for scope in nested.scopes:
        rows = nested.test(scope) & known(target_N)
        if scope == ALL:
            continue
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


def report(task: Task, target_N: np.ndarray, predicted: Predictions, nested: Nested) -> None:
    """Print one task's table."""
    metric = "mae" if task.kind == "regression" else "auroc"
    names = [scope for scope in nested.scopes if scope != ALL]
    print(f"\n| {task.name} | {metric}, mean of {len(names)} folds | minus the yardstick |")
    print("|---|---|---|")
    for name, p_NC in predicted.items():
        each = [score(task, target_N[r], p_NC[r])[metric] for r in map(nested.test, names)]
        pair = "–"
        if name != YARDSTICK and YARDSTICK in predicted:
            low, high = difference(task, metric, target_N, p_NC, predicted[YARDSTICK], nested)
            pair = f"{low:+.4f} … {high:+.4f}"
        print(f"| {name} | {np.mean(each):.4f} | {pair} |", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ecg", type=Path, required=True, help="a PTB-XL folder")
    parser.add_argument("--keep", type=Path, required=True, help="folder where features are kept")
    parser.add_argument("--config", type=Path, default=Path("ray_jobs/config/ptb_xl_rhythm.yaml"))
    parser.add_argument("--only", default="", help="frozen experts of the config, by comma")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.keep.mkdir(parents=True, exist_ok=True)
    config: Config = load_config(options.config)
    listed = list_records(Corpus.at(str(options.ecg)), None).table
    read_once: list[np.ndarray] = []

    def x_NLT() -> np.ndarray:
        if not read_once:
            read_once.append(read(options.ecg, listed))
        return read_once[0]

    samples = [(options.ecg / f"{path}.dat").read_bytes() for path in listed["path"]]
    hashes = [hashlib.sha256(each).hexdigest() for each in samples]
    listed["group_id"] = group_ids(listed["subject_id"].tolist(), hashes)
    nested = nested_folds(listed, config)
    wanted = {name: s for name, s in config.experts.items() if s.frozen}
    if options.only:
        wanted = {name: wanted[name] for name in options.only.split(",")}
    found = {YARDSTICK: features(YARDSTICK, yardstick, x_NLT, options.keep)}
    for name, settings in wanted.items():
        expert = experts.load(settings.backbone(name), **settings.options)
        found[name] = features(name, expert.features, x_NLT, options.keep)
    for task in config.task_list:
        target_N = task.targets(listed[task.column])
        predicted: Predictions = {}
        for name, f_ND in found.items():
            heads = ("ridge", "trees") if name == "beats" else ("ridge",)
            for head in heads:
                label = f"{name}, trees" if head == "trees" else name
                predicted[label] = predictions(f_ND, head, task, target_N, nested)
        of_experts = [p_NC for name, p_NC in predicted.items() if name != YARDSTICK]
        predicted["mean of the experts"] = np.mean(of_experts, axis=0)
        report(task, target_N, predicted, nested)


if __name__ == "__main__":
    main()
