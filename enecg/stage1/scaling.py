"""What a backbone from scratch wants in deviations, it gets in those of what it learns from."""

from __future__ import annotations

import torch

from enecg.stage1.feeding import Feed
from enecg.stage1.units import Unit

FLAT = 1e-6
"""A column varies if its deviation is above this share of its root mean square; others are divided
by 1."""


def scale_inputs(units: list[Unit], feed: Feed) -> None:
    """Tell each unit's backbone mean and deviation of its `Expert.scaled` columns.

    They are those of the records that the unit learns from, from one pass over all of them; a unit
    without such a backbone is left alone.

    Parameters
    ----------
    units : list of Unit
    feed : Feed
    """
    scaled = [(u, u.model.backbone) for u in units if u.model.backbone is not None]
    scaled = [(unit, backbone) for unit, backbone in scaled if backbone.scaled is not None]
    if not scaled:
        return
    columns = scaled[0][1].scaled
    count_U = torch.zeros(len(scaled), 1, dtype=torch.float64)
    sums: list[torch.Tensor] = []  # of the numbers, and of their squares, shape (U, M) each
    for rows, inputs in feed.every():
        x_BM = inputs[:, columns].cpu().double()
        # Picked out, not multiplied by 0: what a unit must not see may not even be infinite for it.
        seen = [x_BM[torch.from_numpy(unit.wanted(rows, "learn"))] for unit, _ in scaled]
        count_U += torch.tensor([[len(x)] for x in seen])
        found = [torch.stack([x.sum(0) for x in seen]), torch.stack([(x * x).sum(0) for x in seen])]
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    mean_UM, square_UM = (total / count_U.clamp_min(1) for total in sums)
    std_UM = (square_UM - mean_UM.square()).clamp_min(0).sqrt()
    varies_UM = std_UM > FLAT * square_UM.sqrt().clamp_min(FLAT)
    std_UM = torch.where(varies_UM, std_UM, 1.0)
    for (_, backbone), mean_M, std_M in zip(scaled, mean_UM, std_UM, strict=True):
        backbone.scale(mean_M.float(), std_M.float())
