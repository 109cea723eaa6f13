"""``dataset.json``: what it must say for its folder to be taken for a record store."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from enecg.checked_files import KEY, DamagedFile, parse_sealed_json
from enecg.errors import UserError
from enecg.names import STORE_FILE

FORMAT = "enecg-records"
FORMAT_VERSION = 2
"""Version 1 carried no checksum of its own and is read as well; else it is the same."""
DESCRIPTION, INDEX, REJECTED = "dataset.json", "index.parquet", "rejected.parquet"

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=rf"^({STORE_FILE})$")]
"""A plain name inside the folder, of a kind that stores hold; nothing leads out of it."""


class _Counts(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    listed: Count
    accepted: Count
    rejected: Count
    subjects: Count
    groups: Count
    rejected_by_reason: dict[str, Count]
    changed: dict[str, Count]


class _Description(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    enecg: str
    source: str
    counts: _Counts
    labels: dict[str, dict[str, Any]]
    metadata: list[str]
    files: dict[FileName, Sha256]


def parse_description(content: bytes, place: str) -> dict[str, Any]:
    """Return what a store's ``dataset.json`` says.

    Parameters
    ----------
    content : bytes
        Of the file.
    place : str
        Where it is, for messages.

    Raises
    ------
    UserError
        Another format, a damaged file, names of files that no store has, or counts that
        contradict each other.
    """
    try:
        found: Any = json.loads(content)
        version = found["format_version"] if found["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise UserError(f"{place}: not a record store of format version {FORMAT_VERSION}")
    try:
        _Description.model_validate(found)
    except (ValidationError, RecursionError) as error:
        raise UserError(f"{place}: {_first_problem(error)}") from None
    counts, files = found["counts"], found["files"]
    if lacking := {INDEX, REJECTED} - set(files):
        raise UserError(f"{place}: files does not name {min(lacking)}")
    if counts["accepted"] + counts["rejected"] != counts["listed"]:
        raise UserError(
            f"{place}: counts: {counts['accepted']} accepted and {counts['rejected']} rejected "
            f"records are not the {counts['listed']} listed"
        )
    if version > 1 or KEY in found:
        try:
            return parse_sealed_json(content, place)
        except DamagedFile as error:
            raise UserError(
                f"{place} {error.problem}: bring the file back, or make the record store again"
            ) from None
    return dict(found)


def _first_problem(error: ValidationError | RecursionError) -> str:
    """Say in a line what pydantic found first."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")[:80]
    given = repr(first["input"])[:80]
    if "[key]" in first["loc"]:
        return f"files may not name {given}; only shard-NNNNN.parquet, {INDEX} and {REJECTED}"
    if first["type"] == "missing":
        return f"lacks {where}"
    return f"{where}: {first['msg'].lower()}, not {given}"
