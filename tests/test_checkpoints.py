"""Checkpoints: a damaged or half-written one is passed over for the one before, aloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from enecg.stage1.checkpoints import newest_whole, problem_of, seal


def checkpoint(folder: Path, workers: int = 2) -> Path:
    """What several workers leave in one folder: each its own file, then its manifest."""
    for rank in range(workers):
        part = folder.parent / f"part-{rank}"
        (part / "state").mkdir(parents=True)
        (part / "state" / f"rank-{rank}.pt").write_bytes(bytes(range(200)))
        seal(part, rank, workers)
        folder.mkdir(exist_ok=True)
        for path in [p for p in part.rglob("*") if p.is_file()]:
            target = folder / path.relative_to(part)
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        (part / "state").rmdir()
        part.rmdir()
    return folder


def truncate(folder: Path) -> None:
    path = folder / "state" / "rank-1.pt"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = folder / "state" / "rank-0.pt"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def lose(folder: Path) -> None:
    (folder / "state" / "rank-0.pt").unlink()


def unsealed(folder: Path) -> None:
    (folder / "manifest-1.json").unlink()


def half_a_manifest(folder: Path) -> None:
    path = folder / "manifest-0.json"
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "state/rank-1.pt has 199 of 200 bytes"),
        (flip, "state/rank-0.pt has changed"),
        (lose, "state/rank-0.pt is missing"),
        (unsealed, "manifest-1.json is missing"),
        (half_a_manifest, "its manifest cannot be read"),
    ],
)
def test_the_one_before_is_taken(damage: object, told: str, tmp_path: Path) -> None:
    first, second = (checkpoint(tmp_path / f"checkpoint_2026_0{n}") for n in (1, 2))
    said: list[str] = []
    assert newest_whole(tmp_path, said.append) == second
    assert not said
    damage(second)  # type: ignore[operator]
    assert newest_whole(tmp_path, said.append) == first
    [line] = said
    assert "checkpoint_2026_02" in line and told in line
    assert problem_of(first) is None


def test_without_a_whole_one_there_is_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path, print) is None
    lose(checkpoint(tmp_path / "checkpoint_1"))
    assert newest_whole(tmp_path, lambda _: None) is None
