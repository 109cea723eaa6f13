"""Running a frozen backbone over a record store, with Ray Data: only over what is new to it.

With GPUs three stages work at the same time, each with its own processes: reading, CPU work
(decoding, and the preparation where an expert's is CPU work), and the backbone on its device.
Without any, the last two share their processes. The driver takes the features in and writes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from enecg import experts
from enecg.cluster import peak_memory_mb
from enecg.config import ExpertSettings
from enecg.errors import JobFailed, last_line
from enecg.experts.contract import Expert
from enecg.files import write_json
from enecg.progress import counting, say
from enecg.records.store import RecordStore, decode
from enecg.stage1.feature_store import FeatureStore
from enecg.storage import Folder

BATCH = 64
"""Records that are handed on together, and pass a backbone on a GPU at a time."""
CPU_BATCH = 16
"""On CPUs so many are handed on together, that all processes end at about the same time, …"""
CPU_PASS = 8
"""… and so many pass a backbone at a time, whose intermediate results stay in a cache."""
PART = 2048
"""Most records in a part of the feature store …"""
PART_SECONDS = 15.0
"""… which is written after this time at the latest: what a kill can cost."""

Batch = dict[str, np.ndarray]


class Decoder:
    """The CPU stage: stored records → millivolts, or the backbone's input.

    Parameters
    ----------
    prepare_with : (str, dict), optional
        Name and options of an expert whose preparation is CPU work.
    only : (Folder, FeatureStore), optional
        Pass on only those records of a store that have no features yet.
    """

    def __init__(
        self,
        prepare_with: tuple[str, dict[str, Any]] | None,
        only: tuple[Folder, FeatureStore] | None = None,
    ) -> None:
        self.wanted = None
        if only is not None:
            records, features = only
            there = features.keys(compared=True)  # by the driver, before it started this
            self.wanted = missing(RecordStore.open(records).index, there)
        self.expert = None
        if prepare_with is not None:
            name, options = prepare_with
            with torch.device("meta"):  # its parameters are not needed
                self.expert = experts.load(name, **options)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Yield the wanted records of a batch, if there are any."""
        if self.wanted is not None:
            chosen = np.array([record in self.wanted for record in batch["record_id"]], dtype=bool)
            if not chosen.any():
                return
            batch = {name: values[chosen] for name, values in batch.items()}
        inputs = decode(batch)
        if self.expert is not None:
            inputs = self.expert.prepare(torch.from_numpy(inputs)).numpy()
        yield {"record_id": batch["record_id"], "inputs": inputs}


