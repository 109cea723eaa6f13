"""The sizes of a backbone, as its authors' configuration gives them, checked before it is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from enecg.errors import UserError, did_you_mean, one_line


class Sizes(BaseModel):
    """Base class of a backbone's sizes; the defaults are the published ones.

    Fields bear the names of the authors' configuration. A subclass whose authors keep more in it
    than sizes lists what it ignores, or sets ``extra="ignore"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        where += f" {config}"
        try:
            values = json.loads(Path(config).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{where}: no such file") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{where}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: must be a mapping of sizes, or a JSON file that holds one")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(f"{where}: {_explained(error, kind)}") from None


def _explained(error: ValidationError, kind: type[Sizes]) -> str:
    """Say what is wrong with the first size that is."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"unknown key {key!r}{did_you_mean(key, known)} (allowed: {', '.join(known)})"
    what = first["msg"].removeprefix("Value error, ")
    return f"{key}: {what}, not {first['input']!r}" if key else what
