"""Joined: several experts' features side by side, for one head to read them together."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from enecg import experts, signals
from enecg.errors import UserError, brief
from enecg.experts.contract import Expert, ExpertSpec, check_input

RHYTHM_AND_SHAPE = ["rocket", "beats"]
MOST_PARTS = 32


class Joined(Expert):
    """Several frozen experts, as one: those that need no weights, or have theirs.

    A head that sees all of their features can read what one measures in the light of what another
    sees, which no weighted mean of heads can.

    Parameters
    ----------
    of : list
        The experts: names, or mappings of one name to its options, and perhaps ``weights``, such
        as ``[beats, {rocket: {signal: raw, kernels: 900}}, openecg]``.

    Raises
    ------
    UserError
        Fewer than two experts, an unknown one, or one without the weights that it needs.
    """

    name = "joined"
    version = 1

    def __init__(self, *, of: list[Any] = RHYTHM_AND_SHAPE) -> None:
        if not 2 <= len(of) <= MOST_PARTS:
            raise UserError(
                f"expert joined: of is {brief(of)}; it must be a list of at least two experts, "
                f"{MOST_PARTS} at most"
            )
        parts = [_part(entry) for entry in of]
        specs = [part.spec for part in parts]
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(signals.SAMPLING_RATE_HZ),
            n_samples=signals.N_SAMPLES,
            leads=signals.LEADS,
            units="mV",
            normalisation="by each expert itself: " + ", ".join(each.name for each in specs),
            width=sum(each.width for each in specs),
            parameters=sum(each.parameters for each in specs),
            licence="; ".join(dict.fromkeys(each.licence for each in specs)),
            pretraining_corpora=tuple(
                dict.fromkeys(
                    corpus
                    for part in parts
                    if part.weight_files
                    for corpus in part.spec.pretraining_corpora
                )
            ),
            adaptations=("head", "head_lora"),
            needs_weights=False,
            uses_r_peaks=any(each.uses_r_peaks for each in specs),
        )
        super().__init__(spec, {"of": [{part.name: part.options} for part in parts]})
        self.parts = nn.ModuleList(parts)
        self.weight_files = {
            name: digest for part in parts for name, digest in part.weight_files.items()
        }

    def joins(self) -> list[Expert]:
        """Return the experts, in order."""
        return [cast(Expert, part) for part in self.parts]

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Leave the signals as they are: each expert prepares them for itself."""
        check_input(x_BLT)
        return x_BLT

    def embed(self, prepared: Tensor) -> Tensor:
        """Return all features, expert by expert; float32 of shape (B, D)."""
        return torch.cat([part.features(prepared) for part in self.joins()], dim=1)

    def preparation_fingerprint(self) -> str:
        """As for any expert, the joined ones' versions included."""
        each = [part.preparation_fingerprint() for part in self.joins()]
        return hashlib.sha256(
            "".join([super().preparation_fingerprint(), *each]).encode()
        ).hexdigest()

    def load_weights(self, path: object) -> None:
        """Refuse: there are no weights to load."""
        raise UserError(f"expert joined takes no weights, nor do the experts it joins: {path}")


def _part(entry: Any) -> Expert:
    """Build one of the experts."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not (isinstance(entry, dict) and len(entry) == 1):
        raise UserError(
            f"expert joined: of: {brief(entry)} is neither an expert's name nor a mapping of one "
            "name to its options"
        )
    [(name, options)] = entry.items()
    if name == Joined.name:
        raise UserError("expert joined: of: it cannot join itself")
    if not isinstance(options or {}, dict):
        raise UserError(
            f"expert joined: of: {brief(name)}: {brief(options)} is no mapping of its options"
        )
    if not isinstance(name, str):
        raise UserError(f"expert joined: of: {brief(name)} is no expert's name")
    given = {str(key): value for key, value in (options or {}).items()}
    weights = given.pop("weights", None)
    if not (weights is None or isinstance(weights, str)):
        raise UserError(
            f"expert joined: of: {brief(name)}: weights is {brief(weights)}; it must be a path"
        )
    part = experts.load(name, weights, **given)
    if part.spec.needs_weights and not part.weight_files and weights != experts.RANDOM:
        raise UserError(f"expert joined: of: {name} needs weights: {{{name}: {{weights: FILE}}}}")
    return part
