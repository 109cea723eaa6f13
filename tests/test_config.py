"""The experiment's config: what it reads, what ``--set`` changes, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from enecg.config import Config, load_config, parse_config
from enecg.errors import UserError, exit_code_of
from enecg.experiment import check_experts
from enecg.stage1.head_space import head_choices

SHIPPED = sorted((Path(__file__).parents[1] / "ray_jobs" / "config").glob("*.yaml"))


def values(**changes: Any) -> dict[str, Any]:
    return {
        "records": "data/x", "run_dir": "runs/x", "tasks": ["age"], "experts": {"rocket": {}},
    } | changes  # fmt: skip


def with_changes(folder: Path, *changes: str) -> Config:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values()))
    return load_config(path, list(changes))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(path)
    assert config.task_list
    assert len(head_choices(config.stage1, config.seed)) == 1 + config.stage1.head_trials
    assert len(SHIPPED) >= 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_use_experts_as_they_may_be_used(path: Path) -> None:
    config = load_config(path)
    if all(settings.weights is None for settings in config.experts.values()):
        check_experts(config)


def test_heads_of_a_backbone_that_is_trained_are_refused() -> None:
    trained = {"dlinear": {"adaptation": "full", "heads": ["ffn"]}}
    with pytest.raises(UserError, match=r"experts\.dlinear: heads are chosen on a frozen backbone"):
        check_experts(parse_config(values(experts=trained)))


def test_the_order_of_experts_and_tasks_is_kept() -> None:
    config = parse_config(values(experts={"z": {}, "a": None}, tasks=["gender", "age"]))
    assert list(config.experts) == ["z", "a"]
    assert [task.name for task in config.task_list] == ["gender", "age"]


def test_an_expert_can_stand_there_twice_under_names_of_its_own() -> None:
    config = parse_config(
        values(
            tasks=["age"],
            experts={"rocket": {}, "slopes": {"expert": "rocket", "signal": "difference"}},
        )
    )
    assert [s.backbone(name) for name, s in config.experts.items()] == ["rocket", "rocket"]
    assert config.experts["slopes"].options == {"signal": "difference"}
    check_experts(config)


def test_what_an_entry_of_another_name_gets_wrong_is_told_with_that_name() -> None:
    unknown = values(experts={"slopes": {"expert": "rokcet"}})
    with pytest.raises(UserError, match="unknown expert 'rokcet', did you mean 'rocket'"):
        check_experts(parse_config(unknown))
    option = values(experts={"slopes": {"expert": "rocket", "singal": "raw"}})
    with pytest.raises(UserError, match=r"'experts\.slopes\.singal', did you mean 'signal'"):
        check_experts(parse_config(option))


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values()) + "stage1:\ngate:\nensemble:\n")
    assert load_config(path) == parse_config(values())


@pytest.mark.parametrize(
    ("change", "read", "wanted"),
    [
        ("stage1.epochs=3", lambda c: c.stage1.epochs, 3),
        ("stage1.learning_rate=1e-4", lambda c: c.stage1.learning_rate, 1e-4),
        ("stage1.heads=[ffn]", lambda c: c.stage1.heads, ["ffn"]),
        ("stage1.gpus_per_worker=0.5", lambda c: c.stage1.gpus_per_worker, 0.5),
        ("tasks=[gender]", lambda c: c.tasks, ["gender"]),
        ("experts.rocket.kernels=84", lambda c: c.experts["rocket"].options, {"kernels": 84}),
        ("experts.dlinear.adaptation=full", lambda c: list(c.experts), ["rocket", "dlinear"]),
        ("fold_column=strat_fold", lambda c: c.fold_column, "strat_fold"),
        ("features=null", lambda c: c.features, None),
        ("run_dir=a=b", lambda c: c.run_dir, "a=b"),
        (" seed =7", lambda c: c.seed, 7),
    ],
)
def test_set_reads_values_as_yaml(change: str, read: Any, wanted: Any, tmp_path: Path) -> None:
    assert read(with_changes(tmp_path, change)) == wanted


@pytest.mark.parametrize("word", ["false", "False", "no", "off"])
def test_a_boolean_that_is_set_to_false_is_false(word: str, tmp_path: Path) -> None:
    """In the authors' code ``--use_lora False`` was True."""
    option = with_changes(tmp_path, f"experts.rocket.flag={word}").experts["rocket"].options
    assert option["flag"] is False
    task = "tasks=[{qt: {kind: regression, from_r_peaks: " + word + "}}]"
    assert with_changes(tmp_path, task).task_list[0].from_r_peaks is False


