"""The forms in which search spaces are written, and drawing one value from one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

FORMS = "{choose: […]}, {uniform: [low, high]}, {log_uniform: [low, high]}"


def draw(form: Any, random: np.random.Generator) -> Any:
    """Draw a value; what is not a mapping stands for itself.

    Raises
    ------
    ValueError, TypeError, OverflowError
        It has none of the `FORMS`.
    """
    if not isinstance(form, dict):
        form = {"choose": [form]}
    if set(form) == {"choose"}:
        return form["choose"][int(random.integers(len(form["choose"])))]
    if set(form) == {"uniform"}:
        low, high = map(float, form["uniform"])
        return float(random.uniform(low, high))
    if set(form) == {"log_uniform"}:
        low, high = (math.log(float(end)) for end in form["log_uniform"])
        return float(math.exp(random.uniform(low, high)))
    raise ValueError(f"{form!r} is none of {FORMS}")
