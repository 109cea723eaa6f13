"""LoRA, by PEFT: low-rank changes of some linear layers, the layers themselves frozen.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def add_lora(module: nn.Module, targets: Sequence[str], rank: int) -> None:
    """Put LoRA on a module's linear layers, in place; nothing but LoRA's tensors then learns.

    Parameters
    ----------
    module : nn.Module
    targets : sequence of str
        Names of the layers, or endings of their names.
    rank : int
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), bias="none")
    inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad = "lora_" in name


def merge_lora(module: nn.Module) -> None:
    """Add what LoRA has learned to the layers themselves, in place, and take LoRA away."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            base = layer.get_base_layer()
            base.requires_grad_(True)
            module.get_submodule(parent).add_module(child, base)


def trained(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module that learn, by name: all that a checkpoint needs."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


@torch.no_grad()
def restore(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Set the parameters that learn; exactly they must be in ``state``."""
    parameters = trained(module)
    if parameters.keys() != state.keys():
        strange = sorted(parameters.keys() ^ state.keys())
        raise ValueError(f"not the tensors that this model trains: {', '.join(strange[:5])}")
    for name, value in state.items():
        parameters[name].copy_(value)
