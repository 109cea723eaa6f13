"""Stage 1 on one CUDA device: each ZeRO stage, precision and adaptation, through real Ray jobs.

    python benchmarks/gpu.py FOLDER [--small] [--only NAME NAME]

Prints per job how many records per second pass by in an epoch, which all models in the engine (six
of a backbone, if they fit) learn from, and the peak of the device's memory; and how far from ZeRO
0's its outputs are. One worker: what ZeRO 1 to 3 save with several is not seen. Weights are random,
of published size: they do not change speed or memory. ``--small`` takes tiny backbones, to try the
script on a CPU, whose process's memory then is what is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from stage1 import make_store

RECORDS = 256
SMALL_MOMENT = {
    "seq_len": 512, "patch_len": 8, "d_model": 32,
    "t5_config": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4},
}  # fmt: skip
SMALL_FOUNDER = {"base_filters": 16, "filter_list": [16, 32], "m_blocks_list": [1, 1]}


def jobs(small: bool, moment: str) -> dict[str, dict[str, Any]]:
    """Return each job's expert and settings of stage 1."""
    founder: dict[str, Any] = {"config": SMALL_FOUNDER} if small else {}
    full = {"ecgfounder": founder | {"adaptation": "full"}}
    lora = {"moment": {"adaptation": "lora", "weights": moment}}
    every = {"moment": {"adaptation": "full", "weights": moment}}
    found: dict[str, dict[str, Any]] = {}
    for stage in range(4):
        found[f"ecgfounder-full-fp32-zero{stage}"] = {
            "expert": full, "zero_stage": stage, "precision": "fp32",
        }  # fmt: skip
    for stage in (0, 3):
        found[f"ecgfounder-full-bf16-zero{stage}"] = {
            "expert": full, "zero_stage": stage, "precision": "bf16",
        }  # fmt: skip
    found["moment-head"] = {"expert": {"moment": {"adaptation": "head", "weights": moment}}}
    found["moment-lora-bf16"] = {"expert": lora, "precision": "bf16"}
    found["moment-lora-bf16-blocks"] = {
        "expert": lora, "precision": "bf16", "activation_checkpointing": "blocks",
    }  # fmt: skip
    found["moment-full-bf16"] = {"expert": every, "precision": "bf16"}
    return found


def run(name: str, settings: dict[str, Any], store: Path, folder: Path) -> dict[str, Any]:
    """Run one job, and say what it took; its log lies beside its run."""
    expert, settings = settings["expert"], {k: v for k, v in settings.items() if k != "expert"}
    config = {
        "records": str(store), "run_dir": str(folder / name), "tasks": ["age", "gender"],
        "features": str(folder / f"{name}-features"), "folds": 2, "inner_folds": 2,
        "experts": expert,
        "stage1": {"epochs": 3, "patience": "none", "batch_size": 64, "heads": ["ffn"],
                   "learning_rate": 1e-4, "checkpoint_seconds": 600} | settings,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    root, log = Path(__file__).resolve().parent.parent, folder / f"{name}.log"
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    started = time.monotonic()
    with open(log, "w") as said:
        done = subprocess.run(
            [sys.executable, "ray_jobs/train_experts.py", "--config", path],
            cwd=root, stdout=said, stderr=said, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
    if done.returncode:
        print("\n".join(log.read_text().splitlines()[-25:]))
        return {"job": name, "failed": done.returncode}
    outputs = next((folder / name).glob("experts/*/outputs.safetensors"))
    shown = re.findall(r"([\d,]+) records/s, .*memory ([\d.]+) GB", log.read_text())
    if not shown:
        return {"job": name, "failed": "its log has no rate"}
    return {
        "job": name, "seconds": round(time.monotonic() - started, 1),
        "records_per_s": max(float(rate.replace(",", "")) for rate, _ in shown),
        "peak_gb": max(float(memory) for _, memory in shown),
        "outputs": load_file(outputs),
    }  # fmt: skip


def main() -> None:
    """Run the jobs one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(jobs(False, "")), help="default: all")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    folder.mkdir(parents=True)
    import ray

    from enecg import experts
    from enecg.cluster import connect
    from enecg.experts.moment import MomentSizes

    connect()
    store = make_store(folder / "store", RECORDS)
    ray.shutdown()
    weights = folder / "moment"
    weights.mkdir()
    expert = experts.load("moment", **({"config": SMALL_MOMENT} if given.small else {}))
    tensors = {k: v.contiguous().clone() for k, v in expert.network.state_dict().items()}
    save_file(tensors, weights / "model.safetensors")
    sizes = SMALL_MOMENT if given.small else MomentSizes().model_dump()
    (weights / "config.json").write_text(json.dumps(sizes))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{device}, torch {torch.__version__}, {RECORDS} records", flush=True)
    reference: dict[str, np.ndarray] | None = None
    wanted = jobs(given.small, str(weights))
    for name in given.only or wanted:
        found = run(name, wanted[name], store, folder)
        outputs = found.pop("outputs", None)
        if name == "ecgfounder-full-fp32-zero0":
            reference = outputs
        if outputs is not None and reference is not None and name.startswith("ecgfounder"):
            found |= {
                f"off_{task}": float(np.abs(outputs[task] - reference[task]).max())
                for task in outputs
            }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
