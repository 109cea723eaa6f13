"""Faults injected for real while stage 1 runs; it ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from enecg import experts
from enecg.errors import JobFailed
from enecg.records import RecordStore
from enecg.stage1.embed import CPU_PASS, Embedder
from enecg.stage1.jobs import expert_folder, train_experts
from struck import disturbed, experiment_in, outputs_of, workers

pytestmark = pytest.mark.usefixtures("ray_cluster", "extra_experts")


def test_a_killed_train_worker_with_a_damaged_newest_checkpoint(
    synthetic_store: RecordStore,
    calm_outputs: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "disturbed"
    experiment = experiment_in(folder, synthetic_store, "full", workers=2)
    (folder / "slow").write_text("0.2")
    train = expert_folder(experiment.config, "probe") / "train"

    def inject() -> bool:
        try:
            states = sorted(train.glob("checkpoint_*/finished.pt"))
            if len(states) < 2 or not workers(folder):
                return False
            os.truncate(states[-1], states[-1].stat().st_size - 1)
        except FileNotFoundError:  # Ray removes old checkpoints meanwhile
            return False
        os.kill(workers(folder)[-1], signal.SIGKILL)
        (folder / "slow").unlink()
        return True

    disturbed(experiment, inject)
    np.testing.assert_array_equal(outputs_of(experiment), calm_outputs)
    said = capsys.readouterr().err
    assert "passes over the damaged checkpoint" in " ".join(said.split())


def test_a_killed_data_actor(synthetic_store: RecordStore, tmp_path: Path) -> None:
    undisturbed = experiment_in(tmp_path / "undisturbed", synthetic_store, "head")
    train_experts(undisturbed)
    folder = tmp_path / "disturbed"
    experiment = experiment_in(folder, synthetic_store, "head")
    (folder / "slow").write_text("3")

    def inject() -> bool:
        if not (found := workers(folder)):
            return False
        os.kill(found[-1], signal.SIGKILL)
        (folder / "slow").unlink()
        return True

    disturbed(experiment, inject)
    # Features are computed in other batches, and so are equal but for rounding.
    np.testing.assert_allclose(outputs_of(experiment), outputs_of(undisturbed), atol=1e-4)


def test_out_of_memory_the_micro_batch_is_halved_once(
    synthetic_store: RecordStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device's memory is simulated: the backbone refuses more than so many records."""
    enough = experiment_in(tmp_path / "enough", synthetic_store, "full", epochs=1)
    (tmp_path / "enough" / "memory").write_text("16")
    train_experts(enough)
    assert "starts again with 16 records at a time" in " ".join(capsys.readouterr().err.split())
    too_little = experiment_in(tmp_path / "little", synthetic_store, "full", epochs=1)
    (tmp_path / "little" / "memory").write_text("3")
    with pytest.raises(JobFailed, match="out of device memory, even 16 records at a time"):
        train_experts(too_little)


def test_an_embedder_out_of_memory_takes_half_as_many_at_a_time_once(tmp_path: Path) -> None:
    options = {"hooks": str(tmp_path)}
    embedder = Embedder(("probe", None, options), prepared=True)
    inputs = torch.randn(3 * CPU_PASS, 600)
    batch = {"record_id": list(range(len(inputs))), "inputs": inputs.numpy()}
    with torch.no_grad():
        known = experts.load("probe").embed(inputs)
    (tmp_path / "memory").write_text(str(CPU_PASS // 2))
    for _ in range(2):
        found = embedder(batch)  # type: ignore[arg-type]
        torch.testing.assert_close(torch.from_numpy(found["features"]), known)
        assert set(found["halved_to"].tolist()) == {CPU_PASS // 2}
    (tmp_path / "memory").write_text(str(CPU_PASS // 4))
    with pytest.raises(torch.OutOfMemoryError):
        embedder(batch)  # type: ignore[arg-type]
