"""The experiment: one typed, validated description, read from YAML and ``--set key=value``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from enecg.errors import UserError, brief, did_you_mean
from enecg.evaluation.thresholds import Aim
from enecg.experts import RANDOM
from enecg.names import check_different, check_name
from enecg.paths import given, on_disk
from enecg.spaces import place_of_space
from enecg.storage import Folder, is_remote
from enecg.tasks import Task, task_from
from enecg.yaml_file import parse_yaml, read_yaml, unprintable

MOST_SECTIONS = 8
"""Parts of a key in ``--set``."""
SHOWN = 500
"""Characters; mistakes beyond the first are shown as long as they fit, the others counted."""

# The upper bounds are far above what anybody uses; beyond them lies a slip of the keyboard, and
# memory or time without end.
Positive = Annotated[int, Field(ge=1, le=100_000)]
Records = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Strength = Annotated[float, Field(ge=0, le=1_000_000)]
PathText = Annotated[str, AfterValidator(given)]
Head = Literal["ridge", "ffn", "trees", "gaussian", "laplacian"]
Heads = Annotated[list[Head], Field(min_length=1)]
OTHER_PREDICTORS = (
    "uniform", "stacking", "absolute_stacking", "gate", "ensemble", "deployed", "dummy"
)  # fmt: skip
"""What stands beside the experts in results."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        """No setting is a boolean; pydantic would take ``true`` for 1."""
        if isinstance(value, bool):
            raise ValueError("Input should be a number, a name or a path")
        return value


class ExpertSettings(_Section):
    """How one expert is used; every further key is an option of the expert itself."""

    model_config = ConfigDict(extra="allow", frozen=True)

    expert: str | None = None
    """Which expert it is; default: the one of the entry's own name. So one expert can stand there
    several times, under different names and with different settings."""
    weights: PathText | None = None
    """The authors' weights: a file or folder. Unset: those that come with a package, where there
    are such. random: random ones in any case."""
    adaptation: Literal["head", "head_lora", "lora", "full"] = "head"
    """What is trained: the head on a frozen backbone, …, or everything (from scratch without
    weights)."""
    lora_rank: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rank of LoRA, where the adaptation uses it."""
    heads: Heads | None = None
    """Heads tried on this expert, if frozen; unset: `stage1.heads`."""
    final: Literal["refit", "average"] | None = None
    """What predicts test groups: one model refitted on all training groups, or the inner models'
    mean. Unset: refit for frozen backbones, average for trained ones."""

    def backbone(self, name: str) -> str:
        """The expert that an entry called ``name`` uses."""
        return self.expert or name

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is, so that its features are computed once."""
        return self.adaptation in ("head", "head_lora")

    @property
    def builds_on_weights(self) -> bool:
        """Whether what was trained is of use only together with the weights it started from."""
        return self.adaptation != "full"

    @property
    def final_rule(self) -> Literal["refit", "average"]:
        """`final`, with its default put in."""
        return self.final or ("refit" if self.frozen else "average")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the expert itself."""
        return dict(self.model_extra or {})


class Stage1Settings(_Section):
    """Training of the experts."""

    epochs: Positive = 20
    """Most passes over the training records."""
    patience: Literal["none"] | Positive = 5
    """Early stopping: epochs without a better validation loss, on training records set aside for
    it. none: all epochs are trained, on all training records."""
    batch_size: Records = 256
    """Records per optimiser step, over all workers."""
    micro_batch: Literal["auto"] | Records = "auto"
    """Records that a worker passes through the model at a time; gradients add up to those of the
    batch. auto: its whole share, half of that after running out of device memory."""
    learning_rate: Rate = 1.0e-3
    weight_decay: Strength = 1.0e-2
    clip: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    """Largest norm of a model's gradient; each model (unit) is clipped by its own."""
    heads: Heads = ["ridge", "ffn"]
    """Heads tried on a frozen backbone; the best one per task is chosen on training groups."""
    head_trials: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Further feed-forward heads tried, drawn from `head_space`."""
    head_space: PathText = "tune_spaces/heads.yaml"
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: every class counts alike in the loss, however rare, in both stages; probabilities
    then are those of a population with equally many of each."""
    augment: list[Literal["lead_dropout", "crop", "scale", "noise", "wander"]] = []
    """Changes made to signals while a backbone is trained; see `enecg.stage1.augment`."""
    activation_checkpointing: Literal["none", "blocks"] = "none"
    """blocks: a trained backbone's blocks are computed again in the backward pass, not kept."""
    workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Ray Train workers per expert."""
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0, le=1000)] = "auto"
    """auto: where the cluster has GPUs, 1 for a backbone that is trained and 0.25 for heads on
    stored features; else 0. Above 1 only whole ones."""
    placement: Literal["pack", "spread", "strict_spread"] = "pack"
    """Where an expert's workers run: close together, apart, or each on a machine of its own."""
    feature_format: Literal["float32", "float16"] = "float32"
    """How features of frozen backbones are stored; float16 takes half the space."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of trained backbones; auto: bf16 on a GPU, else fp32. Heads on features are always fp32."""
    max_parallel: Literal["auto"] | Positive = "auto"
    """Most experts that train side by side; auto: as many as the cluster has room for."""
    checkpoint_seconds: Annotated[float, Field(ge=0, le=10_000_000)] = 30.0
    """Least time between two checkpoints of a training job."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _a_fraction_or_whole_gpus(cls, value: Any) -> Any:
        if value != "auto" and value > 1 and value != int(value):
            raise ValueError("Input should be a fraction up to 1 or a whole number of GPUs")
        return value


class GateSettings(_Section):
    """The search over gates."""

    space: PathText = "tune_spaces/gate.yaml"
    trials: Positive = 32
    """Gates that are tried, beside the plain ones; where the search is adaptive, in each scope."""
    searcher: Literal["random", "optuna"] = "random"
    """random: drawn up front from the seed. optuna: TPE; what it proposes depends on which trials
    happen to end first."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: trials that fall behind are stopped early; which ones depends on timing, too."""
    max_parallel: Literal["auto"] | Positive = "auto"
    """Trials side by side; auto: one per CPU."""


