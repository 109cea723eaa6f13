"""The experts: one file each in this folder, found by looking.

An expert's file defines one subclass of `Expert` with a ``name``; nothing else registers it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import torch

from enecg.errors import UserError, brief, did_you_mean, one_line
from enecg.experts import weights as weight_files
from enecg.experts.contract import ADAPTATIONS, MOST_NUMBERS, Expert, ExpertSpec, check_adaptation

__all__ = [
    "ADAPTATIONS",
    "RANDOM",
    "Expert",
    "ExpertSpec",
    "check_adaptation",
    "expert_class",
    "load",
    "names",
    "options",
]


RANDOM = "random"
"""Given for weights: random parameters, also where weights come with a package."""


@cache
def _classes() -> dict[str, type[Expert]]:
    """Map the name of every expert in this folder to its class, in alphabetical order."""
    found: dict[str, type[Expert]] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        for value in vars(module).values():
            defined_here = inspect.isclass(value) and value.__module__ == module.__name__
            if defined_here and issubclass(value, Expert) and "name" in vars(value):
                if value.name in found:
                    raise RuntimeError(f"two experts are called {value.name!r}")
                found[value.name] = value
    return dict(sorted(found.items()))


def names() -> tuple[str, ...]:
    """Return the names of all experts, in alphabetical order; no optional package is needed."""
    return tuple(_classes())


def options(name: str) -> dict[str, Any]:
    """Return an expert's options and their defaults.

    Raises
    ------
    UserError
        If there is no such expert.
    """
    parameters = inspect.signature(expert_class(name)).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def load(name: str, weights: str | Path | None = None, **settings: Any) -> Expert:
    """Build an expert in evaluation mode on the CPU.

    Parameters
    ----------
    name : str
        One of `names`.
    weights : str or Path, optional
        File or folder of pretrained weights, as their authors publish it. Without it, the weights
        that come with an installed package, where the expert has such; else parameters are random
        from the ``seed`` option, at published size, as they always are with ``random``.
    **settings
        The expert's options, see `options`.

    Returns
    -------
    Expert
        In evaluation mode.

    Raises
    ------
    UserError
        For an unknown name or option, an option's impossible value, or an unsuitable weight file.
    ImportError
        If the expert needs a package that is not installed; the message says which to install.
    """
    wanted = expert_class(name)
    allowed = options(name)
    for key in settings:
        if key not in allowed:
            listing = ", ".join(allowed) or "none"
            raise UserError(
                f"expert {name}: unknown option {brief(key)}{did_you_mean(key, allowed)} "
                f"(allowed: {listing})"
            )
    for key, value in settings.items():
        _check_type(f"expert {name}: {key}", value, allowed[key])
    if settings:
        _rehearse(name, settings)
    path = wanted.packaged() if weights is None else weights
    if path is None or path == RANDOM:
        return wanted(**settings).eval()
    expert = wanted.pretrained(Path(path), **settings)
    expert.weight_files = weight_files.hashes(path)
    return expert.eval()


def _check_type(option: str, value: Any, default: Any) -> None:
    """Raise UserError unless a value is a number, text or a list where the default is one."""
    for kind, of, called in (
        (list, list, "a list"),
        (int, int, "a whole number"),
        (float, int | float, "a number"),
        (str, str, "text"),
    ):
        if type(default) is kind and (isinstance(value, bool) or not isinstance(value, of)):
            raise UserError(f"{option} is {brief(value)}; it must be {called}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{option} is {value}; it must be a finite number")
    if option.endswith(": seed") and not 0 <= value < 2**32:
        raise UserError(f"{option} is {brief(value)}; it must be from 0 to 2**32 - 1")


def _rehearse(name: str, settings: dict[str, Any]) -> None:
    """Build an expert without memory for its numbers, and count them.

    Raises
    ------
    UserError
        The options do not fit together, or ask for more than `MOST_NUMBERS`.
    """
    try:
        with torch.device("meta"):
            expert = expert_class(name)(**settings)
    except (UserError, ImportError):
        raise
    except NotImplementedError:  # it computes with its numbers; its sizes are checked by itself
        return
    except Exception as error:  # other people's packages raise anything at all
        raise UserError(
            f"expert {name}: cannot be built with these options: {brief(one_line(error), False)}"
        ) from error
    numbers = sum(tensor.numel() for tensor in (*expert.parameters(), *expert.buffers()))
    if numbers > MOST_NUMBERS:
        raise UserError(
            f"expert {name}: these options ask for {numbers:,} parameters; "
            f"at most {MOST_NUMBERS:,} are built"
        )


def expert_class(name: str) -> type[Expert]:
    """Return an expert's class, for what is known before one is built.

    Raises
    ------
    UserError
        If there is no such expert.
    """
    classes = _classes()
    if name not in classes:
        listing = ", ".join(classes)
        raise UserError(
            f"unknown expert {brief(name)}{did_you_mean(name, classes)} (allowed: {listing})"
        )
    return classes[name]
