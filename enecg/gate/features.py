"""What gates see of the experts' features: a few numbers of each, learned like all else by fold.

Every gate has its own: the features' mean, deviation and main components over the very records
that it learns from. An expert whose backbone is trained has no features that fit all folds; there
is nothing to see of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA

from enecg import experts
from enecg.experiment import Experiment
from enecg.gate.network import SHOWN
from enecg.nested import Fit, Nested
from enecg.stage1.adapted import load_outputs, save_outputs
from enecg.stage1.embed import compute_features
from enecg.stage1.feature_store import FeatureStore
from enecg.stage1.heads import spread, standardised

Floats = npt.NDArray[np.float32]

PARTS = ("mean", "std", "map")


@dataclass(frozen=True)
class Reduction:
    """From an expert's features to a few numbers.

    Attributes
    ----------
    mean, std : float32 array, shape (D,)
        Over the records it was learned from.
    map : float32 array, shape (D, K)
        From standardised features to their K main components, each with a deviation of 1.
    """

    mean: Floats
    std: Floats
    map: Floats

    def __call__(self, f_BD: Floats) -> Floats:
        """Return some records' numbers, shape (B, K)."""
        f, mean, std, map_ = map(torch.from_numpy, (f_BD, self.mean, self.std, self.map))
        shown_BK: Floats = (standardised(f, mean, std) @ map_).numpy()
        return shown_BK


def fit_reduction(f_ND: Floats, learns_N: npt.NDArray[np.bool_], seed: int) -> Reduction:
    """Learn what is seen of an expert from some records alone."""
    f = torch.from_numpy(f_ND[learns_N])
    mean, std = f.mean(0), spread(f)
    known = standardised(f, mean, std).numpy()
    components = min(SHOWN, *known.shape)
    found = PCA(components, svd_solver="randomized", random_state=seed).fit(known)
    map_DK = np.zeros((f.shape[1], SHOWN), dtype=np.float32)
    deviation_K = np.sqrt(found.explained_variance_)
    varies_K = deviation_K > 1e-6
    map_DK[:, :components][:, varies_K] = (found.components_[varies_K].T) / deviation_K[varies_K]
    return Reduction(mean.numpy(), std.numpy(), map_DK)


def reduce_features(
    features: Sequence[Floats | None], nested: Nested, seed: int
) -> tuple[dict[str, Floats], dict[tuple[str, int], Reduction]]:
    """Learn every fit's reductions, and apply them to all records.

    Parameters
    ----------
    features : sequence of E arrays, shape (N, D) each, or None
        By expert; None where its backbone is trained.

    Returns
    -------
    dict of str to array, shape (N, E, K)
        What gates see, by `Fit.key`: of the inner fits, and of each scope's final one. NaN where
        an expert has no features.
    dict of (str, int) to Reduction
        Of the final fits, by scope and expert.
    """
    n = len(nested.outer_N)
    shown: dict[str, Floats] = {}
    reductions: dict[tuple[str, int], Reduction] = {}
    made: dict[tuple[Fit, int], Reduction] = {}
    for scope in nested.scopes:
        for fit in [*nested.fits(scope), Fit(scope, None)]:
            # What learns from the same records is learned once.
            same = nested.inner_twin(scope) if fit.inner is None else nested.model_of(fit)
            shown_NEK = np.full((n, len(features), SHOWN), np.nan, dtype=np.float32)
            for expert, f_ND in enumerate(features):
                if f_ND is None:
                    continue
                key = (same or fit, expert)
                if key not in made:
                    made[key] = fit_reduction(f_ND, nested.learns_from(fit), seed)
                shown_NEK[:, expert] = made[key](f_ND)
                if fit.inner is None:
                    reductions[scope, expert] = made[key]
            shown[fit.key] = shown_NEK
    return shown, reductions


def load_features(experiment: Experiment, path: Path) -> dict[str, Floats]:
    """Return what gates see of the experts' features, by `Fit.key`; computed where it is not there.

    Parameters
    ----------
    path : Path
        Where it stands, together with the reductions of the final fits.
    """
    if not path.exists():
        config, index = experiment.config, experiment.store.index
        features: list[Floats | None] = []
        for name, settings in config.experts.items():
            if not settings.frozen:
                features.append(None)
                continue
            expert = experts.load(
                settings.backbone(name), weights=settings.weights, **settings.options
            )
            stored = FeatureStore.of(config.features_dir, expert, config.stage1.feature_format)
            compute_features(experiment.store, stored, expert, settings)  # where they were removed
            features.append(stored.rows(index["physical_sha256"].tolist()))
        shown, reductions = reduce_features(features, experiment.nested, config.seed)
        names = list(config.experts)
        learned = {
            f"reduction/{scope}/{names[expert]}/{part}": getattr(reduction, part)
            for (scope, expert), reduction in reductions.items()
            for part in PARTS
        }
        save_outputs(path, {f"shown/{key}": values for key, values in shown.items()} | learned)
    return {
        key.removeprefix("shown/"): values
        for key, values in load_outputs(path).items()
        if key.startswith("shown/")
    }


def final_reduction(path: Path, scope: str, expert: str) -> Reduction | None:
    """Read what `load_features` learned of an expert from all training records of a scope."""
    tensors, prefix = load_outputs(path), f"reduction/{scope}/{expert}"
    if f"{prefix}/map" not in tensors:
        return None
    return Reduction(*(tensors[f"{prefix}/{part}"] for part in PARTS))
