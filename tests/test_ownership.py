"""Only what this program made is removed or replaced; other folders and files are refused first."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from enecg.bundle_folders import check_bundles, replace_bundles
from enecg.config import parse_config
from enecg.discard import discard
from enecg.errors import UserError
from enecg.inventory import INVENTORIES, MARK, stranger
from enecg.output_file import holds_drawing, holds_evaluation, holds_predictions, output_file
from enecg.ownership import check_free, claim, kind_of, mark, remove_own
from enecg.pipeline import check_places, run_stages
from enecg.records import RecordStore
from enecg.records.convert import convert
from enecg.records.parts import claim as claim_store
from enecg.records.store import REPLACEMENT, UNFINISHED
from enecg.records.synthetic import write_synthetic_cohort
from enecg.records.verify import verify
from enecg.run_folder import begin, claimed, finish, is_done
from enecg.storage import Folder
from enecg.tasks import TASKS
from models import bundle
from runs import REPOSITORY, settings, write_config


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything below a folder, and when it was changed."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in sorted([folder, *folder.rglob("*")])
    }


def somebodys(folder: Path) -> None:
    """A folder with years of work, called as this program calls things."""
    for name in ("experts/rocket", "gate", "bundle/age", "folds/0/age", "ensemble", "records"):
        (folder / name).mkdir(parents=True)
        (folder / name / "thesis.tex").write_text("years of work")
    (folder / "done.json").write_text('{"todo": "nothing"}')
    (folder / "config.json").write_text('{"editor": "vi"}')
    (folder / ".lock").touch()


def a_store(folder: Path) -> None:
    folder.mkdir()
    (folder / "dataset.json").write_text('{"format": "enecg-records", "format_version": 1}')


def a_bundle(folder: Path) -> None:
    bundle(TASKS["age"]).save(folder)


def a_file(folder: Path) -> None:
    folder.write_text("a file")


def a_dead_link(folder: Path) -> None:
    folder.symlink_to(folder.with_name("nowhere"))


def a_link(folder: Path) -> None:
    somebodys(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def below_a_file(folder: Path) -> None:
    folder.write_text("a file")


KINDS = [somebodys, a_store, a_bundle, a_file, a_dead_link, a_link]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("setting", ["run_dir", "features"])
def test_somebody_elses_folder_is_refused_and_stays_as_it_is(
    make: Callable[[Path], None],
    setting: str,
    synthetic_store: RecordStore,
    tmp_path: Path,
) -> None:
    theirs = tmp_path / "theirs"
    make(theirs)
    values = settings(synthetic_store.path, tmp_path / "run") | {setting: str(theirs)}
    config = write_config(tmp_path / "config", values)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"^{setting} {re.escape(str(theirs))}: ") as refused:
        run_stages(config, None, ["experts", "search", "ensemble"])
    assert len(str(refused.value).splitlines()) == 1
    assert snapshot(tmp_path) == before, "nothing may be made or touched, the run folder included"


@pytest.mark.parametrize(
    ("run_dir", "told"),
    [
        *((place, "run_dir") for place in ("/", "~", ".", "theirs/file.txt/run")),
        ("x" * 300, "run_dir"),
        ("runs/" + "y" * 256, "run_dir"),
        ("a\0b", r"config\.yaml: line 1: 'a\\x00b' holds the character U\+0000"),
    ],
)
def test_places_that_cannot_be_a_run_folder(
    run_dir: str,
    told: str,
    synthetic_store: RecordStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    config = write_config(
        tmp_path, settings(synthetic_store.path, Path("r")) | {"run_dir": run_dir}
    )
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=told) as refused:
        run_stages(config, None, ["experts"])
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": [{"nothing_like_it": {"kind": "regression"}}]},
        {"experts": {"rocket": {"kernelz": 3}}},
        {"experts": {"nobody": {}}},
        {"gate": {"space": "no/such/file.yaml"}},
        {"folds": 10_000},
        {"records": "no/such/store"},
        {"fold_column": "nothing"},
    ],
)
def test_a_refused_config_leaves_no_folder_behind(
    change: dict[str, Any], synthetic_store: RecordStore, tmp_path: Path
) -> None:
    values = settings(synthetic_store.path, tmp_path / "runs" / "x") | change
    config = write_config(tmp_path / "config", values)
    with pytest.raises(UserError):
        run_stages(config, None, ["experts"])
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


@pytest.mark.parametrize("name", ["experts/rocket", "gate", "ensemble", "bundle", "folds"])
def test_somebodys_folder_in_a_run_of_ours_is_refused_before_any_work(
    name: str, tmp_path: Path
) -> None:
    config = parse_config(settings(tmp_path / "store", tmp_path / "run"))
    with claimed(tmp_path / "run"):
        check_places(config)
    (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / name / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=f"{name}.*thesis.tex|{name}/thesis.tex"):
        check_places(config)
    assert (tmp_path / "run" / name / "thesis.tex").read_text() == "years of work"


def test_notes_among_a_runs_bundles_are_not_swept_away(tmp_path: Path) -> None:
    for name in ("bundle/age", "folds/0/age"):
        a_bundle(tmp_path / name)
    for name, levels in (("bundle", ""), ("folds", "0")):
        check_bundles(tmp_path / name)
        mark(tmp_path / name, "bundles")
        check_bundles(tmp_path / name)
        (tmp_path / name / levels / "notes.txt").write_text("mine")
        with pytest.raises(UserError, match=r"notes.txt: is no part of a bundle"):
            check_bundles(tmp_path / name)


def test_features_and_run_are_two_folders(tmp_path: Path) -> None:
    for place in ("x", ".", "x/gate", "x/bundle/age/f", "x/../x/experts"):
        values = settings(tmp_path / "s", tmp_path / "x") | {"features": str(tmp_path / place)}
        with pytest.raises(UserError, match="is run_dir"):
            check_places(parse_config(values))
    for place in ("x/features", "y", "x.features"):
        values = settings(tmp_path / "s", tmp_path / "x") | {"features": str(tmp_path / place)}
        check_places(parse_config(values))


def test_a_run_of_a_version_without_marks_is_known_by_its_files(tmp_path: Path) -> None:
    config = parse_config(settings(tmp_path / "store", tmp_path / "run"))
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    check_places(config)  # killed at once
    (run / "config.json").write_text(config.model_dump_json())
    begin(run / "experts" / "rocket", "f" * 64)
    finish(run / "experts" / "rocket", "f" * 64)
    a_bundle(run / "bundle" / "age")
    a_bundle(run / "folds" / "0" / "age")
    (run / "bundle" / ".gender.building" / "experts").mkdir(parents=True)
    features = tmp_path / "store.features" / "rocket-weights-1-prepared-2-float32"
    features.mkdir(parents=True)
    (features / "expert.json").write_text("{}")
    check_places(config)
    with claimed(run):
        assert kind_of(run) == "run" and (run / MARK).exists()
    claim("features", features.parent, "features")
    check_places(config)
    (features.parent / "photos").mkdir()
    (features.parent / MARK).unlink()
    with pytest.raises(UserError, match="features"):
        check_places(config)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"kind": "run"}', "\0", "[" * 100_000]
)
@pytest.mark.parametrize("name", [MARK, "started.json", "done.json", "bundle.json", "dataset.json"])
def test_a_file_of_a_marks_name_is_no_mark(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert kind_of(tmp_path) is None
    with pytest.raises(UserError, match="nothing in it says"):
        remove_own(tmp_path, "run", "work", "bundle", "records")
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    ("kind", "make", "names"),
    [
        (
            "run",
            lambda folder: claim("x", folder, "run"),
            "results.json gate/tune/a folds.csv",
        ),
        ("work", lambda folder: begin(folder, "one"), "a.json train/a tune/b"),
        ("bundle", a_bundle, "model_card.md experts/a/models.json gates.safetensors"),
        ("records", a_store, "shard-00007.parquet .replacement/a .relabelled/b"),
    ],
)
def test_what_says_whose_a_folder_is_goes_last(
    kind: Any,
    make: Callable[[Path], None],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed at any moment of its removal, a folder is known for what it is, or gone."""
    folder = tmp_path / "folder"
    make(folder)
    for name in names.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    known: list[str | None] = []

    def noting(remove: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any, **options: Any) -> None:
            known.append(kind_of(folder))
            remove(*arguments, **options)

        return noted

    monkeypatch.setattr(shutil, "rmtree", noting(shutil.rmtree))
    monkeypatch.setattr(Path, "unlink", noting(Path.unlink))
    remove_own(folder, kind)
    assert len(known) >= 4 and set(known) == {kind}
    assert not folder.exists()


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    somebodys(tmp_path / "theirs")
    begin(tmp_path / "work", "one")
    (tmp_path / "work" / "train").symlink_to(tmp_path / "theirs")
    before = snapshot(tmp_path / "theirs")
    remove_own(tmp_path / "work", "work")
    assert not (tmp_path / "work").exists()
    assert snapshot(tmp_path / "theirs") == before


