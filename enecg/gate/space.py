"""Search spaces of gates: YAML that reads at a glance, and what may be drawn from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from enecg.errors import UserError, brief, did_you_mean
from enecg.signals import LEADS, lead_position
from enecg.spaces import (
    FORMS,
    Chance,
    Source,
    corners,
    draw,
    place,
    place_of_space,
    read_space,
    values,
)

LEAD_GROUPS = {
    "limb": LEADS[:3],
    "augmented": LEADS[3:6],
    "precordial": LEADS[6:],
    "rhythm": ("II", "V1", "V5"),
    "all": LEADS,
}
"""Names that stand for several leads; ``rhythm`` are the usual rhythm strips."""


ANY = {"any", "of"}
"""The form that some leads, or experts, have beside `spaces.FORMS`."""

REPEATS = 1000
"""Draws in a row that bring nothing new, after which no more are made."""


class GateChoice(BaseModel):
    """One gate that a trial tries."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    leads: tuple[str, ...]
    """The leads it looks at."""
    experts: tuple[str, ...] = Field(min_length=1)
    """The experts it weighs."""
    encoder: Literal["mlp", "conv"] = "mlp"
    """What reads the leads: dense layers on all samples, or on the mean and maximum over time of
    a convolution."""
    joined: Literal["nothing", "outputs", "features"] = "nothing"
    """What the gate sees beside the leads: of its experts, the outputs or a few numbers that sum
    up the features."""
    depth: int = Field(ge=0, le=8)
    """Hidden dense layers."""
    width: int = Field(ge=1, le=8192)
    """Their width, and the convolution's."""
    dropout: float = Field(ge=0, lt=1)
    temperature: float = Field(gt=0, le=1e6)
    """Divides the logits before the softmax."""
    top_k: int = Field(default=0, ge=0, le=100_000)
    """Experts that keep a weight, record by record; 0: all of them."""
    weights_per: Literal["record", "class"] = "record"
    """Whether each class of a task has weights of its own."""
    mix: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged for classes; values are averaged as they are."""
    balance: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of the load-balancing term in the loss."""
    learning_rate: float = Field(gt=0, le=1000)
    weight_decay: float = Field(ge=0, le=1e6)
    epochs: int = Field(ge=0, le=100_000)

    def among(self, names: Collection[str]) -> GateChoice | None:
        """Return this choice with those of its experts that are named; None if there are none."""
        experts = tuple(name for name in self.experts if name in names)
        return self.model_copy(update={"experts": experts}) if experts else None

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
        if (at := lead_position(name)) is not None:
            wanted.add(LEADS[at])
        elif name.strip().lower() in LEAD_GROUPS:
            wanted.update(LEAD_GROUPS[name.strip().lower()])
        else:
            known = [*LEADS, *LEAD_GROUPS]
            raise UserError(
                f"leads: no lead or group {brief(name.strip())}"
                f"{did_you_mean(name.strip(), known)}; known: {', '.join(known)}"
            )
    return tuple(lead for lead in LEADS if lead in wanted)


