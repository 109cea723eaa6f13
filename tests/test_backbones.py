"""Trained backbones: LoRA and full, repeats, worker counts, what checkpoints hold."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from enecg import experts
from enecg.config import ExpertSettings
from enecg.experts.contract import Expert
from enecg.stage1.adapted import TENSORS, backbone_with_lora, load_adapted, save_adapted
from enecg.stage1.augment import augment
from enecg.stage1.choosing import Outcome
from enecg.stage1.engine import checkpoint_blocks
from enecg.stage1.feeding import Feed
from enecg.stage1.fitting import Progress
from enecg.stage1.train import Session, train_backbones
from models import signals
from problems import Problem, join_process_group, setup, small_problem

pytestmark = pytest.mark.usefixtures("extra_experts")

X_NLT = signals(90, seed=5)
LORA = ExpertSettings.model_validate({"adaptation": "lora", "lora_rank": 2})


@pytest.fixture
def problem() -> Problem:
    """Targets that are the means of two leads."""
    problem = small_problem(len(X_NLT))
    mean_NL = np.nan_to_num(X_NLT[..., 100:].std(-1))
    problem.targets["age"][:] = 50 + 20 * mean_NL[:, 0]
    problem.targets["gender"][:] = (mean_NL[:, 1] > np.median(mean_NL[:, 1])).astype(float)
    return problem


def make(adaptation: str) -> Callable[[], Expert]:
    """The probe expert, as training starts from it."""
    if adaptation == "lora":
        return functools.partial(backbone_with_lora, "probe", LORA)
    return functools.partial(experts.load, "probe")


def feed(augmented: bool = False) -> Feed:
    """Signals in memory, prepared by the probe expert."""
    probe = experts.load("probe")

    def changed(x_BLT: np.ndarray, rows: np.ndarray, epoch: int) -> np.ndarray:
        return augment(x_BLT, [str(row) for row in rows], ["noise", "lead_dropout"], 1, epoch)

    return Feed(
        lambda: iter([(np.arange(len(X_NLT)), X_NLT)]),
        lambda x_BLT: probe.prepare(torch.from_numpy(x_BLT)),
        len(X_NLT), 4 * 600, 7, augment=changed if augmented else None,
    )  # fmt: skip


def trained(
    problem: Problem,
    adaptation: str,
    session: Session | None = None,
    augmented: bool = False,
    **changes: Any,
) -> Outcome:
    join_process_group()
    return train_backbones(
        setup(problem, adaptation, epochs=3, **changes),
        make(adaptation), feed(augmented), session or Session(), torch.device("cpu"), bf16=False,
    )  # fmt: skip


def equal(one: Outcome, other: Outcome) -> bool:
    return all(np.array_equal(one.outputs[name], other.outputs[name]) for name in one.outputs)


def backbone_of(outcome: Outcome) -> Expert:
    backbone = outcome.adapted["age/all"].models[0].backbone
    assert backbone is not None
    return backbone


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_the_same_seed_repeats_and_what_is_saved_answers_the_same(
    adaptation: str, problem: Problem, tmp_path: Path
) -> None:
    outcome = trained(problem, adaptation, clip=1.0)
    assert equal(outcome, trained(problem, adaptation, clip=1.0))
    heads = [outcome.adapted[f"{name}/0"].models[1] for name in ("age", "gender")]
    assert heads[0].backbone is heads[1].backbone
    save_adapted(tmp_path, outcome.adapted)
    settings = LORA if adaptation == "lora" else ExpertSettings(adaptation="full")
    names = [name for name in load_file(tmp_path / TENSORS) if "/backbone/" in name]
    assert all("lora_" in name for name in names) == (adaptation == "lora")
    read = load_adapted(tmp_path, {"age/all": problem.tasks[0]}, "probe", settings)["age/all"]
    with torch.no_grad():
        inputs = experts.load("probe").prepare(torch.from_numpy(X_NLT))
    assert torch.equal(read.answer(inputs), outcome.adapted["age/all"].answer(inputs))


def test_lora_moves_what_it_should_and_full_moves_everything(problem: Problem) -> None:
    start = experts.load("probe").state_dict()
    lora = backbone_of(trained(problem, "lora")).state_dict()
    assert torch.equal(lora["first.base_layer.weight"], start["first.weight"])
    assert torch.equal(lora["second.weight"], start["second.weight"])
    assert lora["first.lora_B.default.weight"].abs().max() > 0
    full = backbone_of(trained(problem, "full")).state_dict()
    assert all(not torch.equal(full[name], start[name]) for name in start)


def test_groups_of_models_end_as_all_of_them_at_once(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = trained(problem, "full")
    monkeypatch.setattr("enecg.stage1.train._at_once", lambda *_: 5)
    assert equal(together, trained(problem, "full"))


def test_checkpointing_and_micro_batches_change_no_result(problem: Problem) -> None:
    plain = trained(problem, "full", zero_stage=1)
    spared = trained(
        problem, "full", zero_stage=1, micro_batch=5, activation_checkpointing="blocks"
    )
    for name, outputs in plain.outputs.items():
        np.testing.assert_allclose(spared.outputs[name], outputs, rtol=1e-3, atol=1e-3)


def test_augmentation_repeats_and_matters(problem: Problem) -> None:
    once = trained(problem, "full", augmented=True)
    assert equal(once, trained(problem, "full", augmented=True))
    assert not equal(once, trained(problem, "full"))


def test_checkpoints_hold_what_is_trained_alone_and_end_as_if_never_stopped(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enecg.stage1.train._at_once", lambda *_: 5)
    undisturbed = trained(problem, "lora")
    left: dict[str, Any] = {}

    class Killed(Exception):
        pass

    def kill(
        _: str, finished: dict[str, Any], progress: Progress, save: Callable[[Path], None]
    ) -> None:
        if len(finished) == 5 and progress.epoch == 2:
            save(tmp_path)
            left.update(finished)
            raise Killed

    with pytest.raises(Killed):
        trained(problem, "lora", Session(report=kill))
    [model] = tmp_path.glob("state/mp_rank_*_model_states.pt")
    held = torch.load(model, weights_only=False)["module"]
    assert held and not [n for n in held if "backbone" in n and "lora_" not in n]
    assert all("lora_" in n for n in next(iter(left.values()))["state"] if "backbone" in n)
    assert equal(undisturbed, trained(problem, "lora", Session(left, tmp_path)))


class Blocks(nn.Module):
    """A backbone of blocks with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Dropout(0.2), nn.Linear(64, 16))
            for _ in range(4)
        )

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def test_blocks_that_are_checkpointed_keep_less_and_give_the_same_gradients() -> None:
    x, kept, gradients = torch.randn(50, 16), [], []
    for spared in (False, True):
        torch.manual_seed(0)
        model = Blocks()
        if spared:
            checkpoint_blocks(model)
        size = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.embed(x).square().sum()
        kept.append(size)
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert kept[1] < kept[0] / 3
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def _worker(rank: int, world: int, path: str, results: Any) -> None:
    torch.set_num_threads(1)
    join_process_group(rank, world, path)
    random = np.random.default_rng(0)
    x_NTL = random.normal(size=(60, 500, 12)).astype(np.float32)
    problem = small_problem(60)
    problem.targets["age"][:] = 50 + 100 * x_NTL[:, :, 0].mean(1)
    met: list[list[int]] = []

    def stream() -> Any:  # in windows, as Ray Data would; nothing is held
        for start in range(0, 60, 25):
            rows = np.arange(start, min(start + 25, 60))
            yield rows, x_NTL[rows]

    feed = Feed(stream, torch.from_numpy, 60, 10**9, 7, rank, world)
    epochs = feed.epoch

    def noted(epoch: int, batch_size: int) -> Any:
        met.append([])
        for batch, mine, inputs in epochs(epoch, batch_size):
            met[-1] += batch.tolist()
            yield batch, mine, inputs

    feed.epoch = noted  # type: ignore[method-assign]
    outcome = train_backbones(
        setup(problem, "full", epochs=2, batch_size=16, zero_stage=2, micro_batch=5, clip=1.0),
        functools.partial(experts.load, "dlinear", pred_len=2, kernel=25),
        feed, Session(), torch.device("cpu"), bf16=False,
    )  # fmt: skip
    if rank == 0:
        results.put((outcome.outputs, met))


def test_streamed_backbones_repeat_exactly_and_other_worker_counts_meet_the_same_batches(
    tmp_path: Path,
) -> None:
    found, context = [], multiprocessing.get_context("spawn")
    for number, world in enumerate((1, 2, 2)):
        results = context.Queue()
        workers = [
            context.Process(target=_worker, args=(r, world, str(tmp_path / str(number)), results))
            for r in range(world)
        ]
        for worker in workers:
            worker.start()
        found.append(results.get(timeout=240))
        for worker in workers:
            worker.join(60)
    one, two, again = found
    for name, outputs in two[0].items():
        np.testing.assert_array_equal(outputs, again[0][name])
        np.testing.assert_allclose(outputs, one[0][name], rtol=1e-3, atol=1e-3)
    assert one[1] == two[1]
    assert all(sorted(epoch) == list(range(60)) for epoch in two[1])