class EnsembleSettings(_Section):
    """The ensemble of the best trials."""

    size: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Members that greedy selection draws in each bag; and how many the mean of the best takes."""
    bags: Annotated[int, Field(ge=1, le=10_000)] = 5
    """Greedy selections, each among a random half of the trials (one: among all of them)."""
    threshold: str = "f1"
    """What decision thresholds are chosen for, on out-of-fold predictions of training groups: f1,
    youden, specificity=0.9, sensitivity=0.9, cost=5 (a missed case against a false alarm), or
    argmax for none. See `enecg.evaluation.thresholds`."""
    seen_subjects: Literal["scrypt", "none"] = "scrypt"
    """How a bundle keeps the ids of the subjects it learned from, so that evaluate.py can leave
    them out: scrypt (a slow salted hash, about 2 ms of CPU a subject), or not at all."""

    @field_validator("threshold")
    @classmethod
    def _an_aim(cls, value: str) -> str:
        Aim.read(value)
        return value


class Config(_Section):
    """One experiment; see ``ray_jobs/config/*.yaml`` for examples."""

    records: PathText
    """A record store: a folder, or a URI that fsspec opens, such as ``s3://bucket/store``."""
    features: PathText | None = None
    """The folder where computed features live; default: beside the record store, or inside
    `run_dir` where the record store is not on a disk."""
    run_dir: PathText
    tasks: Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=1000)]
    folds: Annotated[int, Field(ge=2, le=1000)] = 3
    fold_column: str | None = None
    """A column of the store's index with a published split; replaces `folds`."""
    inner_folds: Literal["outer"] | Annotated[int, Field(ge=2, le=1000)] = 3
    """outer: the other outer folds; a model that leaves out two of them serves both. Of k folds
    that makes k (k + 1) / 2 inner models instead of (k + 1) times `inner_folds`; inner models of
    what is judged have learned from k − 2 folds, of what is deployed from k − 1: best with 5 or
    more."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """How often the whole cross-validation is done, each time with other folds; see
    `docs/intervals.md`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    experts: Annotated[dict[str, ExpertSettings], Field(min_length=1, max_length=100)]
    stage1: Stage1Settings = Stage1Settings()
    gate: GateSettings = GateSettings()
    ensemble: EnsembleSettings = EnsembleSettings()

    @model_validator(mode="before")
    @classmethod
    def _empty_settings_are_defaults(cls, values: Any) -> Any:
        """``rocket:`` with nothing behind it means ``rocket: {}``; the same for sections."""
        if isinstance(values, dict):
            values = {
                key: {} if value is None and key in ("stage1", "gate", "ensemble") else value
                for key, value in values.items()
            }
            if isinstance(values.get("experts"), dict):
                values["experts"] = {
                    n: {} if s is None else s for n, s in values["experts"].items()
                }
        return values

    @field_validator("experts")
    @classmethod
    def _names_of_experts_are_names(
        cls, entries: dict[str, ExpertSettings]
    ) -> dict[str, ExpertSettings]:
        """Folders, columns and rows of tables are called by them."""
        try:
            for name in entries:
                check_name("an expert", name, OTHER_PREDICTORS)
            check_different("experts", entries)
        except UserError as error:
            raise ValueError(str(error)) from None
        return entries

    @property
    def task_list(self) -> list[Task]:
        """The tasks, in the config's order."""
        tasks = [task_from(entry) for entry in self.tasks]
        names = [task.name for task in tasks]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"tasks: {', '.join(repeated)} stands there more than once")
        check_different("tasks", names)
        return tasks

    def located(self) -> Config:
        """Return the same experiment with absolute paths: Ray's workers stand in other folders."""

        def absolute(path: str | None) -> str | None:
            return None if path is None else Folder.at(path).uri

        experts = {}
        for name, settings in self.experts.items():
            files = {}
            if settings.weights != RANDOM:
                files["weights"] = absolute(settings.weights)
            if isinstance(sizes := settings.options.get("config"), str):  # a file
                files["config"] = absolute(given(sizes))
            experts[name] = settings.model_copy(update=files)
        names = ("records", "features", "run_dir")
        places = {name: absolute(getattr(self, name)) for name in names}
        space = absolute(place_of_space(self.gate.space))
        gate = self.gate.model_copy(update={"space": space})
        space = absolute(place_of_space(self.stage1.head_space))
        stage1 = self.stage1.model_copy(update={"head_space": space})
        return self.model_copy(
            update={**places, "experts": experts, "gate": gate, "stage1": stage1}
        )

    @property
    def features_dir(self) -> Path:
        """The feature store's folder."""
        if self.features is not None:
            return Path(self.features)
        if is_remote(self.records):
            return Path(self.run_dir) / "features"
        records = Folder.at(self.records).path if "://" in self.records else Path(self.records)
        return records.with_name(records.name + ".features")


def load_config(path: Path, changes: list[str] | None = None) -> Config:
    """Read an experiment from YAML and apply ``key=value`` changes.

    Parameters
    ----------
    path : Path
        YAML file.
    changes : list of str, optional
        ``a.b=value``; values are YAML. Later ones win.

    Raises
    ------
    UserError
        Missing or broken file, unknown key (with the nearest known one), value not allowed.
    """
    values = read_yaml(on_disk("--config", path), "config")
    if not isinstance(values, dict):
        raise UserError(f"config: {brief(path)} must hold a mapping of settings, at its top level")
    for change in changes or []:
        _apply(values, change)
    return parse_config(values)


def parse_config(values: dict[str, Any]) -> Config:
    """Validate a nested dict of settings (what `load_config` does after reading)."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        by_key: dict[tuple[str, ...], list[Any]] = {}
        for one in error.errors():
            parts = tuple(map(str, one["loc"]))
            if one["type"] != "extra_forbidden":  # its last part is what the user wrote
                parts = tuple(part for part in parts if not _BRANCH.match(part))
            key = parts
            by_key.setdefault(key, []).append(one)
        raise UserError("config: " + _explained(by_key)) from None
    for name in ("features", "run_dir"):
        if "://" in (place := str(getattr(config, name))):
            raise UserError(
                f"config: {name}: {brief(place, quoted=False)}: give a folder on a disk; only "
                "records may be a URI"
            )
    if config.repeats > 1 and config.fold_column is not None:
        raise UserError(
            f"config: repeats: {config.repeats} goes with drawn folds; those of fold_column "
            f"{brief(config.fold_column)} are given and cannot be drawn anew: leave one of them out"
        )
    _ = config.task_list  # unknown tasks are refused here, not an hour later
    return config


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    where = f"--set {brief(change)}"
    if not equals or not key.strip():
        raise UserError(f"{where}: write key=value, for example stage1.epochs=5")
    *sections, last = key.strip().split(".")
    if len(sections) >= MOST_SECTIONS:
        raise UserError(f"{where}: no setting stands {len(sections):,} sections deep")
    if (character := unprintable(key)) is not None:
        raise UserError(f"{where}: the key holds the character {character}")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise UserError(f"{where}: {brief(section, quoted=False)} is a value, not a section")
        values = inner
    try:
        values[last] = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{where}: {brief(text)} is not valid YAML here: {error}") from None


_BRANCH = re.compile(r"literal\[|constrained-|dict\[|str$|\[key\]$")
"""What pydantic puts into an error's place for the branch of a union that it tried."""


def _explained(by_key: dict[tuple[str, ...], list[Any]]) -> str:
    """The mistakes of a config in one line: the first ones, and how many more there are."""
    said: list[str] = []
    length = 0
    for key, errors in by_key.items():
        phrase = _explain(key, errors)
        length += len(phrase)
        if said and length > SHOWN:
            return "; ".join([*said, f"and {len(by_key) - len(said)} more mistakes"])
        said.append(phrase)
    return "; ".join(said)


def _explain(location: tuple[str, ...], errors: list[Any]) -> str:
    """One key's validation errors as a phrase that names the key and what is allowed."""
    error, where = errors[0], brief(".".join(location), quoted=False)
    if error["type"] == "extra_forbidden":
        known = _keys_of(location[:-1])
        return (
            f"unknown key '{where}'{did_you_mean(location[-1], known)}; "
            f"allowed{' in ' + '.'.join(location[:-1]) if location[1:] else ''}: {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{where} is missing"
    said = [one["msg"].removeprefix("Value error, ") for one in errors]
    wanted = [message.removeprefix("Input should be ") for message in said]
    if error["type"] == "value_error" and wanted[0] == said[0]:
        return f"{where}: {said[0]}"
    if wanted[0] == error["msg"]:
        return f"{where}: {error['msg']}, not {brief(error['input'])}"
    allowed = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", " or ".join(wanted))
    return f"{where} should be {allowed}, not {brief(error['input'])}"


def _keys_of(section: tuple[str, ...]) -> list[str]:
    """The settings a section may hold."""
    model: Any = Config
    for part in section:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
