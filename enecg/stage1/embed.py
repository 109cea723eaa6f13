"""Running a frozen backbone over a record store, with Ray Data: only over what is new to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from enecg import experts
from enecg.cluster import peak_memory_mb
from enecg.config import ExpertSettings
from enecg.progress import counting
from enecg.records.store import RecordStore, decode
from enecg.stage1.feature_store import FeatureStore
from enecg.storage import Folder

BATCH = 64
"""Records per backbone pass."""


class Embedder:
    """A backbone in a Ray Data actor; takes stored records, leaves features in the store.

    Parameters
    ----------
    name, weights, options
        As for `experts.load`.
    records : Folder
        The record store; those of its records that have no features yet are embedded.
    features : FeatureStore
    """

    def __init__(
        self,
        name: str,
        weights: str | None,
        options: dict[str, Any],
        records: Folder,
        features: FeatureStore,
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.expert = experts.load(name, weights=weights, **options).to(device)
        self.device = device
        self.features = features
        self.wanted = missing(RecordStore.open(records).index, features.keys())

    @torch.no_grad()
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed the wanted records of a batch; return how many those were."""
        chosen = np.array([record in self.wanted for record in batch["record_id"]], dtype=bool)
        if chosen.any():
            part = {name: values[chosen] for name, values in batch.items()}
            x_BLT = torch.from_numpy(decode(part)).to(self.device)
            f_BD = self.expert.features(x_BLT).float().cpu().numpy()
            self.features.add([self.wanted[record] for record in part["record_id"]], f_BD)
        return {
            "embedded": np.array([int(chosen.sum())]),
            "peak_memory_mb": np.array([peak_memory_mb()]),
        }


def compute_features(
    store: RecordStore, root: Path, name: str, settings: ExpertSettings
) -> tuple[FeatureStore, float]:
    """Make sure that the features of all records of a store are there.

    Parameters
    ----------
    store : RecordStore
    root : Path
        The feature stores' folder.
    name, settings : str, ExpertSettings
        The expert; its adaptation must leave the backbone frozen.

    Returns
    -------
    FeatureStore
    float
        Peak memory of the largest worker, in MB; 0 where nothing was computed.
    """
    expert = experts.load(name, weights=settings.weights, **settings.options)
    features = FeatureStore.of(Path(root).absolute(), name, expert.fingerprint())
    wanted = missing(store.index, features.keys())
    with counting(f"{name}: features", len(wanted)) as progress:
        if not wanted:
            return features, 0.0
        gpus = int(ray.cluster_resources().get("GPU", 0))
        actors = max(1, gpus or int(ray.cluster_resources()["CPU"]) - 2)
        results = store.dataset().map_batches(
            Embedder,
            fn_constructor_args=(
                name,
                settings.weights,
                settings.options,
                store.folder,
                features,
            ),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_gpus=1 if gpus else 0,
        )
        peak = 0.0
        for row in results.iter_rows():
            progress.advance(int(row["embedded"]))
            peak = max(peak, float(row["peak_memory_mb"]))
    if left := missing(store.index, features.keys()):
        raise RuntimeError(f"{name}: {len(left)} records got no features, {next(iter(left))} first")
    return features, peak


def missing(index: pd.DataFrame, present: set[str]) -> dict[str, str]:
    """Return the key of every record without features; of identical signals, only the first.

    Parameters
    ----------
    index : DataFrame
        A record store's index.
    present : set of str
        ``physical_sha256`` of the signals whose features are there.

    Returns
    -------
    dict of str to str
        ``record_id`` → ``physical_sha256``.
    """
    lacking = index.loc[~index["physical_sha256"].isin(present), ["record_id", "physical_sha256"]]
    lacking = lacking.drop_duplicates("physical_sha256")
    return dict(zip(lacking["record_id"], lacking["physical_sha256"], strict=True))
