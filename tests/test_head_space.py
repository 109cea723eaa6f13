"""The space of heads: drawn from the seed, and mistakes told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from enecg.errors import UserError
from enecg.stage1.head_space import head_choices, papers_head
from problems import settings
from runs import REPOSITORY

SHIPPED = str(REPOSITORY / "tune_spaces" / "heads.yaml")


def test_the_papers_head_comes_first_and_alone_by_default() -> None:
    assert head_choices(settings(head_space="nowhere.yaml"), 1) == [papers_head(settings())]
    assert papers_head(settings()).hidden == (256, 256)


def test_draws_depend_on_seed_and_number_alone() -> None:
    few, many = (head_choices(settings(head_trials=n, head_space=SHIPPED), 5) for n in (3, 6))
    assert many[:4] == few
    assert len({choice.model_dump_json() for choice in many}) == 7
    assert head_choices(settings(head_trials=3, head_space=SHIPPED), 6)[1:] != few[1:]


def test_what_a_space_leaves_out_is_as_in_the_papers_head(tmp_path: Path) -> None:
    (tmp_path / "heads.yaml").write_text("dropout: 0.25\n")
    given = settings(head_trials=1, head_space=str(tmp_path / "heads.yaml"))
    assert head_choices(given, 0)[1] == papers_head(given).model_copy(update={"dropout": 0.25})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "stage1.head_space: no file"),
        ("- 1", "must map some of depth, width"),
        ("droput: 0.1", "unknown key 'droput', did you mean 'dropout'?"),
        ("width: {pick: [1]}", r"width: {'pick': \[1\]} is none of {choose"),
        ("width: {uniform: [a, b]}", "width: could not convert"),
        ("width: {choose: [8, 8, 8, 8, 8, 8, 8, 0]}", "width: Input should be greater .* 1, not 0"),
        ("width: -3", "width: Input should be greater than or equal to 1, not -3"),
        ("width: {choose: [64", "cannot read"),
    ],
)
def test_a_mistake_is_told_with_what_is_allowed(
    text: str | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "heads.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told):
        head_choices(settings(head_trials=1, head_space=str(path)), 0)
