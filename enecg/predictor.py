"""Predicting with bundles, in this process: signals in, answers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from enecg import experts
from enecg.bundle import Bundle
from enecg.errors import UserError
from enecg.experts.contract import Expert
from enecg.experts.joined import Joined
from enecg.gate.network import SHOWN, VIEW_SAMPLES, gate_view
from enecg.signals import LEADS
from enecg.stage1.kernel import KernelHead

Floats = npt.NDArray[np.float32]

AT_A_TIME = 32
"""Records that are always computed together. In batches of other sizes the same record comes out
with other last bits; and with a multiple of what a CPU's vector instructions take at once, it does
not matter which row of the batch a record is."""

UNSEEN = np.zeros((AT_A_TIME, len(LEADS), VIEW_SAMPLES), dtype=np.float16)
"""For gates whose weights are constant: they multiply what they see by 0."""


class Answer(NamedTuple):
    """What is answered for one task.

    Attributes
    ----------
    prediction_BC : float32 array, shape (B, C)
        Value or class probabilities; NaN where no expert has an output.
    weights_BE : float32 array, shape (B, E)
        The experts' weights.
    outputs_BEC : float32 array, shape (B, E, C)
        The experts' own answers; NaN of those that were not asked.
    """

    prediction_BC: Floats
    weights_BE: Floats
    outputs_BEC: Floats


class Predictor:
    """Several tasks' bundles, predicting together: a backbone they share runs once per record.

    A record's predictions are the same, bit for bit, whichever others are predicted with it: on
    one machine, with the same number of threads.

    Parameters
    ----------
    bundles : list of Bundle
        All experts that they hold are asked.
    device : torch.device
        Where backbones run.
    """

    def __init__(self, bundles: list[Bundle], device: torch.device) -> None:
        self.bundles = bundles
        self.device = device
        self._backbones: dict[tuple[str, str], Expert] = {}
        """By task and expert: what prepares the signals, and embeds them if it is frozen."""
        self._fingerprints: dict[int, str] = {}
        gates = [gates for bundle in bundles for _, gates in bundle.ensemble.members]
        self._gates_look = any(gate.choice.epochs > 0 for gate in gates)
        loaded: dict[str, Expert] = {}
        for bundle in bundles:
            for name, (settings, adapted) in bundle.experts.items():
                # A trained backbone's weights are in the bundle; where they began is not asked.
                expert = None if settings.builds_on_weights else adapted.models[0].backbone
                if expert is None:
                    key = f"{settings.backbone(name)} {settings.weights} {settings.options}"
                    if key not in loaded:
                        loaded[key] = experts.load(
                            settings.backbone(name), weights=settings.weights, **settings.options
                        )
                    expert = loaded[key]
                fingerprint = self._fingerprint(expert)
                if bundle.fingerprints.get(name, fingerprint) != fingerprint:
                    raise UserError(
                        f"bundle {bundle.task.name}: expert {name} is not the one that the bundle "
                        f"was made with (other weights at {settings.weights}, or another version)"
                    )
                self._backbones[bundle.task.name, name] = expert.to(device)
                for model in adapted.models:
                    model.head.to(device)
                    if model.backbone is not None:
                        model.backbone.to(device)

    def _fingerprint(self, what: Expert | KernelHead) -> str:
        """An expert's or a head's fingerprint, computed once."""
        if id(what) not in self._fingerprints:
            self._fingerprints[id(what)] = what.fingerprint()
        return self._fingerprints[id(what)]

    @torch.no_grad()
    def __call__(self, x_BLT: Floats) -> dict[str, Answer]:
        """Predict every task for some records.

        Parameters
        ----------
        x_BLT : float32 array, shape (B, 12, 5000)
            mV at 500 Hz, NaN where missing.

        Returns
        -------
        dict of str to Answer
            By task.
        """
        batches: list[tuple[int, dict[str, Answer]]] = []
        for start in range(0, len(x_BLT), AT_A_TIME):
            part_BLT = x_BLT[start : start + AT_A_TIME]
            filled_up = np.resize(np.arange(len(part_BLT)), AT_A_TIME)  # by repeats, left out again
            batches.append((len(part_BLT), self._answers(part_BLT[filled_up])))
        return {
            task: Answer(
                *(
                    np.concatenate([answers[task][part][:n] for n, answers in batches])
                    for part in range(3)
                )
            )
            for task in batches[0][1]
        }

    def _answers(self, x_BLT: Floats) -> dict[str, Answer]:
        """Predict every task for `AT_A_TIME` records."""
        signal = torch.from_numpy(x_BLT).to(self.device)
        view_BLT = gate_view(x_BLT) if self._gates_look else UNSEEN
        seen: dict[str, torch.Tensor] = {}

        def once(what: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
            if what not in seen:
                seen[what] = compute()
            return seen[what]

        def features(expert: Expert) -> torch.Tensor:
            if isinstance(expert, Joined):
                return torch.cat([features(part) for part in expert.joins()], dim=1)
            return once(
                f"features {self._fingerprint(expert)}", lambda: expert.embed(prepared(expert))
            )

        def prepared(expert: Expert) -> torch.Tensor:
            fingerprint = expert.preparation_fingerprint()
            return once(f"inputs {fingerprint}", lambda: expert.prepare(signal))

        answers: dict[str, Answer] = {}
        for bundle in self.bundles:
            shape = (len(x_BLT), len(bundle.expert_names), bundle.task.width)
            outputs_BEC = np.full(shape, np.nan, dtype=np.float32)
            for name, (settings, adapted) in bundle.experts.items():
                backbone = self._backbones[bundle.task.name, name]
                if settings.frozen:
                    given, inputs = self._fingerprint(backbone), features(backbone)
                else:
                    given, inputs = backbone.preparation_fingerprint(), prepared(backbone)

                def shared(
                    what: Expert | KernelHead,
                    compute: Callable[[], torch.Tensor],
                    given: str = given,
                ) -> torch.Tensor:
                    # Tasks share what was trained for all of them; and if the same records have
                    # their labels, their heads have the same landmarks.
                    return once(f"{self._fingerprint(what)} of {given}", compute)

                place = bundle.expert_names.index(name)
                outputs_BEC[:, place] = adapted.answer(inputs, shared).cpu().numpy()
            features_BEK = np.full((*shape[:2], SHOWN), np.nan, dtype=np.float32)
            for name, reduction in bundle.reductions.items():
                seen_BD = features(self._backbones[bundle.task.name, name]).cpu().numpy()
                features_BEK[:, bundle.expert_names.index(name)] = reduction(seen_BD)
            mixed = bundle.ensemble.predict(
                view_BLT, outputs_BEC, bundle.expert_names, bundle.task, features_BEK
            )
            answers[bundle.task.name] = Answer(*mixed, outputs_BEC)
        return answers
