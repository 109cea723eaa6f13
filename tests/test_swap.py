"""Replacing is write, then swap: a full disk or a kill leaves a whole one, old or new."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enecg.bundle import Bundle, load_bundles
from enecg.bundle_folders import replace_bundles
from enecg.errors import UserError, exit_code_of, file_trouble
from enecg.files import replacing, write_text
from enecg.inventory import MARK
from enecg.nested import ALL
from enecg.ownership import claim, kind_of, mark, remove_own, restore, standing, swap
from enecg.records.synthetic import write_synthetic_cohort
from enecg.stage1.adapted import save_outputs
from enecg.tasks import TASKS, Task
from models import bundle

AGE = TASKS["age"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB; where none can be mounted, a reason to skip."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes of a disk."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(b"\0" * (free - left))


def deviations(folder: Path) -> dict[str, Any]:
    """What a bundle holds, for comparing."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*s*")}


def test_a_full_disk_leaves_the_old_bundle(small_disk: Path) -> None:
    bundle(AGE).save(small_disk / "age")
    before = deviations(small_disk / "age")
    fill(small_disk, left=20_000)
    with pytest.raises(OSError, match="No space left") as full:
        bundle(AGE).save(small_disk / "age")
    assert "free space" in (file_trouble(full.value) or "")
    assert deviations(small_disk / "age") == before
    assert [one.task.name for one in load_bundles(small_disk)] == ["age"]
    (small_disk / "filler").unlink()
    bundle(AGE).save(small_disk / "age")
    assert [path.name for path in small_disk.iterdir()] == ["age"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 50_000),
        lambda path: save_outputs(path, {"x": np.zeros(50_000, dtype=np.float32)}),
    ],
)
def test_a_full_disk_is_one_line_and_exit_code_1(
    write: Callable[[Path], None], small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small_disk / "x").write_text("as it was")
    fill(small_disk, left=8_000)
    assert exit_code_of(lambda: write(small_disk / "x")) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "No space left on device" in told
    assert (small_disk / "x").read_text() == "as it was"
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "x"]