class Embedder:
    """The device stage: a backbone.

    Parameters
    ----------
    expert : (str, str or None, dict)
        As for `experts.load`.
    prepared : bool
        Whether the CPU stage has prepared the inputs.
    """

    def __init__(self, expert: tuple[str, str | None, dict[str, Any]], prepared: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name, weights, options = expert
        self.expert = experts.load(name, weights=weights, **options).to(self.device)
        self.prepared = prepared
        self.at_a_time = BATCH if self.device.type == "cuda" else CPU_PASS
        self.halved = False

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Turn inputs into features; out of memory, go on with half as many at a time, once."""
        try:
            f_BD = self._features(batch["inputs"])
        except torch.OutOfMemoryError:
            if self.halved or self.at_a_time == 1:
                raise
            self.at_a_time, self.halved = self.at_a_time // 2, True
            torch.cuda.empty_cache()
            f_BD = self._features(batch["inputs"])
        return {
            "record_id": batch["record_id"],
            "features": f_BD,
            "peak_memory_mb": np.full(len(f_BD), peak_memory_mb()),
            "halved_to": np.full(len(f_BD), self.at_a_time if self.halved else 0),
        }

    def _features(self, inputs: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(inputs), self.at_a_time):
            part = np.ascontiguousarray(inputs[start : start + self.at_a_time])
            x = torch.from_numpy(part).to(self.device)
            f_BD = self.expert.embed(x) if self.prepared else self.expert.features(x)
            found.append(f_BD.float().cpu().numpy())
        return np.concatenate(found)


class CpuEmbedder:
    """Both stages in one process, where all of it is CPU work: half the processes to start."""

    def __init__(self, decoder: tuple[Any, ...], embedder: tuple[Any, ...]) -> None:
        self.decoder, self.embedder = Decoder(*decoder), Embedder(*embedder)

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        """Yield the features of the wanted records of a batch, if there are any."""
        for decoded in self.decoder(batch):
            yield self.embedder(decoded)


def compute_features(
    store: RecordStore, features: FeatureStore, expert: Expert, settings: ExpertSettings
) -> float:
    """Make sure that the features of all records of a store are there.

    Parameters
    ----------
    store : RecordStore
    features : FeatureStore
    expert : Expert
        Whose store that is.
    settings : ExpertSettings
        What it was loaded from.

    Returns
    -------
    float
        Peak memory of the largest worker, in MB; 0 where nothing was computed.

    Raises
    ------
    JobFailed
        A shard of the store is damaged, or a feature cannot be stored.
    """
    _set_right(features, expert.name)
    write_json(features.folder / "expert.json", expert.provenance())
    wanted = missing(store.index, features.keys())
    peak, name = 0.0, expert.name
    with counting(f"{name}: features", len(wanted)) as progress:
        if not wanted:
            return peak
        started = written = time.monotonic()
        halved, keys = 0, list[str]()
        parts: list[np.ndarray] = []
        try:
            for batch in _features_of(store, wanted, features, expert, settings):
                keys += [wanted[record] for record in batch["record_id"]]
                parts.append(batch["features"])
                peak = max(peak, float(batch["peak_memory_mb"].max()))
                progress.advance(len(batch["features"]))
                if not halved and (halved := int(batch["halved_to"].max())):
                    say(f"{name}: out of device memory; goes on with {halved} records at a time")
                if len(keys) >= PART or time.monotonic() - written >= PART_SECONDS:
                    features.add(keys, np.concatenate(parts))
                    keys, parts, written = [], [], time.monotonic()
        except ray.exceptions.RayError as error:
            store.check_shards()  # a damaged one is the likeliest cause
            raise JobFailed(f"{name}: {last_line(error)}") from error
        finally:
            if keys:
                features.add(keys, np.concatenate(parts))
        features.note_rate(len(wanted) / (time.monotonic() - started))
    if left := missing(store.index, features.keys()):
        raise RuntimeError(f"{name}: {len(left)} records got no features, {next(iter(left))} first")
    return peak


def _set_right(features: FeatureStore, name: str) -> None:
    """Remove parts that are not what they were: their features are computed again."""
    for part in features.damaged():
        say(
            f"{name}: {part} is damaged (it cannot be read, or its SHA-256 is not the one in its "
            "name); it is removed, and its features are computed again"
        )
        part.unlink(missing_ok=True)
    if unchecked := len(features.unchecked()):
        say(
            f"{name}: {unchecked} files in {features.folder} are of an earlier version and carry "
            "no checksum: they are used as they are; without them their features are computed again"
        )


def _features_of(
    store: RecordStore,
    wanted: dict[str, str],
    features: FeatureStore,
    expert: Expert,
    settings: ExpertSettings,
) -> Iterator[Batch]:
    """Features of the wanted records, in the order in which they get done."""
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources["CPU"])
    load = (expert.name, settings.weights, settings.options)
    on_cpu = expert.prepares_on == "cpu"
    decoder = ((expert.name, expert.options) if on_cpu else None, (store.folder, features))
    embedder = (load, on_cpu)
    shards = store.index.loc[store.index["record_id"].isin(wanted), "shard"].unique()
    records = store.dataset(shards=set(shards))
    if gpus:
        decoded = records.map_batches(
            Decoder,
            fn_constructor_args=decoder,
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, cpus - 1)),
            num_cpus=1.0,
        )
        results = decoded.map_batches(
            Embedder,
            fn_constructor_args=embedder,
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=gpus),
            num_cpus=0,
            num_gpus=1,
        )
    else:  # reading needs a whole CPU; another one is left to the driver and to Ray itself
        results = records.map_batches(
            CpuEmbedder,
            fn_constructor_args=(decoder, embedder),
            batch_size=CPU_BATCH,
            compute=ray.data.ActorPoolStrategy(size=max(1, cpus - 2)),
            num_cpus=1 if cpus > 3 else 0.25,
        )
    batches: Any = results.iter_batches(batch_size=None, batch_format="numpy")
    yield from batches


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
