"""Several units' models as one DeepSpeed engine: forward, optimiser, state on disk."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from enecg.config import Stage1Settings
from enecg.stage1.lora import trained
from enecg.stage1.units import Unit, UnitModel

ADAM_BYTES = 16
"""Per trained parameter: value, gradient and two moments, in float32."""


@dataclass
class Chance:
    """What is random in one forward pass of one unit: its dropout, and a seed for its backbone."""

    keep: dict[str, list[Tensor]]
    seed: int


class Bank(nn.Module):
    """Copies of several units' models behind one ``forward``, as DeepSpeed wants it.

    Copies, since ZeRO 3 takes the parameters of what it trains apart.
    """

    def __init__(self, units: list[Unit]) -> None:
        super().__init__()
        self.models = nn.ModuleList(copy.deepcopy(unit.model) for unit in units)

    def of_units(self) -> list[UnitModel]:
        """Return the models, one per unit."""
        return [cast(UnitModel, model) for model in self.models]

    def forward(
        self,
        inputs: Tensor,
        selected: list[Tensor],
        chances: list[Chance] | None = None,
        units: slice = slice(None),
    ) -> list[dict[str, Tensor]]:
        """Return outputs of each model, or of some ``units``, for its own selection of records."""
        outputs = []
        for number, (model, rows) in enumerate(zip(self.of_units()[units], selected, strict=True)):
            chance = chances[number] if chances is not None else None
            if chance is not None and model.backbone is not None:
                torch.manual_seed(chance.seed)
            x = inputs[rows]
            if model.backbone is not None and len(rows) == 0:
                # ZeRO 3 wants the same modules to run on every worker, and not every backbone
                # takes an empty batch: a stand-in, of which nothing is used.
                stand_in = inputs.new_zeros((1, *inputs.shape[1:]))
                outputs.append({name: out[:0] for name, out in model(stand_in).items()})
            else:
                outputs.append(model(x, chance.keep if chance is not None else None))
        return outputs


class UnitAdamW(torch.optim.AdamW):
    """AdamW in which every parameter group, one per unit, is clipped by its own gradient's norm.

    Parameters
    ----------
    groups : list of dict
    clip : float or None
        Largest norm.
    sharded : bool
        Whether each worker holds a part of every gradient (ZeRO 1 to 3).
    """

    def __init__(self, groups: list[dict[str, Any]], clip: float | None, sharded: bool) -> None:
        super().__init__(groups, fused=True)  # one pass over each tensor instead of a dozen
        self.clip, self.sharded = clip, sharded

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Clip, and take a step."""
        clip = self.clip
        for group in self.param_groups if clip is not None else []:
            grads = [p.grad for p in group["params"] if p.grad is not None]
            if not group["params"]:
                continue
            square = torch.zeros((), device=group["params"][0].device)
            for grad in grads:
                square += grad.float().square().sum()
            if self.sharded and dist.get_world_size() > 1:
                dist.all_reduce(square)
            scale = (cast(float, clip) / (square.sqrt() + 1e-6)).clamp(max=1.0)
            for grad in grads:
                grad.mul_(scale)
        return super().step(closure)


def deepspeed_engine(
    bank: Bank, units: list[Unit], settings: Stage1Settings, device: torch.device, bf16: bool
) -> Any:
    """Put a bank under DeepSpeed, as the settings say (ZeRO stage, precision, clipping)."""
    import deepspeed

    # Else `initialize` compiles a shared-memory extension that plain gloo makes unnecessary.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    bank = bank.to(device)
    groups = [
        {
            "params": list(trained(model).values()),
            "lr": unit.choice.learning_rate,
            "weight_decay": unit.choice.weight_decay,
        }
        for unit, model in zip(units, bank.of_units(), strict=True)
    ]
    engine, *_ = deepspeed.initialize(
        model=bank,
        optimizer=UnitAdamW(groups, settings.clip, sharded=settings.zero_stage > 0),
        config={
            "train_micro_batch_size_per_gpu": max(1, settings.batch_size // dist.get_world_size()),
            "zero_optimization": {
                "stage": settings.zero_stage,
                "stage3_gather_16bit_weights_on_model_save": True,
            },
            "zero_allow_untested_optimizer": True,
            # Master weights stay float32: bf16 would round the targets' scale in the heads.
            "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
            "gradient_clipping": 0.0,
            "steps_per_print": 10**9,
        },
    )
    if settings.zero_stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # else all gradients are copied twice, for nobody
    return engine


def learning_rate_at(progress: float, peak: float) -> float:
    """Cosine decay to zero after a warm-up over the first twentieth; ``progress`` in [0, 1]."""
    warm_up = 0.05
    if progress < warm_up:
        return peak * max(progress, 1e-3) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def checkpoint_blocks(backbone: nn.Module) -> None:
    """Let a backbone compute the insides of its blocks again in the backward pass.

    The blocks are the members of its list of modules with the most parameters; a backbone
    without such a list is one block.
    """

    def size(module: Any) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    lists = [m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    blocks: list[Any] = list(max(lists, key=size)) if lists else [backbone]
    for block in blocks:
        name = "forward" if lists else "embed"
        setattr(block, name, partial(checkpoint, getattr(block, name), use_reentrant=False))


def trained_state(model: nn.Module, zero_stage: int) -> dict[str, Tensor]:
    """A copy of the tensors that learn, in float32 on the CPU; ZeRO 3 has spread them."""
    import deepspeed

    parameters = trained(model)
    with deepspeed.zero.GatheredParameters(list(parameters.values()), enabled=zero_stage == 3):
        return {name: value.detach().float().cpu().clone() for name, value in parameters.items()}


def save_state(folder: Path, units: list[Unit], engine: Any, epoch: int) -> None:
    """Write this worker's part of the training state: of the parameters, those that learn."""
    engine.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=True)
    if dist.get_rank() == 0:
        state = {
            "epoch": epoch,
            "units": {
                unit.key: {
                    "best_loss": unit.best_loss,
                    "best_epoch": unit.best_epoch,
                    "best_state": unit.best_state,
                    "finished": unit.finished,
                }
                for unit in units
            },
        }
        torch.save(state, folder / "units.pt")


def load_state(folder: Path, units: list[Unit], engine: Any) -> int:
    """Take up a saved training state; return the epochs it has done, 0 if it is of other units."""
    state = torch.load(folder / "units.pt", weights_only=True)
    if list(state["units"]) != [unit.key for unit in units]:
        return 0
    engine.load_checkpoint(str(folder), tag="state", load_module_strict=False)
    for unit in units:
        for name, value in state["units"][unit.key].items():
            setattr(unit, name, value)
    return int(state["epoch"])
