"""Names that become folders and columns: checked in configs, bundles and stores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from enecg.bundle import Bundle, load_bundles
from enecg.checked_files import read_sealed_json, write_sealed_json
from enecg.config import OTHER_PREDICTORS, parse_config
from enecg.errors import UserError
from enecg.names import check_class_name, check_different, check_fold_name, check_name, shown
from enecg.nested import nested_folds
from enecg.records import RecordStore
from enecg.tasks import TASKS, task_from
from models import bundle
from runs import settings

GOOD = ["age", "a", "9", "a.b", "v1.2-beta", "a-b_c", "_x", "A" * 64, "rr_interval", "a_", "a-"]
BAD = [
    "", ".", "..", ".hid", "a.", "a/b", "/etc", "../../x", "a\\b", "a b", " a", "a+b", "a__b",
    "__p__", "-rf", "a" * 65, "a" * 300, "a\0b", "a\x1b[31m", "a\nb", "a\n", "\ud800", "größe",
    "a:b", "a?b", "*", "~", "$HOME", "a;b", "a'b",
]  # fmt: skip


def told(error: Any) -> str:
    """What an error says: one line, short, and such that any terminal shows it."""
    text = str(error.value)
    assert text.isprintable() and len(text) < 400
    return text


@pytest.mark.parametrize("name", GOOD)
def test_good_names_are_taken(name: str) -> None:
    check_name("an expert", name)
    assert task_from({name: {"kind": "regression"}}).name == name


@pytest.mark.parametrize("name", BAD, ids=repr)
def test_bad_names_are_refused_in_a_config(name: str) -> None:
    for entry in ({name: {"kind": "regression"}}, name):
        with pytest.raises(UserError) as error:
            parse_config(settings(Path("s"), Path("r")) | {"tasks": [entry]})
        assert "plain letters, digits" in told(error)
    with pytest.raises(UserError) as error:
        parse_config(settings(Path("s"), Path("r")) | {"experts": {name: {"expert": "rocket"}}})
    assert "plain letters, digits" in told(error)


@pytest.mark.parametrize("name", ["record_id", "subject_id", "Record_ID"])
def test_columns_of_identifiers_are_no_tasks(name: str) -> None:
    with pytest.raises(UserError, match="results use it otherwise"):
        task_from({name: {"kind": "regression"}})


@pytest.mark.parametrize("name", [*OTHER_PREDICTORS, "absolute_stacking", "deployed", "Ensemble"])
def test_rows_of_results_are_no_experts(name: str) -> None:
    with pytest.raises(UserError, match=r"experts: .*results use it otherwise"):
        parse_config(settings(Path("s"), Path("r")) | {"experts": {name: {"expert": "rocket"}}})


def test_names_that_are_one_folder_on_some_disks_are_refused() -> None:
    values = settings(Path("s"), Path("r"))
    with pytest.raises(UserError, match="'Rocket' and 'rocket' differ only"):
        parse_config(values | {"experts": {"Rocket": {"expert": "rocket"}, "rocket": {}}})
    with pytest.raises(UserError, match="'age' and 'Age' differ only"):
        parse_config(values | {"tasks": ["age", {"Age": {"kind": "regression"}}]})
    check_different("tasks", ["a", "b", "a"])


@pytest.mark.parametrize("name", ["AV block, 2°", "=SUM(A1)", "[red]", "a/b", "..", "否", "x" * 64])
def test_any_printable_text_is_a_class(name: str) -> None:
    task = task_from({"t": {"kind": "classification", "classes": [name, "SR"]}})
    assert task.classes == (name, "SR")


@pytest.mark.parametrize(
    "name", ["", "  ", "x" * 65, "a\nb", "a\tb", "a\0", "\x1b[2J", "\ud83d", "\u202egpj", 1, None]
)
def test_what_does_not_print_is_no_class(name: Any) -> None:
    with pytest.raises(UserError, match="no name for a class; allowed: printable") as error:
        check_class_name("t", name)
    told(error)
    with pytest.raises(UserError):
        task_from({"t": {"kind": "classification", "classes": [name, "SR"]}})


def test_a_unit_prints() -> None:
    with pytest.raises(UserError, match="no unit"):
        task_from({"t": {"kind": "regression", "unit": "\x1b[31mms"}})


@pytest.mark.parametrize("name", ["0", "10", "-1", "1.5", "val", "fold 3", "2020-01"])
def test_published_folds_are_called_as_people_call_them(name: str) -> None:
    check_fold_name("strat_fold", name)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/", ".", "..", ".git", "", " ", "a+b", "x" * 65, "a\0", "é", "a\n"]
)
def test_a_fold_that_is_no_folder_is_refused(name: str) -> None:
    index = pd.DataFrame({"group_id": list("abcdef") * 10, "split": (["0", "1"] * 3) * 10})
    index["split"] = index["split"].replace("1", name)
    config = parse_config(settings(Path("s"), Path("r")) | {"fold_column": "split"})
    with pytest.raises(UserError, match="fold_column split: a fold is called") as error:
        nested_folds(index, config)
    told(error)


def test_long_names_are_cut_in_messages() -> None:
    assert len(shown("x" * 10_000)) < 100
    assert shown("a\x1b") == r"'a\x1b'"


def crafted(tmp_path: Path, change: Any) -> Path:
    """A bundle whose description was changed by somebody who wrote a fitting checksum into it."""
    folder = tmp_path / "bundle" / "age"
    bundle(TASKS["age"]).save(folder)
    description = read_sealed_json(folder / "bundle.json")
    change(description)
    write_sealed_json(folder / "bundle.json", description)
    return folder


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "", "record_id", "a__p__b", 7, None, ["a"]])
def test_a_crafted_bundle_names_no_other_task(tmp_path: Path, name: Any) -> None:
    folder = crafted(tmp_path, lambda d: d["task"].update(name=name))
    with pytest.raises(UserError, match=r"this bundle is damaged.*no name for a task"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../../../secret", "/tmp/x", ".", "a+b", 7])
def test_a_crafted_bundle_leads_to_no_other_folder(tmp_path: Path, name: Any) -> None:
    def change(description: dict[str, Any]) -> None:
        description["experts"][name] = description["experts"].pop("rocket")
        description["expert_names"] = [name, "dlinear"]

    folder = crafted(tmp_path, change)
    with pytest.raises(UserError, match=r"this bundle is damaged.*no name for an expert"):
        Bundle.load(folder, every_expert=True)


def test_a_crafted_bundle_has_no_classes_that_do_not_print(tmp_path: Path) -> None:
    folder = tmp_path / "gender"
    bundle(TASKS["gender"]).save(folder)
    text = json.dumps(read_sealed_json(folder / "bundle.json"))
    changed = json.loads(text.replace('"female"', r'"\u001b[2J"'))
    write_sealed_json(folder / "bundle.json", changed)
    with pytest.raises(UserError, match="no name for a class") as error:
        Bundle.load(folder)
    told(error)


def test_two_bundles_of_one_task_do_not_overwrite_each_others_columns(tmp_path: Path) -> None:
    bundle(TASKS["age"]).save(tmp_path / "age")
    shutil.copytree(tmp_path / "age", tmp_path / "age copy")
    with pytest.raises(UserError, match="several bundles of one task"):
        load_bundles(tmp_path)


def test_a_store_lists_files_of_its_own_alone(synthetic_store: RecordStore, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for strange in ("../secret.parquet", "/etc/passwd", "shard-1/../../x.parquet", "shard-x", ""):
        shutil.copytree(synthetic_store.path, store)
        description = read_sealed_json(store / "dataset.json")
        description["files"][strange] = "0" * 64
        write_sealed_json(store / "dataset.json", description)
        with pytest.raises(UserError, match=r"dataset.json: files may not name"):
            RecordStore.open(store)
        shutil.rmtree(store)


def test_an_index_names_no_other_file(synthetic_store: RecordStore, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(synthetic_store.path, store)
    table = pq.read_table(store / "index.parquet").to_pandas()
    table["shard"] = "../../secret.parquet"
    table.to_parquet(store / "index.parquet")
    with pytest.raises(UserError, match=r"none of its files|damaged"):
        RecordStore.open(store)