@pytest.mark.parametrize(
    ("kind", "make", "name"),
    [
        ("run", lambda folder: claim("x", folder, "run"), "notes.txt"),
        ("run", lambda folder: claim("x", folder, "run"), "experts/rocket/plot.png"),
        ("run", lambda folder: claim("x", folder, "run"), "bundle/age/card.docx"),
        ("run", lambda folder: claim("x", folder, "run"), "folds/0/age/card.docx"),
        ("run", lambda folder: claim("x", folder, "run"), "repeats/2/gate/a.txt"),
        ("work", lambda folder: begin(folder, "one"), "notes.md"),
        ("features", lambda folder: claim("x", folder, "features"), "old/part-0.parquet"),
        ("cohort", lambda folder: mark(folder, "cohort"), "records/NOTES.txt"),
        ("records", a_store, "thesis.docx"),
        ("records", a_store, "deep/thesis.docx"),
        ("bundle", a_bundle, "thesis.docx"),
    ],
)
def test_somebodys_file_in_a_folder_of_ours_is_not_removed_with_it(
    kind: Any, make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    make(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=f"{name.partition('/')[0]}.* would be lost; move it away"):
        remove_own(folder, kind)
    with pytest.raises(UserError, match="would be lost; move it away"):
        discard({folder: kind})
    assert snapshot(tmp_path) == before


def test_a_linked_folder_of_ours_is_emptied_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "big disk").mkdir()
    (tmp_path / "gate").symlink_to(tmp_path / "big disk")
    begin(tmp_path / "gate", "one")
    finish(tmp_path / "gate", "one")
    begin(tmp_path / "gate", "two")
    assert (tmp_path / "gate").is_symlink()
    assert [path.name for path in (tmp_path / "big disk").iterdir()] == ["started.json"]


