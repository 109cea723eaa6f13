"""The run folder: one job at a time, and only finished work of the same settings is kept."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from enecg import ownership
from enecg.errors import UserError
from enecg.files import fingerprint
from enecg.ownership import kind_of
from enecg.run_folder import begin, claimed, facts_of, finish, is_done


def _claim(folder: Path, end: Any) -> None:
    try:
        with claimed(folder):
            end.send("claimed")
            end.poll(60)
    except UserError as error:
        end.send(str(error))


@pytest.fixture
def other_process(tmp_path: Path) -> Any:
    """A process that claims ``run`` until it hears something, and the pipe to it."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_claim, args=(tmp_path / "run", there), daemon=True)
    yield process, here
    process.kill()
    process.join(10)


def test_a_second_process_is_refused_while_the_first_works(
    tmp_path: Path, other_process: Any
) -> None:
    process, pipe = other_process
    with claimed(tmp_path / "run"):
        process.start()
        assert pipe.poll(30)
        message = pipe.recv()
    assert "another job works in this folder" in message
    assert str(tmp_path / "run") in message


@pytest.mark.parametrize("end", ["released", "killed"])
def test_the_claim_ends_with_the_process(end: str, tmp_path: Path, other_process: Any) -> None:
    process, pipe = other_process
    process.start()
    assert pipe.poll(30)
    assert pipe.recv() == "claimed"
    with pytest.raises(UserError, match="another job"), claimed(tmp_path / "run"):
        pass
    if end == "killed":
        process.kill()
    else:
        pipe.send("enough")
    process.join(10)
    with claimed(tmp_path / "run"):
        pass


def test_a_claim_ends_with_an_error_too(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), claimed(tmp_path / "a" / "run"):
            _ = 1 / 0


def test_work_is_done_for_its_own_fingerprint_only(tmp_path: Path) -> None:
    work = tmp_path / "expert"
    assert not is_done(work, "one")
    begin(work, "one")
    assert not is_done(work, "one")
    finish(work, "one", seconds=1.5, memory=7)
    assert is_done(work, "one")
    assert not is_done(work, "other")
    assert facts_of(work) == {"fingerprint": "one", "seconds": 1.5, "memory": 7}


@pytest.mark.parametrize(("then", "kept"), [("one", True), ("other", False)])
def test_unfinished_work_is_kept_for_the_same_settings_alone(
    then: str, kept: bool, tmp_path: Path
) -> None:
    work = tmp_path / "expert"
    begin(work, "one")
    (work / "train").mkdir()
    (work / "train" / "state").write_text("half")
    begin(work, then)
    assert (work / "train" / "state").exists() == kept


def test_beginning_anew_with_other_settings_removes_finished_work(tmp_path: Path) -> None:
    work = tmp_path / "expert"
    begin(work, "one")
    finish(work, "one")
    begin(work, "other")
    assert not is_done(work, "one")
    assert not is_done(work, "other")


def test_a_folder_of_unknown_origin_is_refused_and_stays(tmp_path: Path) -> None:
    work = tmp_path / "expert"
    work.mkdir()
    (work / "outputs").write_text("whose?")
    assert not is_done(work, "one")
    with pytest.raises(UserError, match=r"is not empty, and nothing in it says .*'outputs'"):
        begin(work, "one")
    assert [path.name for path in work.iterdir()] == ["outputs"]


def test_fingerprints_follow_values_not_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(v) for v in ({"a": 1}, {"a": 2}, {"b": 1}, [1], {"a": [1]})}) == 5


def test_work_that_is_half_removed_does_not_pass_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    begin(folder, "one")
    finish(folder, "one")
    (folder / "train").mkdir()

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ownership.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        begin(folder, "two")
    assert kind_of(folder) == "work", "the next job must know whose it is"
    assert not is_done(folder, "one")
