"""The table of experts: readable, complete, and honest about weights."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from enecg import describe_experts, experts
from enecg.describe_experts import Description, Found
from enecg.errors import UserError
from enecg.experts.dlinear import DLinear
from enecg.experts.rocket import Rocket

DLINEAR = "DLinear/checkpoint.pth"


@pytest.fixture
def only_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe two small experts only."""
    monkeypatch.setattr(experts, "names", lambda: ("dlinear", "rocket"))


def shown(found: list[Description], width: int) -> str:
    """Print the table at a width."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(describe_experts.table(found, searched=True))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_every_expert_whole(width: int) -> None:
    found = [
        Description(name, experts.load(name).spec if name in ("dlinear", "rocket") else None, "x")
        for name in experts.names()
    ]
    ecg_fm = next(one for one in found if one.name == "ecg-fm")
    with torch.device("meta"):
        ecg_fm.spec = experts.load("ecg-fm").spec
    ecg_fm.found = [Found(Path("x.pt"), {"x.pt": "0"}, "loads"), Found(Path("y"), {}, "refused")]
    text = shown(found, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert all(name in text for name in experts.names())
    for word in ("90.4 M", "mimic-iv-ecg", "challenge", "loads,", "no need", "not found"):
        assert word in text


def test_weights_are_found_loaded_and_compared(
    tmp_path: Path, only_two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "some" / "where" / DLINEAR
    path.parent.mkdir(parents=True)
    (tmp_path / "checkpoint.pth").write_bytes(b"another expert's")
    torch.save(experts.load("dlinear", seed=3).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for published, verdict in ((None, "loads"), (digest, "verified"), ("0" * 64, "differs")):
        monkeypatch.setattr(DLinear, "published", {DLINEAR: published})
        dlinear, rocket = describe_experts.describe(tmp_path)
        [found] = dlinear.found
        assert (found.path, found.hashes) == (path, {"checkpoint.pth": digest})
        assert found.verdict == verdict
        assert rocket.found == []
        assert any(digest in line for line in describe_experts.details([dlinear]))
    shutil.copy(__file__, path)
    [found] = next(describe_experts.describe(tmp_path)).found
    assert found.verdict == "refused"
    assert "damaged" in found.why


def test_a_missing_package_says_what_to_install(
    only_two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(self: Rocket, **_: object) -> None:
        raise ImportError("expert rocket needs stones: pip install stones")

    monkeypatch.setattr(Rocket, "__init__", absent)
    _, rocket = describe_experts.describe(None)
    assert rocket.spec is None
    assert "pip install stones" in " ".join(shown([rocket], 120).split())


def test_a_folder_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(UserError, match="--weights nowhere: no such folder"):
        next(describe_experts.describe(Path("nowhere")))


def test_help_says_what_the_words_mean() -> None:
    done = subprocess.run(
        [sys.executable, "ray_jobs/describe_experts.py", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for word in ("--weights", "verified", "differs", "refused", "Exit code"):
        assert word in done.stdout
