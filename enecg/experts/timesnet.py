"""TimesNet: every lead folded by its strongest periods into planes, read by 2-D convolutions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.pooling import POOLS, check_choice, check_range, pooled
from enecg.experts.preparation import centred, resample_fourier

SEQ_LEN = 500
"""Samples seen: ten seconds at 50 Hz."""
PRED_LEN = 1
D_MODEL = 16
D_FF = 32
NUM_KERNELS = 6
"""Kernels of an inception block: squares of side 1, 3, … 11."""
TOP_K = 3
"""Periods that a series is folded by."""
MAX_LEN = 5000
"""Positions in the published table of position embeddings."""
VARIANCE_FLOOR = 1e-5
UNUSED = "enc_embedding.temporal_embedding.embed.weight"
"""In the published file: reads time stamps, which an ECG does not have."""


class TimesNet(Expert):
    """Forecast of every lead from its last ten seconds, by the periods it shows.

    Wu et al., "TimesNet: Temporal 2D-Variation Modeling for General Time Series Analysis", ICLR
    2023; sizes and checkpoint as in EnECG. The model is univariate: every lead is a series of its
    own. Each block picks the series' three strongest periods and folds the series by each into a
    plane (cycle × phase) for 2-D convolutions.

    Two departures from EnECG's copy. The spectrum stays float32 (there it is cast to half
    precision, which also drops the imaginary part). And periods are picked for every series by
    itself, as running it alone does (there they come from a mean over the batch, so that a
    forecast depends on the batch it is made in).

    Parameters
    ----------
    pool : {"forecast", "mean", "max", "mean_std"}
        What the features are: ``forecast`` each lead's next sample in mV, which is what EnECG
        feeds its heads (12 features); else each lead's last states, pooled over time (192 or 384).
    layers : int
        Number of blocks; 3 in the published checkpoint.
    seed : int
        Seed of the initial weights.

    Notes
    -----
    Everything runs in float32, under autocast too: which periods are picked is a discrete choice
    that rounding would turn over.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "timesnet"
    version = 1
    published: ClassVar = {"TimesNet/checkpoint.pth": None}

    def __init__(self, *, pool: str = "forecast", layers: int = 3, seed: int = 0) -> None:
        check_choice(self.name, "pool", pool, (*POOLS, "forecast"))
        if layers < 1:
            raise UserError(f"expert timesnet: layers is {layers}; it must be at least 1")
        check_range(self.name, "layers", layers, 1, 100)
        with drawing_from(seed):
            network = _Network(layers)
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=SEQ_LEN / signals.DURATION_S,
            n_samples=SEQ_LEN,
            leads=signals.LEADS,
            units="mV",
            normalisation="each lead's mean subtracted, amplitude kept, missing samples 0 (the "
            "network divides every lead by its deviation and multiplies its forecast by it)",
            width=len(signals.LEADS) * (PRED_LEN if pool == "forecast" else D_MODEL * POOLS[pool]),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="MIT (thuml/Time-Series-Library, EnECG checkpoint)",
            # EnECG does not name the ECGs it trained on; those of its paper are MIMIC-IV-ECG.
            pretraining_corpora=("mimic-iv-ecg",),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("predict_linear",),
        )
        super().__init__(spec, {"pool": pool, "layers": layers, "seed": seed})
        self.network = network
        if pool != "forecast":
            network.projection.requires_grad_(False)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Centre every lead and resample it to 50 Hz.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 500, 12)
            Millivolts at 50 Hz, time before lead as in the published model.
        """
        check_input(x_BLT)
        return resample_fourier(centred(x_BLT.float()), SEQ_LEN).transpose(1, 2)

    def embed(self, prepared: Tensor) -> Tensor:
        """Return what ``pool`` says, lead after lead: float32 of shape (B, D)."""
        if self.options["pool"] == "forecast":
            return self.forecast(prepared).transpose(1, 2).flatten(1)
        with torch.autocast(prepared.device.type, enabled=False):
            x_NT, _, _ = _normalised(_series(prepared))
            h_NTD = self.network.states(x_NT, shared_periods=False)
            return pooled(h_NTD, self.options["pool"]).unflatten(0, (len(prepared), -1)).flatten(1)

    def forecast(self, x_BTL: Tensor, periods: str = "series") -> Tensor:
        """Forecast the sample that follows.

        Parameters
        ----------
        x_BTL : float32 tensor, shape (B, 500, L)
            Any number of leads; each is a series of its own.
        periods : {"series", "batch"}
            ``series``: each series' periods are its own. ``batch``: all share the periods of their
            mean spectrum, as in the published code; for comparison only.

        Returns
        -------
        float32 tensor, shape (B, 1, L)
            In the unit of the input.
        """
        if periods not in ("series", "batch"):
            raise ValueError(f"periods is {periods!r}; it must be 'series' or 'batch'")
        with torch.autocast(x_BTL.device.type, enabled=False):
            x_NT, mean_N1, deviation_N1 = _normalised(_series(x_BTL))
            h_NTD = self.network.states(x_NT, shared_periods=periods == "batch")
            y_NP = self.network.projection(h_NTD[:, -PRED_LEN:])[..., 0] * deviation_N1 + mean_N1
            return y_NP.reshape(len(x_BTL), -1, PRED_LEN).transpose(1, 2)

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of EnECG's ``checkpoint.pth``, see `Expert`."""
        tensors = weights.tensors_of(weights.read(path), path)
        tensors.pop(UNUSED, None)
        weights.assign(self.network, tensors, path)


