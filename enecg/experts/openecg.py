"""OpenECG's wave detector: a small transformer, trained to find P, QRS and T, frozen."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from enecg import signals
from enecg.errors import UserError
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.openecg_file import read_detector
from enecg.experts.preparation import centred, resample_fourier
from enecg.experts.weights import assign

RATE_HZ, N_SAMPLES = 250, 2500
PATCH, N_FRAMES, WIDTH = 5, 500, 128
N_CONVS, KERNEL = 4, 7
N_LAYERS, N_HEADS, HIDDEN = 4, 4, 256
N_CLASSES, N_OFFSETS = 4, 6
LEADS = ("I", "II", "V1", "V5")
_PLACES = tuple(signals.LEADS.index(lead) for lead in LEADS)
_PACKAGE, _FILE = "openecg", "models/boundary_int8.tflite"


class OpenECG(Expert):
    """Frames of the boundary detector of the package openecg (0.99 M parameters, Apache-2.0).

    https://pypi.org/project/openecg/, version 0.11: one lead at 250 Hz in frames of 20 ms; four
    convolutions and four transformer layers; trained on LUDB, QTDB, ISP and synthetic ECGs to tell
    P, QRS and T from the rest. Its weights are read from the package's TFLite file (int8, made
    float32 again), which runs nowhere here. Features: mean and standard deviation over time of the
    last layer, for leads I, II, V1 and V5.

    Since it finds QRS complexes, it has no output for tasks whose labels come from R-peaks.

    The package's ``codec_v*`` files are other networks, trained on PTB-XL's rhythm labels; they are
    refused.

    Parameters
    ----------
    seed : int
        Seed of the parameters where they are random (``weights: random``).
    """

    name = "openecg"
    version = 1
    published: ClassVar = {
        "boundary_int8.tflite": "2e130ed795491764ffa4f7eff5decc06a4531ac69e1cab51bfbffa714bc0b3fb"
    }

    def __init__(self, *, seed: int = 0) -> None:
        with drawing_from(seed):
            network = Detector()
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(RATE_HZ),
            n_samples=N_SAMPLES,
            leads=LEADS,
            units="rank within the lead, −1 to 1",
            normalisation="each lead's samples replaced by their ranks, scaled to −1 … 1",
            width=2 * WIDTH * len(LEADS),
            parameters=sum(p.numel() for p in network.parameters()),
            licence="Apache-2.0 (openecg)",
            pretraining_corpora=("ludb", "qtdb", "isp"),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=True,
            lora_targets=("qkv", "out"),
        )
        super().__init__(spec, {"seed": seed})
        self.network = network

    @classmethod
    def packaged(cls) -> Path:
        """Return where the package keeps the detector; nothing of the package is imported.

        Raises
        ------
        ImportError
            The package is not installed.
        """
        found = importlib.util.find_spec(_PACKAGE)
        path = Path(found.origin).parent / _FILE if found and found.origin else None
        if path is None or not path.is_file():
            raise ImportError(
                "expert openecg needs the weights in the package openecg: "
                "pip install --no-deps openecg==0.11.0; or set `weights: random`"
            )
        return path

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build the expert with the weights of the package's TFLite file, see `Expert`."""
        expert = cls(**options)
        expert.load_weights(path)
        return expert

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of the detector's TFLite file.

        Raises
        ------
        UserError
            Another file, or a damaged one.
        """
        if Path(path).name.startswith("codec_"):
            raise UserError(
                f"weights {path}: openecg's codec files are trained on PTB-XL's rhythm labels; "
                "the expert openecg reads boundary_int8.tflite"
            )
        assign(self.network, read_detector(Path(path)), path)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Resample leads I, II, V1 and V5 to 250 Hz and replace samples by their ranks.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 4, 2500)
            −1 to 1; 0 throughout where a lead is flat or missing.
        """
        check_input(x_BLT)
        wide_BLT = centred(x_BLT[:, list(_PLACES)].double())
        return ranked(resample_fourier(wide_BLT, N_SAMPLES).float())

    def embed(self, prepared: Tensor) -> Tensor:
        """Return the last layer's mean and deviation over time, float32 of shape (B, 1024)."""
        h_BLSD = self.network(prepared.flatten(0, 1)).float().unflatten(0, prepared.shape[:2])
        return torch.cat([h_BLSD.mean(2), h_BLSD.std(2, correction=0)], dim=-1).flatten(1)


def ranked(x_BLT: Tensor) -> Tensor:
    """Replace each lead's samples by their ranks, scaled to −1 … 1; equal ones share their mean.

    Parameters
    ----------
    x_BLT : float32 tensor, shape (B, L, T)
        Finite samples of any unit.
    """
    sorted_BLT = x_BLT.sort(dim=-1).values.contiguous()
    x_BLT = x_BLT.contiguous()
    below_BLT = torch.searchsorted(sorted_BLT, x_BLT)
    up_to_BLT = torch.searchsorted(sorted_BLT, x_BLT, right=True)
    rank_BLT = 0.5 * (below_BLT + up_to_BLT - 1).double()
    return (rank_BLT * (2 / (x_BLT.shape[-1] - 1)) - 1).float()


class Detector(nn.Module):
    """The package's frame classifier without its two outputs' use: frames in, last layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(PATCH, WIDTH, bias=False)
        self.position = nn.Parameter(torch.zeros(N_FRAMES, WIDTH))
        self.convs = nn.ModuleList(
            nn.Conv1d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2) for _ in range(N_CONVS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(N_CONVS))
        self.layers = nn.ModuleList(Layer() for _ in range(N_LAYERS))

    def forward(self, x_BT: Tensor) -> Tensor:
        """Return the last layer of every frame, shape (B, 500, 128), from (B, 2500) ranks."""
        h_BSD = self.patch(x_BT.unflatten(1, (N_FRAMES, PATCH))) + self.position
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h_BSD = norm(nn.functional.gelu(conv(h_BSD.transpose(1, 2))).transpose(1, 2) + h_BSD)
        for layer in self.layers:
            h_BSD = layer(h_BSD)
        return h_BSD


class Layer(nn.Module):
    """A transformer layer, normalised before each half; scale and shift lie in what follows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.widen = nn.Linear(WIDTH, HIDDEN)
        self.narrow = nn.Linear(HIDDEN, WIDTH)

    def forward(self, h_BSD: Tensor) -> Tensor:
        """Return what comes after the layer, of the same shape."""
        q_BHSD, k_BHSD, v_BHSD = (
            part_BSD.unflatten(2, (N_HEADS, -1)).transpose(1, 2)
            for part_BSD in self.qkv(_normalised(h_BSD)).chunk(3, dim=-1)
        )
        seen_BHSD = nn.functional.scaled_dot_product_attention(q_BHSD, k_BHSD, v_BHSD)
        h_BSD = h_BSD + self.out(seen_BHSD.transpose(1, 2).flatten(2))
        return h_BSD + self.narrow(nn.functional.gelu(self.widen(_normalised(h_BSD))))


def _normalised(h_BSD: Tensor) -> Tensor:
    return nn.functional.layer_norm(h_BSD, (WIDTH,), eps=1e-5)