# Conversion


@pytest.mark.parametrize(
    "name",
    ["dataset.json", "index.parquet", "shard-00000.parquet", ".unfinished/arguments.json",
     ".unfinished/notes.txt", ".relabelled/x"],
)  # fmt: skip
@pytest.mark.parametrize("overwrite", [False, True])
def test_conversion_overwrites_no_file_that_only_has_a_stores_name(
    name: str, overwrite: bool, synthetic_store: RecordStore, tmp_path: Path
) -> None:
    corpus = tmp_path / "in"
    write_synthetic_cohort(corpus, 2, seed=1)
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text('{"mine": 1}')
    before = snapshot(tmp_path / "out")
    with pytest.raises(UserError, match="--output"):
        convert("wfdb", corpus, tmp_path / "out", overwrite=overwrite)
    assert snapshot(tmp_path / "out") == before


@pytest.mark.parametrize(
    "step", ["_make", "first move", "description", "arguments", "last removal"]
)
def test_an_overwritten_store_is_old_or_new_and_other_files_stay(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    labels = write_synthetic_cohort(tmp_path / "in", 3, seed=1)
    out = tmp_path / "out"
    convert("wfdb", tmp_path / "in", out, labels)
    theirs = ("notes.txt", "shard-mine.parquet", ".my.parquet.1.tmp")
    for name in theirs:
        (out / name).write_text("mine")
    before = RecordStore.open(out).fingerprint
    write_synthetic_cohort(tmp_path / "in", 5, seed=2, overwrite=True)
    with monkeypatch.context() as patched:
        kill_at(step, patched)
        with pytest.raises(KeyboardInterrupt):
            convert("wfdb", tmp_path / "in", out, labels, overwrite=True)
    if step == "description":  # another command comes in between, and is killed as well
        with monkeypatch.context() as patched:
            kill_at("_make", patched)
            with pytest.raises(KeyboardInterrupt):
                convert("wfdb", tmp_path / "in", out, labels, limit=1, overwrite=True)
        assert len(RecordStore.open(out).index) == 5
    elif step == "_make":
        assert RecordStore.open(out).fingerprint == before and verify(out).sound
        with pytest.raises(UserError, match="finished record store; add --overwrite"):
            convert("wfdb", tmp_path / "in", out, labels)
    elif step in ("last removal", "arguments"):
        assert len(RecordStore.open(out).index) == 5
    else:
        with pytest.raises(UserError, match=r"unfinished; run its convert\.py again"):
            RecordStore.open(out)
        with pytest.raises(UserError, match="add --overwrite to go on"):
            convert("wfdb", tmp_path / "in", out, labels)
    store = convert("wfdb", tmp_path / "in", out, labels, overwrite=True)
    assert len(store.index) == 5 and verify(out).sound
    assert {path.name for path in out.iterdir()} == {
        *theirs, "dataset.json", *store.description["files"]
    }  # fmt: skip
    assert all((out / name).read_text() == "mine" for name in theirs)


def kill_at(step: str, patched: pytest.MonkeyPatch) -> None:
    move, remove = Folder.move, Folder.remove

    def moved(folder: Folder, name: str, other: Folder) -> None:
        if name == "dataset.json" or step == "first move":
            raise KeyboardInterrupt
        move(folder, name, other)

    def removed(folder: Folder, name: str) -> None:
        if name == {"last removal": REPLACEMENT, "arguments": UNFINISHED}[step]:
            raise KeyboardInterrupt
        remove(folder, name)

    def made(*_: object) -> None:
        raise KeyboardInterrupt

    if step == "_make":
        patched.setattr("enecg.records.convert._make", made)
    elif step in ("last removal", "arguments"):
        patched.setattr(Folder, "remove", removed)
    else:
        patched.setattr(Folder, "move", moved)


@pytest.mark.parametrize("make", [a_store, a_bundle, lambda folder: mark(folder, "cohort")])
def test_no_run_and_no_store_inside_a_store_a_bundle_or_a_cohort(
    make: Callable[[Path], None], tmp_path: Path, synthetic_store: RecordStore
) -> None:
    make(tmp_path / "theirs")
    inside = tmp_path / "theirs" / "deep" / "x"
    values = settings(synthetic_store.path, inside)
    with pytest.raises(UserError, match=r"run_dir .*: lies in .*theirs, which is a"):
        check_places(parse_config(values))
    values = settings(synthetic_store.path, tmp_path / "run", features=str(inside))
    with pytest.raises(UserError, match=r"features .*: lies in .*theirs, which is a"):
        check_places(parse_config(values))
    with pytest.raises(UserError, match=r"--output .*: lies in .*theirs, which is a"):
        convert("wfdb", synthetic_store.path.parent / "wfdb", inside)
    with pytest.raises(UserError, match=r"FOLDER .*: lies in .*theirs, which is a"):
        write_synthetic_cohort(inside, 2)
    assert not inside.exists()


def test_work_with_somebodys_file_stays_finished_when_it_would_be_begun_anew(
    tmp_path: Path,
) -> None:
    work = tmp_path / "work"
    begin(work, "one")
    finish(work, "one")
    (work / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"notes\.txt: is no part of a stage's results"):
        begin(work, "two")
    assert snapshot(tmp_path) == before and is_done(work, "one")


def test_somebodys_file_in_a_bundle_is_not_replaced_with_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made = bundle(TASKS["age"])
    replace_bundles(run, [("all", made), ("0", made)])
    for place in ("bundle/age/notes.docx", "folds/0/age/notes.docx"):
        (run / place).write_text("mine")
        with pytest.raises(UserError, match=r"notes\.docx: is no part of a bundle"):
            replace_bundles(run, [("all", made), ("0", made)])
        (run / place).unlink()
    replace_bundles(run, [("all", made), ("0", made)])
    assert stranger(run, INVENTORIES["run"]) is None


def test_an_unfinished_store_is_removed_whole_and_one_of_ones_own_is_not(tmp_path: Path) -> None:
    def unfinished(folder: Path, made_from: Path) -> None:
        store = Folder.at(folder)
        claim_store(store, {"enecg": "1", "input": str(made_from)}, overwrite=False)
        (folder / "shard-00000.parquet").touch()

    cohort = write_synthetic_cohort(tmp_path / "cohort", 2).parent
    unfinished(tmp_path / "mine", tmp_path / "hospital")
    with pytest.raises(UserError, match=r"holds recordings of yours .*hospital"):
        discard({tmp_path / "mine": "records", cohort: "cohort"})
    assert (tmp_path / "mine" / "shard-00000.parquet").exists() and cohort.exists()
    unfinished(tmp_path / "demo", cohort)
    discard({tmp_path / "demo": "records", cohort: "cohort"})
    assert not (tmp_path / "demo").exists() and not cohort.exists()


# Simulated cohorts


def test_a_cohort_replaces_a_cohort_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wfdb"
    write_synthetic_cohort(folder, 2, seed=1)
    (folder / MARK).unlink()  # as earlier versions left it
    write_synthetic_cohort(folder, 3, seed=1, overwrite=True)
    assert len(list((folder / "records").glob("*.hea"))) == 3
    with monkeypatch.context() as inside:
        inside.chdir(folder)
        with pytest.raises(UserError, match="is the working directory"):
            write_synthetic_cohort(Path("."), 2, seed=1, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == [MARK, "labels.csv", "records"]
    for name in ("records/mine.dat", "notes.txt"):
        (folder / name).write_text("mine")
        before = snapshot(tmp_path)
        with pytest.raises(UserError, match="would be lost"):
            write_synthetic_cohort(folder, 2, seed=1, overwrite=True)
        assert snapshot(tmp_path) == before
        (folder / name).unlink()


@pytest.mark.parametrize("make", [somebodys, a_store, a_file, a_dead_link])
def test_a_cohort_is_written_over_nothing_else(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "theirs")
    before = snapshot(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UserError):
            write_synthetic_cohort(tmp_path / "theirs", 2, overwrite=overwrite)
    assert snapshot(tmp_path) == before


# The demo


def test_the_demo_removes_nothing_but_what_it_is_told_to_be_ours(tmp_path: Path) -> None:
    run, theirs = tmp_path / "run", tmp_path / "theirs"
    claim("x", run, "run")
    somebodys(theirs)
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="theirs"):
        discard({run: "run", theirs: "run"})
    with pytest.raises(UserError, match="is a run folder"):
        discard({run: "records"})
    assert snapshot(tmp_path) == before, "checked all before the first is removed"
    discard({run: "run", tmp_path / "none": "records"})
    assert not run.exists()


def test_the_demo_leaves_a_linked_store_and_a_run_of_ones_own(
    synthetic_store: RecordStore, tmp_path: Path
) -> None:
    shutil.copytree(synthetic_store.path, tmp_path / "big")
    (tmp_path / "demo").symlink_to("big")
    with pytest.raises(UserError, match=r"is a link to .*/big"):
        discard({tmp_path / "demo": "records"})
    cohort = write_synthetic_cohort(tmp_path / "cohort", 2).parent
    mine = pa.table({"record_id": ["syn00001", "12"]})
    shutil.copytree(synthetic_store.path, tmp_path / "mine")
    pq.write_table(mine, tmp_path / "mine" / "index.parquet")
    with pytest.raises(UserError, match=r"holds recordings of yours \('12'\)"):
        discard({tmp_path / "mine": "records", cohort: "cohort"})
    run = tmp_path / "run"
    claim("x", run, "run")
    (run / "config.json").write_text(json.dumps({"records": "/data/mine"}))
    with pytest.raises(UserError, match=r"is a run on other records \(/data/mine\)"):
        discard({tmp_path / "big": "records", run: "run"})
    assert (tmp_path / "big" / "dataset.json").exists() and cohort.exists()
    (run / "config.json").write_text(json.dumps({"records": str(tmp_path / "big")}))
    discard({tmp_path / "big": "records", cohort: "cohort", run: "run"})
    assert not any((tmp_path / name).exists() for name in ("big", "cohort", "run"))


def test_make_demo_removes_by_this_command_alone(tmp_path: Path) -> None:
    text = (REPOSITORY / "Makefile").read_text()
    assert "rm -rf" not in text
    [command] = re.findall(r"-m enecg\.discard (records=data/demo .*)", text.replace("\\\n", " "))
    somebodys(tmp_path / "runs" / "demo")
    claim("x", tmp_path / "data" / "demo.features", "features")
    done = subprocess.run(
        [sys.executable, "-m", "enecg.discard", *command.split()],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "runs/demo" in done.stderr
    assert (tmp_path / "data" / "demo.features").exists()
    assert (tmp_path / "runs/demo/gate/thesis.tex").exists()


# Output files


def predictions(path: Path, write: str) -> None:
    table = pd.DataFrame(
        {"record_id": ["1"], "subject_id": ["2"], "age": [3.0], "age__w__rocket": [1.0]}
    )
    getattr(table, write)(path, index=False)


ENDINGS = {
    ".parquet": holds_predictions, ".csv": holds_predictions, ".json": holds_evaluation,
    ".png": holds_drawing,
}  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"mine", b"\x89PNG\r\n", b'{"mine": 1}', b"\xff\xfe\0"])
def test_an_output_file_of_somebody_elses_is_refused(
    ending: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is there, and holds no predictions"):
        output_file(path, (ending,), ENDINGS[ending], "predictions")
    assert path.read_bytes() == content


def test_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    predictions(tmp_path / "p.parquet", "to_parquet")
    predictions(tmp_path / "p.CSV", "to_csv")
    for name in ("p.parquet", "p.CSV", "new.csv", "deep/down/new.parquet"):
        path = tmp_path / name
        assert output_file(path, (".parquet", ".csv"), holds_predictions, "predictions") == path
    assert not (tmp_path / "deep").exists()
    (tmp_path / "e.json").write_text(json.dumps({"bundle": "b", "records": {}, "tasks": {}}))
    assert holds_evaluation(tmp_path / "e.json")


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.parquet.gz", "csv", ".parquet", "x.csv "])
def test_an_unknown_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the ending must be one of parquet, csv"):
        output_file(tmp_path / name, (".parquet", ".csv"), holds_predictions, "predictions")


def test_a_stores_own_files_are_no_predictions(synthetic_store: RecordStore) -> None:
    for name in ("index.parquet", "rejected.parquet", synthetic_store.shards[0]):
        assert not holds_predictions(synthetic_store.path / name)


@pytest.mark.parametrize("output", ["folder.csv", "file.txt/x.csv", "s3://bucket/x.csv"])
def test_places_where_no_output_can_be(output: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.txt").touch()
    given = Path(output) if "://" in output else tmp_path / output
    with pytest.raises(UserError, match=r"--output .*: (is a folder|.*no folder|give a path)"):
        output_file(given, (".csv",), holds_predictions, "predictions")


def test_a_folder_that_cannot_be_written_to_is_told_before_any_work() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:  # root may write anywhere
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match="cannot be written to; give another place"):
                output_file(Path(folder) / "x.csv", (".csv",), holds_predictions, "predictions")
        finally:
            os.seteuid(user)


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("predict", ["--bundle", "b", "--input", "i", "--output", "o.xlsx"]),
        ("evaluate", ["--bundle", "b", "--records", "r", "--output", "o.csv"]),
        ("draw", ["--records", "r", "--record", "1", "--output", "o.txt"]),
    ],
)
def test_jobs_refuse_an_ending_before_they_look_at_anything_else(
    job: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib

    monkeypatch.syspath_prepend(str(REPOSITORY / "ray_jobs"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(importlib.import_module(job).app, arguments)
    assert done.exit_code == 2
    assert "the ending must be one of" in done.output and done.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_check_free_makes_nothing(tmp_path: Path) -> None:
    check_free("run_dir", tmp_path / "a" / "b", "run")
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)  # a disk of its own
    check_free("run_dir", tmp_path / "empty", "run")
    assert snapshot(tmp_path).keys() == {".", "empty", "empty/lost+found"}