def _series(x_BTL: Tensor) -> Tensor:
    """Return every lead as a series of its own, (B * L, T)."""
    return x_BTL.float().transpose(1, 2).flatten(0, 1)


def _normalised(x_NT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return series of zero mean and unit variance, and their means and deviations, (N, 1)."""
    mean_N1 = x_NT.mean(dim=1, keepdim=True)
    variance_N1 = x_NT.var(dim=1, keepdim=True, unbiased=False)
    deviation_N1 = (variance_N1 + VARIANCE_FLOOR).sqrt()
    return (x_NT - mean_N1) / deviation_N1, mean_N1, deviation_N1


class _Network(nn.Module):
    """The layers, under the names of the published state dict."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.enc_embedding = _Embedding()
        self.predict_linear = nn.Linear(SEQ_LEN, SEQ_LEN + PRED_LEN)
        self.model = nn.ModuleList(_TimesBlock() for _ in range(layers))
        self.layer_norm = nn.LayerNorm(D_MODEL)
        self.projection = nn.Linear(D_MODEL, 1)

    def states(self, x_NT: Tensor, *, shared_periods: bool) -> Tensor:
        """Return the last block's states, (N, 501, 16)."""
        h_NTD = self.predict_linear(self.enc_embedding(x_NT).transpose(1, 2)).transpose(1, 2)
        for block in self.model:
            h_NTD = self.layer_norm(block(h_NTD, shared_periods))
        return h_NTD


class _Embedding(nn.Module):
    """A circular convolution over three samples, plus sinusoidal positions."""

    def __init__(self) -> None:
        super().__init__()
        convolution = nn.Conv1d(1, D_MODEL, 3, padding=1, padding_mode="circular", bias=False)
        self.value_embedding = nn.ModuleDict({"tokenConv": convolution})
        self.position_embedding = nn.Module()
        self.position_embedding.register_buffer("pe", _sinusoids()[None])

    def forward(self, x_NT: Tensor) -> Tensor:
        """Embed series: (N, T) → (N, T, 16)."""
        h_NDT = self.value_embedding["tokenConv"](x_NT[:, None])
        return h_NDT.transpose(1, 2) + cast(Tensor, self.position_embedding.pe)[:, : x_NT.shape[1]]


def _sinusoids() -> Tensor:
    """Return the position embeddings of Vaswani et al. (2017), (5000, 16)."""
    place_T1 = torch.arange(MAX_LEN)[:, None].float()
    rate_D = torch.exp(torch.arange(0, D_MODEL, 2).float() * -(math.log(10000.0) / D_MODEL))
    return torch.stack([(place_T1 * rate_D).sin(), (place_T1 * rate_D).cos()], dim=-1).flatten(1)


class _TimesBlock(nn.Module):
    """Fold by each of the strongest periods, convolve, unfold, mix by the periods' strengths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(_Inception(D_MODEL, D_FF), nn.GELU(), _Inception(D_FF, D_MODEL))

    def forward(self, h_NTD: Tensor, shared_periods: bool) -> Tensor:
        """Return states of the same shape (N, T, D); only shared periods couple the series."""
        period_NK, weight_NK = strongest_periods(h_NTD, shared=shared_periods)
        share_NK = weight_NK.softmax(dim=1)
        mixed_NTD = h_NTD
        # Series with a period in common go through the convolutions together.
        for period in period_NK.unique().tolist():
            share_N = (share_NK * (period_NK == period)).sum(dim=1)
            members = (period_NK == period).any(dim=1).nonzero()[:, 0]
            part_MTD = share_N[members, None, None] * self._by(period, h_NTD[members])
            mixed_NTD = mixed_NTD.index_add(0, members, part_MTD)
        return mixed_NTD

    def _by(self, period: int, h_NTD: Tensor) -> Tensor:
        """Convolve series folded into planes (cycle × phase) of one period; shape unchanged."""
        n, length, width = h_NTD.shape
        padded_NTD = functional.pad(h_NTD, (0, 0, 0, -length % period))
        plane_NDCP = padded_NTD.reshape(n, -1, period, width).permute(0, 3, 1, 2)
        return self.conv(plane_NDCP).permute(0, 2, 3, 1).reshape(n, -1, width)[:, :length]


def strongest_periods(h_NTD: Tensor, *, shared: bool) -> tuple[Tensor, Tensor]:
    """Return the periods of the three strongest lines of the spectrum, and their strengths.

    Parameters
    ----------
    h_NTD : float32 tensor, shape (N, T, D)
        States of N series.
    shared : bool
        Whether the mean spectrum of all N decides for all of them.

    Returns
    -------
    int64 tensor, shape (N, 3)
        Periods in samples, strongest first.
    float32 tensor, shape (N, 3)
        Each series' own amplitude there, a mean over D.
    """
    amplitude_NF = torch.fft.rfft(h_NTD, dim=1).abs().mean(dim=-1)
    decisive_NF = amplitude_NF.detach()[:, 1:]  # the mean of a series is not a period
    if shared:
        decisive_NF = decisive_NF.mean(dim=0, keepdim=True).expand_as(decisive_NF)
    line_NK = decisive_NF.topk(TOP_K, dim=1).indices + 1
    return h_NTD.shape[1] // line_NK, amplitude_NF.gather(1, line_NK)


class _Inception(nn.Module):
    """The mean of square convolutions of side 1, 3, … 11."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Conv2d(n_in, n_out, 2 * i + 1, padding=i) for i in range(NUM_KERNELS)
        )
        for kernel in self._convolutions():
            nn.init.kaiming_normal_(kernel.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, kernel.bias))

    def forward(self, x_NDCP: Tensor) -> Tensor:
        """Convolve planes; their size is kept."""
        # A mean of convolutions is the convolution by the mean of their kernels. Taps that reach
        # beyond a low or narrow plane meet zeros only, and are left out.
        reach = NUM_KERNELS - 1
        rows, columns = (min(reach, size - 1) for size in x_NDCP.shape[2:])
        kernel_OIHW = torch.stack(
            [functional.pad(c.weight, (reach - i,) * 4) for i, c in enumerate(self._convolutions())]
        ).mean(dim=0)[:, :, reach - rows : reach + rows + 1, reach - columns : reach + columns + 1]
        bias_O = torch.stack([cast(Tensor, c.bias) for c in self._convolutions()]).mean(dim=0)
        return functional.conv2d(x_NDCP, kernel_OIHW, bias_O, padding=(rows, columns))

    def _convolutions(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, kernel) for kernel in self.kernels]
