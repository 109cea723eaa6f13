"""What an expert is: a backbone that turns 12-lead ECGs into one feature vector per record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights

ADAPTATIONS = ("head", "head_lora", "lora", "full")
"""How an expert can be fitted to a task: FFN head; LoRA on that head; LoRA inside; everything."""

MOST_NUMBERS = 1_500_000_000
"""Parameters and buffers of one expert, 6 GB in float32; published ones have up to 385 million."""


@dataclass(frozen=True)
class ExpertSpec:
    """What a user, a results table and the trainer must know about an expert.

    Attributes
    ----------
    name : str
        The name it is loaded by.
    sampling_rate_hz : float
        Rate of the signal the backbone sees.
    n_samples : int
        Length of the signal the backbone sees, in samples at that rate.
    leads : tuple of str
        The leads the backbone sees, in its own order.
    units : str
        Unit of the signal the backbone sees.
    normalisation : str
        What `Expert.prepare` does to the signal, in one sentence.
    width : int
        D, the length of a feature vector.
    parameters : int
        Number of learnable parameters (0 where nothing is learned).
    licence : str
        Licence of the weights, or of the method where there are none.
    pretraining_corpora : tuple of str
        Corpora whose records shaped the weights, by the names in `enecg.experts.corpora`; an
        evaluation on one of them is flagged.
    adaptations : tuple of str
        Those of `ADAPTATIONS` that can be used.
    needs_weights : bool
        Whether frozen use (any adaptation but ``full``) makes sense only with pretrained weights.
    uses_r_peaks : bool
        Whether R-peak detection enters the features: the expert then has no output for tasks whose
        labels come from it.
    lora_targets : tuple of str
        The linear layers that LoRA adapts, as endings of module names: PEFT's ``target_modules``.
        Empty where the adaptation ``lora`` cannot be used.
    """

    name: str
    sampling_rate_hz: float
    n_samples: int
    leads: tuple[str, ...]
    units: str
    normalisation: str
    width: int
    parameters: int
    licence: str
    pretraining_corpora: tuple[str, ...]
    adaptations: tuple[str, ...]
    needs_weights: bool
    uses_r_peaks: bool
    lora_targets: tuple[str, ...] = ()


class Expert(nn.Module):
    """Base class of every expert.

    A subclass sits in its own file of this folder, sets `name` and `version`, takes its options
    as keyword arguments of ``__init__``, and defines `prepare` and `embed`. It imports optional
    packages inside ``__init__`` only, so that listing the experts works without them; a missing
    one raises ImportError saying what to install.

    Parameters
    ----------
    spec : ExpertSpec
        What the expert is.
    options : mapping
        Every option in force, JSON values: part of the fingerprint. ``load(name, **options)``
        builds a module with the same tensor names and shapes, also where sizes came from a
        weights file.

    Notes
    -----
    A record's features must not depend on the other records of its batch.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised by one whenever `prepare` or `embed` gives other numbers for the same weights."""
    published: ClassVar[Mapping[str, str | None]] = {}
    """Names of the files or folders of weights that the authors publish, and the SHA-256 of each
    (None where it is not known here)."""
    prepares_on: Literal["device", "cpu"] = "device"
    """Where `prepare` belongs: ``device``, in batch beside the backbone; ``cpu``, in many CPU
    workers, since it is not tensor work. `prepare` then uses no tensor of the module, so that a
    worker can build it under ``torch.device("meta")``, without its parameters."""
    scaled: ClassVar[slice | None] = None
    """Columns of prepared inputs, then of shape (B, D), that the backbone takes in deviations from
    a mean: those of the records that it learns from, where it is trained from scratch (`scale`)."""

    spec: ExpertSpec
    options: dict[str, Any]
    weight_files: dict[str, str]
    """Name and SHA-256 of each file that the parameters were read from; empty where they are
    random. Kept wherever features or results go, to be compared with what was published."""

    def __init__(self, spec: ExpertSpec, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.options = dict(options)
        self.weight_files = {}

    @classmethod
    def packaged(cls) -> Path | None:
        """Return the weights that come with an installed package; None where there are none.

        Raises
        ------
        ImportError
            There are such weights, but their package is not installed.
        """
        return None

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build an expert from its authors' weights; overridden where their file gives sizes.

        Parameters
        ----------
        path : Path
            A file, or the folder of a Hugging Face model.
        **options
            As for ``__init__``; an option that is given wins over what the file says.

        Raises
        ------
        UserError
            If it cannot be read, or its tensors are not exactly those of the module.
        """
        expert = cls(**options)
        expert.load_weights(path)
        return expert

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Turn stored signals into the backbone's input, in batch, on their device.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, leads in the order of `enecg.signals.LEADS`, NaN where missing.

        Returns
        -------
        tensor
            The input of `embed`; its first axis is B.
        """
        raise NotImplementedError

    def embed(self, prepared: Tensor) -> Tensor:
        """Turn prepared signals into features.

        Parameters
        ----------
        prepared : tensor
            What `prepare` returned.

        Returns
        -------
        float32 tensor, shape (B, D)
            Finite features, D being ``spec.width``.
        """
        raise NotImplementedError

    def scale(self, mean_M: Tensor, std_M: Tensor) -> None:
        """Take over mean and deviation of the `scaled` columns, where there are any.

        Parameters
        ----------
        mean_M, std_M : float32 tensors, shape (M,)
            In the columns' own units; a column that does not vary has a deviation of 1.
        """
        raise NotImplementedError

    def features(self, x_BLT: Tensor) -> Tensor:
        """Return ``embed(prepare(x_BLT))``, float32 of shape (B, D)."""
        return self.embed(self.prepare(x_BLT))

    def forward(self, prepared: Tensor) -> Tensor:
        """Return ``embed(prepared)``: what data-parallel and DeepSpeed wrappers call."""
        return self.embed(prepared)

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of a file, without executing pickled code.

        Parameters
        ----------
        path : str or Path
            A safetensors file or a PyTorch checkpoint that is a state dict.

        Raises
        ------
        UserError
            If the file cannot be read, or its tensors are not exactly those of the module.
        """
        weights.assign(self, weights.tensors_of(weights.read(path), path), path)

    def provenance(self) -> dict[str, Any]:
        """Say which expert this is, as JSON values: kept beside its features and results.

        ``pretraining_corpora`` is empty where the parameters are random.
        """
        corpora = self.spec.pretraining_corpora if self.weight_files else ()
        return {
            "name": self.name,
            "version": self.version,
            "options": self.options,
            "weight_files": self.weight_files,
            "pretraining_corpora": list(corpora),
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return the SHA-256 that names this expert's features.

        Features stored under it can be reused exactly when they would come out the same.
        """
        both = self.preparation_fingerprint() + self.weights_fingerprint()
        return hashlib.sha256(both.encode()).hexdigest()

    def preparation_fingerprint(self) -> str:
        """Return the SHA-256 of what happens to a signal: name, version and options."""
        head = {"name": self.name, "version": self.version, "options": self.options}
        text = json.dumps(head, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def weights_fingerprint(self) -> str:
        """Return the SHA-256 of every byte of parameters and buffers."""
        digest = hashlib.sha256()
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        for key in sorted(tensors):
            tensor = tensors[key].detach().cpu().contiguous()
            digest.update(f"|{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Let modules built inside draw their weights from a seed, and leave torch's own as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_input(x_BLT: Tensor) -> None:
    """Raise ValueError unless ``x_BLT`` has the shape of stored signals, (B, 12, 5000)."""
    wanted = (len(signals.LEADS), signals.N_SAMPLES)
    if x_BLT.ndim != 3 or tuple(x_BLT.shape[1:]) != wanted:
        shape = tuple(x_BLT.shape)
        raise ValueError(f"signals must have the shape (B, {wanted[0]}, {wanted[1]}), not {shape}")


def check_adaptation(spec: ExpertSpec, adaptation: str, has_weights: bool) -> None:
    """Raise UserError unless an expert can be fitted this way with what it was given.

    Parameters
    ----------
    spec : ExpertSpec
        The expert.
    adaptation : str
        One of `ADAPTATIONS`.
    has_weights : bool
        Whether pretrained weights were given.
    """
    if adaptation not in spec.adaptations:
        allowed = ", ".join(spec.adaptations)
        raise UserError(f"expert {spec.name}: adaptation {adaptation!r} is not one of: {allowed}")
    if spec.needs_weights and not has_weights and adaptation != "full":
        raise UserError(
            f"expert {spec.name}: adaptation {adaptation!r} needs pretrained weights; "
            "set `weights`, or use `adaptation: full` to train from scratch"
        )