def test_of_two_changes_the_later_one_counts(tmp_path: Path) -> None:
    assert with_changes(tmp_path, "seed=1", "seed=2").seed == 2


MISTAKES: list[tuple[str, list[str]]] = [
    ("stage1.epoch=3", ["'stage1.epoch'", "did you mean 'epochs'?", "patience", "zero_stage"]),
    ("reocrds=x", ["'reocrds'", "did you mean 'records'?", "run_dir"]),
    ("gate.size=3", ["'gate.size'", "allowed in gate: space, trials"]),
    ("stage1.epochs=0", ["stage1.epochs", "greater than or equal to 1", "not 0"]),
    ("stage1.epochs=1.5", ["stage1.epochs", "integer", "1.5"]),
    ("stage1.epochs=true", ["stage1.epochs", "should be a number", "not True"]),
    ("seed=no", ["seed", "should be a number", "not False"]),
    ("seed=-1", ["seed", "greater than or equal to 0", "-1"]),
    ("stage1.learning_rate=.nan", ["stage1.learning_rate", "finite"]),
    ("stage1.learning_rate=.inf", ["stage1.learning_rate", "finite"]),
    ("stage1.zero_stage=4", ["stage1.zero_stage should be 0, 1, 2 or 3, not 4"]),
    ("stage1.precision=fp16", ["stage1.precision should be 'auto', 'fp32' or 'bf16', not 'fp16'"]),
    ("stage1.max_parallel=0", ["stage1.max_parallel should be 'auto' or greater than or equal to"]),
    ("stage1.gpus_per_worker=many", ["stage1.gpus_per_worker should be 'auto' or a valid number"]),
    ("stage1.patience=0", ["stage1.patience should be 'none' or greater than or equal to 1"]),
    ("experts.rocket.heads=[]", ["experts.rocket.heads", "at least 1"]),
    (
        "stage1.heads=[linear]",
        ["stage1.heads.0 should be 'ridge', 'ffn', 'trees',", "not 'linear'"],
    ),
    ("stage1.heads=[]", ["stage1.heads", "at least 1"]),
    ("stage1=3", ["stage1 should be a mapping, not 3"]),
    ("experts=[rocket]", ["experts should be a mapping"]),
    ("experts={}", ["experts", "at least 1"]),
    ("experts.rocket=3", ["experts.rocket should be a mapping, not 3"]),
    ("experts.rocket.adaptation=all", ["experts.rocket.adaptation", "'head_lora'", "'full'"]),
    ("experts.rocket.final=mean", ["experts.rocket.final", "'refit' or 'average'"]),
    ("experts={a+b: {expert: rocket}}", ["experts", "'a+b'", "letters, digits, - and _"]),
    ("experts={gate: {expert: rocket}}", ["experts", "'gate' is no name for an expert"]),
    ("folds=1", ["folds", "greater than or equal to 2"]),
    ("records=null", ["records", "string", "None"]),
    ("tasks=age", ["tasks", "list", "'age'"]),
    ("tasks=[]", ["tasks", "at least 1"]),
    ("tasks=[3]", ["tasks.0", "a mapping, not 3"]),
    ("tasks=[age, age]", ["tasks: age stands there more than once"]),
    ("tasks=[agee]", ["tasks", "'agee'", "did you mean 'age'?", "rr_interval", "kind"]),
    ("tasks.0=age", ["--set 'tasks.0=age'", "tasks is a value"]),
    ("run_dir.x=1", ["--set 'run_dir.x=1'", "run_dir is a value"]),
    ("stage1.epochs", ["--set 'stage1.epochs'", "key=value"]),
    ("=3", ["--set '=3'", "key=value"]),
    ("seed=[1", ["--set 'seed=[1'", "not valid YAML"]),
]


