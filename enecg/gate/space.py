"""Search spaces of gates: YAML that reads at a glance, drawn from up front by the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from enecg.errors import UserError, did_you_mean
from enecg.signals import LEADS, lead_position
from enecg.spaces import FORMS, draw

LEAD_GROUPS = {
    "limb": LEADS[:3],
    "augmented": LEADS[3:6],
    "precordial": LEADS[6:],
    "rhythm": ("II", "V1", "V5"),
    "all": LEADS,
}
"""Names that stand for several leads; ``rhythm`` are the usual rhythm strips."""


class GateChoice(BaseModel):
    """One gate that a trial tries."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    leads: tuple[str, ...]
    """The leads it looks at."""
    experts: tuple[str, ...] = Field(min_length=1)
    """The experts it weighs."""
    depth: int = Field(ge=0, le=8)
    """Hidden layers."""
    width: int = Field(ge=1)
    """Their width."""
    dropout: float = Field(ge=0, lt=1)
    temperature: float = Field(gt=0)
    """Divides the logits before the softmax."""
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    epochs: int = Field(ge=0)

    @field_validator("leads", mode="before")
    @classmethod
    def _leads_by_name(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = "+".join(map(str, value))
        return leads_named(value) if isinstance(value, str) else value


def leads_named(text: str) -> tuple[str, ...]:
    """Return the leads that a name, a group's name or names joined by ``+`` stand for.

    Raises
    ------
    UserError
        A name is neither a lead nor a group of leads.
    """
    wanted: set[str] = set()
    for name in text.split("+"):
        if (place := lead_position(name)) is not None:
            wanted.add(LEADS[place])
        elif name.strip().lower() in LEAD_GROUPS:
            wanted.update(LEAD_GROUPS[name.strip().lower()])
        else:
            known = [*LEADS, *LEAD_GROUPS]
            raise UserError(
                f"leads: no lead or group {name.strip()!r}{did_you_mean(name.strip(), known)}; "
                f"known: {', '.join(known)}"
            )
    return tuple(lead for lead in LEADS if lead in wanted)


def plain_choices(experts: list[str]) -> list[GateChoice]:
    """Return the gates that look at nothing: each expert alone, and all of them alike.

    They are always among a search's trials, so that its best ones are no worse, on training
    groups, than what needs no gate.
    """
    subsets = [(name,) for name in experts] + ([tuple(experts)] if len(experts) > 1 else [])
    return [
        GateChoice(
            leads=("II",), experts=subset, depth=0, width=1, dropout=0.0, temperature=1.0,
            learning_rate=1e-3, weight_decay=0.0, epochs=0,
        )
        for subset in subsets
    ]  # fmt: skip


def draw_trials(path: Path, experts: list[str], trials: int, seed: int) -> list[GateChoice]:
    """Draw a number of gates from a space.

    Parameters
    ----------
    path : Path
        YAML file, in the form that ``tune_spaces/gate.yaml`` explains.
    experts : list of str
        The experts there are.
    trials : int
    seed : int
        The n-th trial depends on the seed and n alone.

    Raises
    ------
    UserError
        Missing file, unknown key or form, or a value that is not allowed.
    """
    try:
        space = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"gate.space: no file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"gate.space: cannot read {path}: {error}") from None
    known = list(GateChoice.model_fields)
    if not isinstance(space, dict):
        raise UserError(f"gate.space: {path} must map {', '.join(known)} to values")
    for key in space:
        if key not in known:
            raise UserError(
                f"gate.space: unknown key {key!r} in {path}{did_you_mean(str(key), known)}; "
                f"allowed: {', '.join(known)}"
            )
    if missing := [key for key in known if key not in space]:
        raise UserError(f"gate.space: {path} lacks {', '.join(missing)}")
    drawn = []
    for number in range(trials):
        random = np.random.default_rng([seed, number])
        values = {key: _draw(key, space[key], experts, random, path) for key in known}
        try:
            drawn.append(GateChoice.model_validate(values))
        except UserError as error:
            raise UserError(f"gate.space: {path}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"gate.space: {path}: {where}: {first['msg']}, not {first['input']!r}"
            ) from None
    return drawn


def _draw(key: str, form: Any, experts: list[str], random: np.random.Generator, path: Path) -> Any:
    """One value of one key."""
    where = f"gate.space: {path}: {key}"
    if not isinstance(form, dict):
        form = {"choose": [form]} if key != "experts" else {"subset_of": form, "size": None}
    try:
        if key == "experts" and set(form) == {"subset_of", "size"}:
            return _subset(form["subset_of"], form["size"], experts, random, where)
        value = draw(form, random)
        return tuple(_members(value, experts, where)) if key == "experts" else value
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(
        f"{where}: {form!r} is none of {FORMS}, "
        "{subset_of: …, size: [least, most]} (experts only)"
    )


def _subset(
    pool: Any, size: Any, experts: list[str], random: np.random.Generator, where: str
) -> tuple[str, ...]:
    members = _members(pool, experts, where)
    least, most = (len(members), len(members)) if size is None else size
    count = int(random.integers(min(least, len(members)), min(most, len(members)) + 1))
    chosen = random.choice(len(members), size=count, replace=False)
    return tuple(name for place, name in enumerate(members) if place in set(chosen.tolist()))


def _members(pool: Any, experts: list[str], where: str) -> list[str]:
    """The experts that ``all``, a name or a list of names stands for."""
    if pool == "all":
        return experts
    members = [pool] if isinstance(pool, str) else list(pool)
    for name in members:
        if name not in experts:
            raise UserError(
                f"{where}: no expert {name!r} in this experiment"
                f"{did_you_mean(str(name), [*experts, 'all'])}; there are: {', '.join(experts)}"
            )
        if members.count(name) > 1:
            raise UserError(f"{where}: {name} stands there more than once")
    return members
