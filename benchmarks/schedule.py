"""The published schedule done the authors' way, against this way: time and metrics.

    python benchmarks/schedule.py PTB_XL_FOLDER [--records 400]

Both train a head per expert and task on frozen backbones: 5 epochs, 3 folds, 5 tasks. The authors'
way sends every batch of every epoch, fold and task through every backbone; the first batches of
one epoch are measured, on all cores that this process may use, and multiplied, since all of them
are alike. This way is measured in full: Ray's start, features, the nested procedure for all experts
(which trains more heads than the authors do), and Ray's end. The metrics of the authors' schedule
come from the same heads on features that are kept, which gives the same numbers in less time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.multiprocessing
import typer

from enecg import experts
from enecg.cluster import connect
from enecg.config import Config, parse_config
from enecg.evaluation.intervals import fold_summary
from enecg.evaluation.metrics import score
from enecg.experiment import Experiment, open_experiment
from enecg.records.convert import convert
from enecg.records.store import RecordStore
from enecg.stage1.adapted import load_outputs
from enecg.stage1.heads import Head
from enecg.stage1.jobs import expert_folder, train_experts
from enecg.tasks import Task, known

EXPERTS: dict[str, dict[str, Any]] = {
    "moment": {"config": {"t5_config": {"d_model": 512, "d_ff": 1024, "d_kv": 64, "num_layers": 8,
                                        "num_heads": 6}}},
    "tempo": {"config": {"d_model": 128, "gpt_layers": 2, "gpt2": {"n_head": 4, "vocab_size": 64},
                         "stub_token_ids": {"trend": [5, 6, 7], "season": [5, 6, 8],
                                            "residual": [5, 6, 9]}}},
    "ecg-fm": {"config": {"encoder_embed_dim": 128, "encoder_layers": 4,
                          "encoder_ffn_embed_dim": 512, "encoder_attention_heads": 4}},
    "timesnet": {"layers": 1},
    "dlinear": {},
}  # fmt: skip
"""The authors' five, at small size, with random weights from their seeds."""
TASKS: list[Any] = [
    "rr_interval", "age", "gender", "report_label",
    {"sinus": {"kind": "classification", "column": "report_label", "classes": ["SR", "other"]}},
]  # fmt: skip
EPOCHS, FOLDS, BATCH, RATE = 5, 3, 16, 1e-3
MEASURED = 64
"""Records of the authors' epoch that are passed for the measurement."""


def configuration(store: Path, folder: Path) -> Config:
    """The experiment."""
    return parse_config(
        {
            "records": str(store), "run_dir": str(folder / "run"), "tasks": TASKS,
            "features": str(folder / "features"), "folds": FOLDS, "experts": EXPERTS,
            "stage1": {"epochs": EPOCHS, "batch_size": BATCH, "heads": ["ffn"],
                       "learning_rate": RATE},
        }
    )  # fmt: skip


def _pass_over(
    rank: int, world: int, config: Config, ids: list[str], target_N: np.ndarray, seconds: Any
) -> None:
    """One epoch of one fold and one task, the authors' way, on one core's share of the batches."""
    torch.set_num_threads(1)
    loaded = [
        experts.load(name, weights=s.weights, **s.options) for name, s in config.experts.items()
    ]
    heads = [Head(expert.spec.width, config.task_list[0], (256, 256)) for expert in loaded]
    optimizer = torch.optim.AdamW([p for head in heads for p in head.parameters()], lr=RATE)
    store = RecordStore.open(config.records)
    batches = list(store.signals(ids, BATCH))
    target_of = dict(zip(store.index["record_id"], target_N, strict=True))
    seconds["ready"].wait()
    started = time.monotonic()
    for found, x_BLT in batches[rank::world]:
        target_B = torch.tensor([target_of[record] for record in found]).float()
        loss = torch.zeros(())
        for expert, head in zip(loaded, heads, strict=True):
            with torch.no_grad():
                f_BD = expert.features(torch.from_numpy(x_BLT))
            loss = loss + head.loss(head(f_BD), target_B).nanmean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds[rank] = time.monotonic() - started


def authors_seconds(config: Config, experiment: Experiment) -> float:
    """Time of the authors' schedule, from a few batches of one epoch of one fold and task."""
    test = experiment.nested.outer_N == 0
    ids = experiment.store.index.loc[~test, "record_id"].tolist()[:MEASURED]
    target_N = experiment.targets[experiment.tasks[0].name]
    with torch.multiprocessing.Manager() as manager:
        seconds = manager.dict()
        cores = len(os.sched_getaffinity(0))
        seconds["ready"] = manager.Barrier(cores)
        arguments = (cores, config, ids, target_N, seconds)
        torch.multiprocessing.spawn(_pass_over, arguments, nprocs=cores)
        epoch = max(seconds[rank] for rank in range(cores))
    n = len(test)
    per_record = epoch / len(ids)
    print(f"authors' way: {epoch:.1f} s for {len(ids)} records once", flush=True)
    passes = EPOCHS * len(TASKS) * (FOLDS - 1) * n + len(TASKS) * n  # and each record tested once
    return passes * per_record


