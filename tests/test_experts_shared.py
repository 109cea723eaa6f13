"""What several experts share: pooling and segments, sizes, the vocabulary of corpora."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import torch
from pydantic import Field

from enecg import experts
from enecg.errors import UserError
from enecg.experts.corpora import CORPORA, PARTS, overlap
from enecg.experts.pooling import POOLS, check_pool, pooled, segments
from enecg.experts.sizes import Sizes, read_sizes
from enecg.records import sources


@pytest.mark.parametrize(
    ("window", "starts"),
    [(5, [0, 5]), (10, [0]), (4, [0, 3, 6]), (6, [0, 4]), (1, list(range(10)))],
)
def test_segments_cover_the_record_evenly(window: int, starts: list[int]) -> None:
    x_BLT = torch.arange(20.0).reshape(2, 1, 10)
    cut_BSLW = segments(x_BLT, window)
    assert cut_BSLW.shape == (2, len(starts), 1, window)
    assert cut_BSLW[0, :, 0, 0].tolist() == starts
    assert set(cut_BSLW[1].flatten().tolist()) == set(range(10, 20))


@pytest.mark.parametrize("window", [0, 11])
def test_impossible_segments_are_refused(window: int) -> None:
    with pytest.raises(ValueError, match="segments of"):
        segments(torch.zeros(1, 1, 10), window)


def test_pooling() -> None:
    f_BND = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [5.0, 0.0]]]).requires_grad_()
    torch.testing.assert_close(pooled(f_BND, "mean"), torch.tensor([[3.0, 0.0]]))
    torch.testing.assert_close(pooled(f_BND, "max"), torch.tensor([[5.0, 0.0]]))
    both = pooled(f_BND, "mean_std")
    torch.testing.assert_close(both[0], torch.tensor([3.0, 0.0, (8 / 3) ** 0.5, 1e-6]))
    both.sum().backward()
    assert torch.isfinite(f_BND.grad).all()
    for pool, factor in POOLS.items():
        assert pooled(torch.zeros(2, 3, 4), pool).shape == (2, 4 * factor)
    with pytest.raises(UserError, match=r"expert x: pool is 'maen', did you mean 'mean'\?"):
        check_pool("x", "maen")


class Toy(Sizes):
    """Sizes of nothing."""

    layers: Annotated[int, Field(ge=1)] = 12
    widths: tuple[int, ...] = (4, 8)


def test_sizes_come_from_a_mapping_or_a_file(tmp_path: Path) -> None:
    assert read_sizes("toy", Toy, None) == Toy()
    assert read_sizes("toy", Toy, {"layers": 2}) == Toy(layers=2)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"widths": [1]}))
    assert read_sizes("toy", Toy, path) == read_sizes("toy", Toy, str(path)) == Toy(widths=(1,))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"layer": 2}', r"unknown key 'layer', did you mean 'layers'\? \(allowed: layers, widths"),
        ('{"layers": 0}', r"layers: Input should be greater than or equal to 1, not 0"),
        ('{"widths": ["x"]}', r"widths\.0: Input should be a valid integer.*not 'x'"),
        ("[]", "must be a mapping"),
        ("{", "not readable as JSON"),
    ],
)
def test_impossible_sizes_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as raised:
        read_sizes("toy", Toy, path)
    assert str(raised.value).startswith(f"expert toy: config {path}: ")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no such file"):
        read_sizes("toy", Toy, tmp_path / "none.json")


def test_corpora_overlap_by_their_parts() -> None:
    ecg_fm = ("mimic-iv-ecg", "challenge")
    assert overlap(ecg_fm, "ptb-xl") == ("challenge",)
    assert overlap(ecg_fm, "mimic-iv-ecg") == ("mimic-iv-ecg",)
    assert overlap(("ptb-xl", "heedb"), "challenge") == ("ptb-xl",)
    assert overlap(ecg_fm, "code-15") == overlap(ecg_fm, "wfdb") == overlap((), "ptb-xl") == ()
    assert set(sources.names()) - {"wfdb", "enecg"} <= set(CORPORA)
    assert overlap(("mimic-iv-ecg",), "enecg") == ("mimic-iv-ecg",)  # the authors' manifest
    assert set(PARTS) <= {*CORPORA, *sources.names()}
    assert {name for parts in PARTS.values() for name in parts} <= set(CORPORA)


def test_drawn_weights_leave_torchs_own_random_numbers_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with experts.contract.drawing_from(7):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), wanted)
    with experts.contract.drawing_from(7):
        assert torch.equal(torch.rand(3), first)
