"""ECG-FM: a convolutional stem and a transformer, pretrained on 12-lead ECGs in 5 s segments.

McKeen et al., "ECG-FM: An Open Electrocardiogram Foundation Model", arXiv 2408.05178. Trained with
fairseq-signals, whose checkpoints (``.pt``) are read here: pretrained ones and classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from enecg import signals
from enecg.errors import UserError
from enecg.experts import weights
from enecg.experts.contract import ADAPTATIONS, Expert, ExpertSpec, check_input, drawing_from
from enecg.experts.ecg_fm_encoder import EcgFmEncoder, EcgFmSizes
from enecg.experts.pooling import POOLS, check_pool, pooled, segments
from enecg.experts.preparation import z_scored
from enecg.experts.sizes import read_sizes

WINDOW = 2500
"""Samples per segment: five seconds at 500 Hz, as in pretraining."""
PRETRAINING_ONLY = ("mask_emb", "quantizer.", "project_q.", "final_proj.")
"""How the names of tensors begin that only the pretraining objective uses."""


class EcgFm(Expert):
    """ECG-FM's encoder, seeing a record as two segments of five seconds.

    Frames come every 32 ms. By default the features are the mean over frames and segments of the
    encoder's output, the vector that ECG-FM's own classifier and scripts use.

    Parameters
    ----------
    config : path or mapping, optional
        Other sizes than those of the weights file (or the published ones, where there is none),
        under fairseq-signals' names.
    pool : str
        How the frames of both segments become one vector, see `pooling.POOLS`.
    seed : int
        Seed of random weights.

    Raises
    ------
    UserError
        If an option has an impossible value.
    """

    name = "ecg-fm"
    version = 1
    published: ClassVar[Mapping[str, str | None]] = {
        "mimic_iv_ecg_physionet_pretrained.pt": None,
        "physionet_finetuned.pt": None,
        "mimic_iv_ecg_finetuned.pt": None,
    }

    def __init__(
        self,
        *,
        config: str | Path | Mapping[str, Any] | None = None,
        pool: str = "mean",
        seed: int = 0,
    ) -> None:
        sizes = read_sizes(self.name, EcgFmSizes, config)
        check_pool(self.name, pool)
        with drawing_from(seed):
            backbone = EcgFmEncoder(sizes)
            width, labels = sizes.encoder_embed_dim, sizes.num_labels
            head = nn.Linear(width, labels) if labels else None
        parts = [module for module in (backbone, head) if module is not None]
        spec = ExpertSpec(
            name=self.name,
            sampling_rate_hz=float(signals.SAMPLING_RATE_HZ),
            n_samples=WINDOW,
            leads=signals.LEADS,
            units="standard deviations of the lead",
            normalisation=(
                "z-score per record and lead over the whole record, then two segments of 5 s; "
                "missing samples and constant leads 0"
            ),
            width=width * POOLS[pool],
            parameters=sum(p.numel() for part in parts for p in part.parameters()),
            licence="MIT (bowang-lab/ECG-FM)",
            pretraining_corpora=("mimic-iv-ecg", "challenge"),
            adaptations=ADAPTATIONS,
            needs_weights=True,
            uses_r_peaks=False,
            lora_targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
        )
        super().__init__(spec, {"config": sizes.model_dump(), "pool": pool, "seed": seed})
        self.sizes = sizes
        self.backbone = backbone
        # The classifier is not part of the features, so there is nothing to train it by.
        self.proj = head.requires_grad_(False) if head is not None else None

    @classmethod
    def pretrained(cls, path: Path, **options: Any) -> Self:
        """Build the model that a fairseq-signals checkpoint describes."""
        content = weights.read(path)
        cfg = content.get("cfg") if isinstance(content, Mapping) else None
        model = cfg.get("model") if isinstance(cfg, Mapping) else None
        if options.get("config") is None:
            if not isinstance(model, Mapping):
                raise UserError(
                    f"weights {path}: no cfg.model in this file, so its sizes are not known; "
                    "give them as `config`"
                )
            options["config"] = sizes_of(model)
        expert = cls(**options)
        expert._assign(weights.tensors_of(content, path), path)
        return expert

    def load_weights(self, path: str | Path) -> None:
        """Replace the parameters by those of a checkpoint of the same sizes."""
        self._assign(weights.tensors_of(weights.read(path), path), path)

    def _assign(self, tensors: Mapping[str, Tensor], path: str | Path) -> None:
        if self.proj is not None or any(key.startswith("encoder.encoder.") for key in tensors):
            renamed = {
                f"backbone.{key.removeprefix('encoder.')}" if key.startswith("encoder.") else key: t
                for key, t in tensors.items()
            }
        else:
            renamed = {
                f"backbone.{key}": tensor
                for key, tensor in tensors.items()
                if not key.startswith(PRETRAINING_ONLY)
            }
        weights.assign(self, {_in_one_naming(k): t for k, t in renamed.items()}, path)

    def prepare(self, x_BLT: Tensor) -> Tensor:
        """Scale each lead over the whole record and cut it into segments.

        Parameters
        ----------
        x_BLT : float32 tensor, shape (B, 12, 5000)
            Millivolts at 500 Hz, NaN where missing.

        Returns
        -------
        float32 tensor, shape (B, 2, 12, 2500)
        """
        check_input(x_BLT)
        return segments(z_scored(x_BLT.float()), WINDOW)

    def embed(self, prepared: Tensor) -> Tensor:
        """Pool the frames of all segments; float32 of shape (B, D).

        A segment of each record by itself, (B, 12, T), is taken too.
        """
        if prepared.ndim == 3:
            prepared = prepared[:, None]
        frames_SNE = self.frame_features(prepared.flatten(0, 1))
        frames_BNE = frames_SNE.reshape(len(prepared), -1, frames_SNE.shape[-1])
        return pooled(frames_BNE.float(), self.options["pool"])

    def frame_features(self, x_BLT: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the encoder's output for every frame.

        Parameters
        ----------
        x_BLT : float tensor, shape (B, 12, T)
            Scaled signals of any length from 16 samples.
        padding_mask : bool tensor, shape (B, T) or (B, 12, T), optional
            True on the samples at the end that only fill up the batch; the same for all leads.

        Returns
        -------
        tensor, shape (B, N, E)
            A frame for every 16 samples.
        """
        frames_BNE: Tensor = self.backbone(x_BLT, self._padded_frames(x_BLT, padding_mask))
        return frames_BNE

    def logits(self, x_BLT: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Return the classifier's logits, shape (B, labels); arguments as in `frame_features`.

        A record with less than a frame of samples gives NaN.

        Raises
        ------
        UserError
            If the weights are not those of a classifier.
        """
        if self.proj is None:
            raise UserError("expert ecg-fm: logits need a fine-tuned classifier's weights")
        padded_BN = self._padded_frames(x_BLT, padding_mask)
        frames_BNE = self.backbone(x_BLT, padded_BN)
        if padded_BN is not None:
            frames_BNE = frames_BNE.masked_fill(padded_BN[..., None], 0.0)
        # As in fairseq-signals: frames are counted by their values, channel by channel.
        pooled_BE = frames_BNE.sum(dim=1) / (frames_BNE != 0).sum(dim=1)
        logits_BC: Tensor = self.proj(pooled_BE)
        return logits_BC

    def _padded_frames(self, x_BLT: Tensor, padding_mask: Tensor | None) -> Tensor | None:
        """Return which frames lie in the padding, bool (B, N), or None where none do."""
        if padding_mask is None or not padding_mask.any():
            return None
        mask_BT = padding_mask if padding_mask.ndim == 2 else padding_mask[:, 0]
        if mask_BT.shape != (len(x_BLT), x_BLT.shape[-1]) or (
            padding_mask.ndim == 3 and (padding_mask != padding_mask[:, :1]).any()
        ):
            raise ValueError("a padding mask is (B, T) or (B, 12, T), the same for all leads")
        length_B = self.backbone.n_frames((~mask_BT).sum(dim=1))
        n_frames = int(self.backbone.n_frames(torch.tensor(x_BLT.shape[-1])))
        if self.proj is None:  # the pretraining class takes an empty record for a full one
            length_B = torch.where(length_B > 0, length_B, n_frames)
        return torch.arange(n_frames, device=x_BLT.device) >= length_B[:, None]


def _in_one_naming(key: str) -> str:
    """Give both of torch's namings of a weight-normalised convolution the names used here."""
    for theirs, ours in (
        ("conv_pos.pos_conv.0.parametrizations.weight.original0", "conv_pos.weight_g"),
        ("conv_pos.pos_conv.0.parametrizations.weight.original1", "conv_pos.weight_v"),
        ("conv_pos.pos_conv.0.", "conv_pos."),
    ):
        key = key.replace(theirs, ours)
    return key


def sizes_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the sizes out of fairseq-signals' ``cfg.model``."""
    sizes = {key: model[key] for key in EcgFmSizes.model_fields if key in model}
    if model.get("_name") != "ecg_transformer_classifier":
        sizes.pop("num_labels", None)
    return sizes