def authors_heads(
    task: Task, f_ND: torch.Tensor, target_N: np.ndarray, outer_N: np.ndarray
) -> np.ndarray:
    """Predictions for every record by heads of the authors' schedule, on features kept."""
    output_NC = np.zeros((len(f_ND), task.width), dtype=np.float32)
    for fold in range(FOLDS):
        torch.manual_seed(fold)
        random = np.random.default_rng(fold)
        rows = np.flatnonzero((outer_N != fold) & known(target_N))
        head = Head(f_ND.shape[1], task, (256, 256))
        head.scale_targets(torch.from_numpy(target_N[rows]).float())
        head.scale_features(f_ND, torch.from_numpy(rows))
        optimizer = torch.optim.AdamW(head.parameters(), lr=RATE)
        for _ in range(EPOCHS):
            for batch in np.array_split(random.permutation(rows), max(1, len(rows) // BATCH)):
                loss = head.loss(head(f_ND[batch]), torch.from_numpy(target_N[batch]).float())
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()
        with torch.no_grad():
            test = outer_N == fold
            output_NC[test] = head.answer(head(f_ND[test])).numpy()
    return output_NC


def features_of(experiment: Experiment, name: str) -> torch.Tensor:
    """Features that this way has stored, in the store's order."""
    import pyarrow.parquet as pq

    from enecg.stage1.feature_store import FeatureStore

    settings = experiment.config.experts[name]
    expert = experts.load(name, weights=settings.weights, **settings.options)
    found: dict[str, np.ndarray] = {}
    for part in FeatureStore.of(experiment.config.features_dir, expert).parts:
        table = pq.read_table(part)
        rows = table["features"].combine_chunks().to_numpy_ndarray()
        found.update(zip(table["physical_sha256"].to_pylist(), rows, strict=True))
    return torch.from_numpy(np.stack([found[k] for k in experiment.store.index["physical_sha256"]]))


def compare(experiment: Experiment) -> tuple[int, int]:
    """Print both ways' main metric per task and expert; count those within our interval."""
    within = of = 0
    nested = experiment.nested
    for task in experiment.tasks:
        metric = "mae" if task.kind == "regression" else "auroc"
        target_N = experiment.targets[task.name]
        for name in experiment.config.experts:
            outputs = load_outputs(expert_folder(experiment.config, name) / "outputs.safetensors")
            ours_NC = np.zeros((len(target_N), task.width), dtype=np.float32)
            for number in range(FOLDS):
                test = nested.outer_N == number
                ours_NC[test] = outputs[task.name][number][test]
            summary = fold_summary(task, target_N, ours_NC, nested.outer_N, nested.group_N, seed=1)
            theirs_NC = authors_heads(task, features_of(experiment, name), target_N, nested.outer_N)
            theirs = float(np.mean([
                score(task, target_N[nested.outer_N == f], theirs_NC[nested.outer_N == f])[metric]
                for f in range(FOLDS)
            ]))  # fmt: skip
            mean, interval = summary[metric]["mean"], summary[metric].get("ci95")
            if interval is None:
                print(f"{task.name:13} {name:11} {metric:6} too few events for an interval")
                continue
            low, high = interval
            inside = low <= theirs <= high
            within, of = within + inside, of + 1
            said = f"{task.name:13} {name:11} {metric:6} authors' {theirs:8.3f}  this {mean:8.3f}"
            print(f"{said} [{low:.3f}, {high:.3f}] {'' if inside else '  outside'}")
    return within, of


def main(
    ptb_xl: Annotated[Path, typer.Argument(help="A folder of PTB-XL")],
    records: int = 400,
) -> None:
    """Measure both ways."""
    with tempfile.TemporaryDirectory(prefix="enecg-schedule-") as temporary:
        folder = Path(temporary)
        connect()
        store = convert("ptb-xl", ptb_xl, folder / "store", limit=records, max_rejected=1.0)
        import ray

        ray.shutdown()
        config = configuration(store.path, folder)
        experiment = open_experiment(config)
        theirs = authors_seconds(config, experiment)
        started = time.monotonic()
        connect()
        train_experts(experiment)
        ray.shutdown()
        ours = time.monotonic() - started
        within, of = compare(experiment)
        print(json.dumps({
            "records": len(store.index), "experts": list(config.experts),
            "authors_seconds": round(theirs), "this_way_seconds": round(ours),
            "ratio": round(theirs / ours, 1), "metrics_within_interval": f"{within} of {of}",
        }))  # fmt: skip


if __name__ == "__main__":
    sys.exit(typer.run(main))
