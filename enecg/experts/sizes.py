"""The sizes of a backbone, as its authors' configuration gives them, checked before it is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from enecg.errors import UserError, brief, did_you_mean, one_line
from enecg.yaml_file import read_text

LARGEST_FILE = 1 << 20
"""Bytes of a configuration; published ones stay below 10,000."""

# Far above every published backbone; products of them are bounded where one is built.
WIDEST = 32_768
Width = Annotated[int, Field(ge=1, le=WIDEST)]
"""Channels, numbers per token, heads."""
Depth = Annotated[int, Field(ge=1, le=512)]
"""Layers."""
Length = Annotated[int, Field(ge=1, le=1_000_000)]
"""Samples, tokens, entries of a table."""
Small = Annotated[float, Field(gt=0, le=1e6)]
"""A factor or a constant."""
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Sizes(BaseModel):
    """Base class of a backbone's sizes; the defaults are the published ones.

    Fields bear the names of the authors' configuration. A subclass whose authors keep more in it
    than sizes lists what it ignores, or sets ``extra="ignore"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would take ``true`` for 1."""
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else None
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError("Input should be a number")
        return value


SizesType = TypeVar("SizesType", bound=Sizes)


def read_sizes(
    expert: str, kind: type[SizesType], config: str | Path | Mapping[str, Any] | None
) -> SizesType:
    """Turn an expert's ``config`` option into sizes.

    Parameters
    ----------
    expert : str
        Its name, for the message.
    kind : type
        Which sizes it has.
    config : str, Path, mapping or None
        None: the published sizes. Else a JSON file's path or a mapping; what it leaves out is as
        published.

    Raises
    ------
    UserError
        If the file is missing or no JSON object, or a size is unknown or impossible.
    """
    where = f"expert {expert}: config"
    values: Any = {} if config is None else config
    if isinstance(config, str | Path):
        where += f" {brief(config, quoted=False)}"
        values = _json(Path(config), where)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: must be a mapping of sizes, or a JSON file that holds one")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {_explained(error, kind)}") from None


def _json(path: Path, where: str) -> Any:
    try:
        return json.loads(read_text(path, LARGEST_FILE))
    except FileNotFoundError:
        raise UserError(f"{where}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        told = brief(one_line(error), quoted=False)
        raise UserError(f"{where}: not readable as JSON: {told}") from None


def _explained(error: ValidationError, kind: type[Sizes]) -> str:
    """Say what is wrong with the first size that is."""
    first = error.errors()[0]
    key = brief(".".join(map(str, first["loc"])), quoted=False)
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"unknown key '{key}'{did_you_mean(key, known)} (allowed: {', '.join(known)})"
    what = first["msg"].removeprefix("Value error, ")
    return f"{key}: {what}, not {brief(first['input'])}" if key else what