def test_a_full_disk_leaves_the_old_cohort(small_disk: Path) -> None:
    write_synthetic_cohort(small_disk / "wfdb", 2, seed=1)
    before = sorted(path.name for path in (small_disk / "wfdb" / "records").iterdir())
    fill(small_disk, left=400_000)  # three of seven records
    code = (
        "import sys; from enecg.errors import exit_code_of; "
        "from enecg.records.synthetic import write_synthetic_cohort as w; "
        "sys.exit(exit_code_of(lambda: w(sys.argv[1], 7, overwrite=True) and None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_disk / "wfdb")], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "is the disk full?" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert sorted(path.name for path in (small_disk / "wfdb" / "records").iterdir()) == before


class _Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def _moments(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> Iterator[None]:
    """Do some work again and again, killed at its first, second, … change to the disk."""
    rename, unlink, rmdir = Path.rename, Path.unlink, Path.rmdir
    left = [0]

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            return act(*arguments, **options)

        return acted

    for moment in range(1000):
        left[0] = moment
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", counted(rename))
            patched.setattr(Path, "unlink", counted(unlink))
            patched.setattr(Path, "rmdir", counted(rmdir))
            try:
                work()
            except _Killed:
                pass
            else:
                return
        yield
    raise AssertionError("it never ends")


def test_killed_at_any_moment_a_whole_bundle_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bundle"
    bundle(AGE).save(place / "age")
    new = bundle(AGE)
    new.provenance = {"n_training": 8}
    known = set()
    for _ in _moments(monkeypatch, lambda: new.save(place / "age")):
        for read in (lambda: load_bundles(place / "age")[0], lambda: Bundle.load(place / "age")):
            known.add(read().provenance["n_training"])
    assert known == {7, 8}
    assert load_bundles(place)[0].provenance["n_training"] == 8
    assert [path.name for path in place.iterdir()] == ["age"]


def made(tasks: list[Task], number: int) -> Iterator[tuple[str, Bundle]]:
    """Bundles of two scopes that know their number."""
    for task in tasks:
        for scope in ("0", ALL):
            one = bundle(task)
            one.provenance = {"n_training": number, "scope": scope}
            yield scope, one


def test_killed_at_any_moment_all_of_a_runs_bundles_are_of_one_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_bundles(tmp_path, made([AGE, TASKS["gender"]], 1))
    found = set()
    for _ in _moments(monkeypatch, lambda: replace_bundles(tmp_path, made([AGE], 2))):
        bundles = load_bundles(tmp_path / "bundle")
        kind = {(one.provenance["n_training"], len(bundles)) for one in bundles}
        assert kind in ({(1, 2)}, {(2, 1)})
        found |= kind
        assert load_bundles(tmp_path / "folds" / "0" / "age")
    assert found == {(1, 2), (2, 1)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "folds"]
    assert load_bundles(tmp_path / "folds" / "0")[0].provenance["scope"] == "0"
    assert kind_of(tmp_path / "bundle") == "bundles"


def test_a_full_disk_leaves_all_of_a_runs_bundles(small_disk: Path) -> None:
    run = small_disk / "run"
    replace_bundles(run, made([AGE], 1))
    size = sum(path.stat().st_size for path in (run / "bundle").rglob("*"))
    fill(small_disk, left=size + 30_000)  # room for some of them, not for all
    more = [AGE, TASKS["gender"]]
    with pytest.raises(OSError, match="No space left") as full:
        replace_bundles(run, made(more, 2))
    assert "free space" in (file_trouble(full.value) or "")
    for place in ("bundle", "folds/0"):
        assert [b.provenance["n_training"] for b in load_bundles(run / place)] == [1]
    (small_disk / "filler").unlink()
    replace_bundles(run, made(more, 2))
    assert [b.provenance["n_training"] for b in load_bundles(run / "bundle")] == [2, 2]


def test_somebody_elses_folder_is_not_swapped_out(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("years of work")
    mark(tmp_path / "new", "bundles")
    with pytest.raises(UserError, match=r"thesis.tex"):
        swap(tmp_path / "new", tmp_path / "bundle", "bundles")
    (tmp_path / ".x.old").mkdir()
    (tmp_path / ".x.old" / "thesis.tex").write_text("years of work")
    claim("x", tmp_path / "x", "bundles")
    with pytest.raises(UserError, match=r"\.x\.old"):
        swap(tmp_path / "new", tmp_path / "x", "bundles")
    restore(tmp_path / "y")
    assert (tmp_path / "new" / MARK).exists()
    assert (tmp_path / "bundle" / "thesis.tex").exists() and (tmp_path / ".x.old").exists()


def test_a_linked_folder_is_swapped_too(tmp_path: Path) -> None:
    claim("x", tmp_path / "big disk", "bundles")
    (tmp_path / "bundle").symlink_to(tmp_path / "big disk")
    for _ in range(2):
        mark(tmp_path / "new", "bundles")
        swap(tmp_path / "new", tmp_path / "bundle", "bundles")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big disk", "bundle"]
    assert not list((tmp_path / "big disk").iterdir())


def test_what_was_set_aside_is_read_until_it_has_its_name_again(tmp_path: Path) -> None:
    bundle(AGE).save(tmp_path / ".bundle.old" / "age")
    assert standing(tmp_path / "bundle") == tmp_path / ".bundle.old"
    assert load_bundles(tmp_path / "bundle")[0].task == AGE
    assert load_bundles(tmp_path / "bundle" / "age")[0].task == AGE
    restore(tmp_path / "bundle")
    assert load_bundles(tmp_path / "bundle")[0].task == AGE
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_file_of_the_longest_name_is_written_too(tmp_path: Path) -> None:
    for name in ("x" * 251 + ".csv", "ü" * 127):
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_remove_own_of_nothing(tmp_path: Path) -> None:
    remove_own(tmp_path / "none", "run")
    (tmp_path / "empty").mkdir()
    remove_own(tmp_path / "empty", "run")
    assert not list(tmp_path.iterdir())
