"""What a feed-forward head may be, and drawing some from a space in YAML."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from enecg.config import Stage1Settings
from enecg.errors import UserError, brief
from enecg.spaces import Chance, Source, corners, draw, place_of_space, read_space


class HeadChoice(BaseModel):
    """One feed-forward head."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    depth: int = Field(ge=0, le=8)
    """Hidden layers."""
    width: int = Field(ge=1, le=8192)
    """Their width."""
    dropout: float = Field(ge=0, lt=1)
    """After each of them."""
    learning_rate: float = Field(gt=0, le=1000)
    weight_decay: float = Field(ge=0, le=1e6)
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the features, before the first layer."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return (self.width,) * self.depth


def papers_head(settings: Stage1Settings) -> HeadChoice:
    """Return the head of EnECG (arXiv 2511.22935): two hidden layers of 256."""
    return HeadChoice(
        depth=2,
        width=256,
        dropout=0.0,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )


def head_choices(settings: Stage1Settings, seed: int) -> list[HeadChoice]:
    """Return the feed-forward heads to try: the paper's, and ``head_trials`` from the space.

    Raises
    ------
    UserError
        Missing file, unknown key or form, or a value that is not allowed.
    """
    choices = [papers_head(settings)]
    if settings.head_trials == 0:
        return choices
    path, known = Path(place_of_space(settings.head_space)), list(HeadChoice.model_fields)
    where = f"stage1.head_space: {brief(path)}"
    space = read_space(path, "stage1.head_space", known)

    def drawn(source: Source) -> HeadChoice:
        values = choices[0].model_dump()
        for key in (key for key in known if key in space):  # in an order of their own
            try:
                values[key] = draw(key, space[key], source)
            except (TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{where}: {key}: {brief(error, quoted=False)}") from None
        try:
            return HeadChoice.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{where}: {key}: {first['msg']}, not {brief(first['input'])}"
            ) from None

    for corner in corners(space.values()):
        drawn(corner)
    choices += [drawn(Chance(seed, number)) for number in range(settings.head_trials)]
    return choices