class Space:
    """A space of gates, read from YAML in the form that ``tune_spaces/gate.yaml`` explains.

    Parameters
    ----------
    path : Path
    experts : list of str
        The experts there are.

    Raises
    ------
    UserError
        Missing file, unknown or missing key, or a value that is not allowed.
    """

    def __init__(self, path: Path, experts: list[str]) -> None:
        self.path, self.experts = Path(place_of_space(str(path))), experts
        known = list(GateChoice.model_fields)
        required = [key for key, field in GateChoice.model_fields.items() if field.is_required()]
        space = read_space(self.path, "gate.space", known, required)
        self.forms: dict[str, Any] = {key: space[key] for key in known if key in space}
        for source in corners(self.forms.values()):
            self.draw(source)

    def draw(self, source: Source) -> GateChoice:
        """Draw one gate.

        Raises
        ------
        UserError
            An unknown form, or a value that is not allowed.
        """
        values = {key: self._value(key, form, source) for key, form in self.forms.items()}
        try:
            return GateChoice.model_validate(values)
        except UserError as error:
            raise UserError(f"gate.space: {brief(self.path)}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"gate.space: {brief(self.path)}: {where}: {first['msg']}, "
                f"not {brief(first['input'])}"
            ) from None

    def different(
        self, count: int, seed: int, without: Collection[GateChoice] = ()
    ) -> list[GateChoice]:
        """Return gates of which no two are the same: fewer where the space holds no more.

        Parameters
        ----------
        count : int
            How many.
        seed : int
            The n-th draw depends on it and n alone. What was drawn before is left out; what chance
            does not find soon is taken in the order in which the space is written.
        without : collection of GateChoice
            Gates that are not wanted.
        """
        found: dict[GateChoice, None] = {}
        number = repeats = 0
        while len(found) < count and repeats < REPEATS and number < 10 * count + REPEATS:
            choice = self.draw(Chance(seed, number))
            number += 1
            repeats += 1
            if choice not in without and choice not in found:
                found[choice] = None
                repeats = 0
        for choice in self._every():
            if len(found) == count:
                break
            if choice not in without:
                found[choice] = None
        return list(found)

    def _every(self) -> Iterator[GateChoice]:
        """Every gate of the space once; none where a range makes them endless."""
        some = self.draw(Chance(0, 0)).model_dump()
        each: list[list[tuple[str, Any]]] = []
        for key, form in self.forms.items():
            if (may_be := self._values(key, form)) is None:
                return
            # As a gate has them: several names may stand for the same leads.
            gates = [GateChoice.model_validate(some | {key: value}) for value in may_be]
            each.append([(key, value) for value in dict.fromkeys(getattr(g, key) for g in gates)])
        for chosen in product(*each):
            yield GateChoice.model_validate(dict(chosen))

    def _values(self, key: str, form: Any) -> list[Any] | None:
        """All values of one key, as `_value` draws them; None for a range."""
        if key not in ("leads", "experts"):
            return values(form)
        if not (isinstance(form, dict) and set(form) == ANY):
            found = values(form) or []
            return found if key == "leads" else [tuple(self._members(v, key)) for v in found]
        pool = self._pool(key, form["of"], key)
        least, most = _sizes(form["any"], pool)
        return [some for size in range(least, most + 1) for some in combinations(pool, size)]

    def may_be(self, key: str, value: str) -> bool:
        """Whether some gate of the space has this value of a key that takes names."""
        form = self.forms.get(key)
        choices = form.get("choose", []) if isinstance(form, dict) else [form]
        return value in choices

    def _value(self, key: str, form: Any, source: Source) -> Any:
        """One value of one key."""
        where = f"gate.space: {brief(self.path)}: {key}"
        try:
            if key in ("leads", "experts") and isinstance(form, dict) and set(form) == ANY:
                return _some(key, form["any"], self._pool(key, form["of"], where), source)
            value = draw(key, form, source)
            return tuple(self._members(value, where)) if key == "experts" else value
        except UserError as error:
            text = str(error)
            raise UserError(text if text.startswith(where) else f"{where}: {text}") from None
        except (TypeError, ValueError, OverflowError, AttributeError):
            pass
        raise UserError(
            f"{where}: {brief(form)} is none of {FORMS}, "
            "{any: number or [least, most], of: …} (leads and experts)"
        )

    def _pool(self, key: str, of: Any, where: str) -> list[str]:
        """The leads or experts that some are taken of."""
        if key == "experts":
            return self._members(of, where)
        return list(leads_named("+".join(of) if isinstance(of, list) else of))

    def _members(self, pool: Any, where: str) -> list[str]:
        """The experts that ``all``, a name or a list of names stands for."""
        if pool == "all":
            return self.experts
        members = [pool] if isinstance(pool, str) else list(pool)
        for name in members:
            if name not in self.experts:
                raise UserError(
                    f"{where}: no expert {brief(name)} in this experiment"
                    f"{did_you_mean(str(name), [*self.experts, 'all'])}; there are: "
                    f"{', '.join(self.experts)}"
                )
            if members.count(name) > 1:
                raise UserError(f"{where}: {brief(name, quoted=False)} stands there more than once")
        return members


def _some(key: str, size: Any, pool: list[str], source: Source) -> tuple[str, ...]:
    """So many of a pool, in the pool's order; a range that the pool is too small for is cut."""
    least, most = _sizes(size, pool)
    count = least + place(f"{key}: how many", source, most - least + 1)
    if count == len(pool):
        return tuple(pool)
    # Those that come first when each draws a number of its own: any searcher can draw numbers.
    rank = {name: source.number(f"{key}: {name}", 0.0, 1.0, False) for name in pool}
    chosen = sorted(pool, key=rank.__getitem__)[:count]
    return tuple(name for name in pool if name in chosen)


def _sizes(size: Any, pool: list[str]) -> tuple[int, int]:
    """The fewest and the most that may be taken of a pool."""
    least, most = (size, size) if isinstance(size, int) else map(int, size)
    if not 0 < least <= most:
        raise ValueError
    return min(least, len(pool)), min(most, len(pool))


def plain_choices(experts: list[str]) -> list[GateChoice]:
    """Return the gates that look at nothing: each expert alone, and all of them alike.

    They are always among a search's trials, so that its best ones are no worse, on training
    groups, than what needs no gate.
    """
    subsets = [(name,) for name in experts] + ([tuple(experts)] if len(experts) > 1 else [])
    return [plain_choice(subset) for subset in subsets]


def plain_choice(names: tuple[str, ...]) -> GateChoice:
    """Return the choice of a gate that looks at nothing: untrained, it is the experts' mean."""
    return GateChoice(
        leads=("II",), experts=names, depth=0, width=1, dropout=0.0, temperature=1.0,
        learning_rate=1e-3, weight_decay=0.0, epochs=0,
    )  # fmt: skip