@pytest.mark.parametrize(("change", "told"), MISTAKES, ids=[change for change, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line_that_names_the_key_and_what_is_allowed(
    change: str, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> None:
        with_changes(tmp_path, change)

    assert exit_code_of(job) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for part in told:
        assert part in message
    for internal in ("literal[", "constrained-", "dict[", "Settings", "Value error", "Traceback"):
        assert internal not in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no file"),
        ("records: [a", "cannot read"),
        ("- records", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("records: a\nrun_dir: b\nexperts: {rocket: }\n", "tasks is missing"),
        (b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    text: str | bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def job() -> None:
        load_config(path)

    assert exit_code_of(job) == 2
    message = capsys.readouterr().err
    assert told in message
    assert message.count("\n") == 1


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot read {tmp_path}"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "refit"),
        ({"adaptation": "head_lora"}, "refit"),
        ({"adaptation": "lora"}, "average"),
        ({"adaptation": "full"}, "average"),
        ({"final": "average"}, "average"),
        ({"adaptation": "full", "final": "refit"}, "refit"),
    ],
)
def test_trained_backbones_are_averaged_unless_said_otherwise(
    settings: dict[str, str], rule: str
) -> None:
    assert parse_config(values(experts={"x": settings})).experts["x"].final_rule == rule


def test_located_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(
        values(
            records="stores/x",
            gate={"space": "spaces/gate.yaml"},
            experts={
                "moment": {"weights": "weights/moment", "width": 3},
                "rocket": {},
                "ecg-fm": {"config": "sizes.json"},
                "ecgfounder": {"config": {"stride": 4}},
            },
        )
    )
    monkeypatch.chdir(tmp_path)
    located = config.located()
    monkeypatch.chdir("/")
    assert located.records == str(tmp_path / "stores/x")
    assert located.features is None
    assert located.run_dir == str(tmp_path / "runs/x")
    assert located.gate.space == str(tmp_path / "spaces/gate.yaml")
    assert located.experts["moment"].weights == str(tmp_path / "weights/moment")
    assert located.experts["moment"].options == {"width": 3}
    assert located.experts["rocket"].weights is None
    assert located.experts["ecg-fm"].options == {"config": str(tmp_path / "sizes.json")}
    assert located.experts["ecgfounder"].options == {"config": {"stride": 4}}
    assert located.located() == located
    assert parse_config(located.model_dump()) == located, "what workers get is a whole config"


def test_features_stand_beside_the_records_unless_given() -> None:
    assert parse_config(values()).features_dir == Path("data/x.features")
    assert parse_config(values(features="elsewhere")).features_dir == Path("elsewhere")


def test_records_may_be_an_address_features_and_run_dir_not(tmp_path: Path) -> None:
    config = parse_config(values(records="s3://bucket/store"))
    assert config.located().records == "s3://bucket/store"
    assert config.features_dir == Path(config.run_dir) / "features"
    local = parse_config(values(records=f"file://{tmp_path}/store"))
    assert local.located().records == str(tmp_path / "store")
    assert local.features_dir == tmp_path / "store.features"
    for name in ("features", "run_dir"):
        with pytest.raises(UserError, match=rf"{name}: s3://b/x: give a folder on a disk"):
            parse_config(values(**{name: "s3://b/x"}))


def test_an_expert_set_to_false_is_not_switched_on() -> None:
    with pytest.raises(UserError, match=r"experts\.rocket"):
        parse_config(values(experts={"rocket": False}))
