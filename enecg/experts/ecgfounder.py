"""ECGFounder: a one-dimensional residual network, pretrained on ten million clinical ECGs.

Li et al., "An Electrocardiogram Foundation Model Built on over 10 Million Recordings", NEJM AI
2025 (arXiv 2410.04133). The authors' files (``.pth``) for 12 leads and for lead I are read here;
a small configuration can be trained from scratch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import scipy.signal
import torch
from torch import Tensor

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.ecgfounder_net import Net1d, Net1dSizes
from enecg.experts.filters import running_median, sosfiltfilt
from enecg.experts.pooling import POOLS, check_pool, pooled
from enecg.experts.preparation import z_scored
from enecg.experts.sizes import read_sizes

MEDIAN_WIDTH = 201
"""Samples of the running median that is the baseline: 0.4 s at 500 Hz, made odd."""
_BATCH_NORM = re.compile(r"(^|\.)(first_bn|bn[123])\.")


class EcgFounder(Expert):
    """ECGFounder's residual network; by default its features are the mean over time.

    The published network holds batch normalisation that it never applies: those tensors are
    accepted and left out.

    Parameters
    ----------
    config : path or mapping, optional
        Other sizes than the published ones, under the names of the authors' constructor. Leads
        and classes are as in the weights file, where there is one.
    pool : str
        How the last stage's outputs over time become one vector, see `pooling.POOLS`.
    seed : int
        Seed of random weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "ecgfounder"
    version = 1
    published: ClassVar[Mapping[str, str | None]] = {
        # As another project pins it; never compared with the file itself here.
        "12_lead_ECGFounder.pth": (
            "ee199f3781f4ae1f732973267f003da0a759ea12bddb0dd28a77faa60aca7997"
        ),
        "1_lead_ECGFounder.pth": None,
    }

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        pool: str = "mean",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, Net1dSizes, config)
        check_pool(self.name, pool)
        with drawing_from(seed):
            net = Net1d(sizes)
        if net.dense is not None:  # not part of the features, so nothing could train it
            net.dense.requires_grad_(False)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(signals.SAMPLING_RATE_HZ),
            n_samples=signals.N_SAMPLES,
            leads=signals.LEADS[: sizes.in_channels],
            units="standard deviations of the record",
            normalisation=(
                "missing samples 0; 50 Hz notch, 0.67-40 Hz band-pass, running median of 0.4 s "
                "subtracted; z-score over all leads together"
            ),
            width=sizes.filter_list[-1] * POOLS[pool],
            parameters=sum(p.numel() for p in net.parameters()),
            licence="MIT (PKUDigitalHealth/ECGFounder)",
            pretraining_corpora=("heedb",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("conv1.conv", "conv3.conv", "se_fc1", "se_fc2"),
        )
        super().__init__(
            spec, {"config": sizes.model_dump(mode="json"), "pool": pool, "seed": seed}
        )
        self.net = net

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build the network for the leads and classes of an authors' file."""
        tensors = _used(path)
        sizes = read_sizes(cls.name, Net1dSizes, options.get("config")).model_dump()
        first, dense = tensors.get("first_conv.conv.weight"), tensors.get("dense.weight")
        if first is not None and first.ndim == 3:
            sizes["in_channels"] = first.shape[1]
        sizes["n_classes"] = 0 if dense is None else len(dense)
        expert = cls(**options | {"config": sizes})
        weights.assign(expert.net, tensors, path)
        return expert

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of a file of the same sizes."""
        weights.assign(self.net, _used(path), path)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Filter, remove the baseline and scale, as in the authors' data set classes.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, in_channels, 5000)
        """
        check_input(x_BLT)
        x_BLT = x_BLT[:, : len(self.spec.leads)].double()
        x_BLT = torch.where(torch.isfinite(x_BLT), x_BLT, 0.0)
        for sos in _filters():
            x_BLT = sosfiltfilt(sos, x_BLT)
        x_BLT = x_BLT - running_median(x_BLT, MEDIAN_WIDTH)
        return z_scored(x_BLT, together=True, least=1e-8).float()

    def embed(self, prepared: Tensor) -> Tensor:
        """Pool the last stage's outputs over time; float32 of shape (B, D)."""
        return pooled(self.net.stages(prepared).transpose(1, 2).float(), self.options["pool"])

    def logits(self, x_BLT: Tensor) -> Tensor:
        """Return the logits of the file's classes (150 in the published ones), shape (B, C).

        Parameters
        ----------
        x_BLT : float tensor, shape (B, in_channels, T)
            Prepared signals of any length.

        Raises
        ------
        UserError
            If the weights have no classifier.
        """
        if self.net.dense is None:
            raise UserError("expert ecgfounder: logits need weights with a classifier (dense)")
        logits_BC: Tensor = self.net.dense(self.net.stages(x_BLT).mean(dim=-1))
        return logits_BC


@cache
def _filters() -> tuple[npt.NDArray[np.float64], ...]:
    """Return the notch and the band-pass (a fourth-order Butterworth), as sections."""
    rate = signals.SAMPLING_RATE_HZ
    notch = scipy.signal.tf2sos(*scipy.signal.iirnotch(50, 30, fs=rate))
    band = scipy.signal.butter(4, [0.67, 40], btype="bandpass", fs=rate, output="sos")
    return notch, band


def _used(path: str | Path) -> dict[str, Tensor]:
    """Read a file's tensors but those of batch normalisation."""
    tensors = weights.tensors_of(weights.read(path), path)
    return {key: tensor for key, tensor in tensors.items() if not _BATCH_NORM.search(key)}
