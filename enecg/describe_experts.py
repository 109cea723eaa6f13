"""What every expert is, and which of its published weights are at hand, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten

import torch
from rich.box import SIMPLE
from rich.table import Table

from enecg import experts
from enecg.errors import UserError, one_line
from enecg.experts import weights
from enecg.experts.contract import Expert, ExpertSpec
from enecg.experts.corpora import CORPORA
from enecg.progress import cell

WHY_LENGTH = 200
"""Characters of a refusal that are shown; loading the file alone shows all."""


@dataclass
class Found:
    """Published weights of an expert, found in a folder.

    Attributes
    ----------
    path : Path
        File or folder.
    hashes : dict of str to str
        SHA-256 of each file, by its name; empty where the files could not be read.
    verdict : {"verified", "loads", "differs", "refused"}
        ``verified``: loads, and has the published SHA-256. ``loads``: every tensor fits, but no
        published SHA-256 is known. ``differs``: loads, but is not the published file.
    why : str
        Why it was refused.
    """

    path: Path
    hashes: dict[str, str]
    verdict: str
    why: str = ""


@dataclass
class Description:
    """One expert.

    Attributes
    ----------
    name : str
    spec : ExpertSpec or None
        At published size; None where a package is missing.
    install : str
        What to install, where a package is missing.
    found : list of Found
        Published weights in the folder that was searched.
    """

    name: str
    spec: ExpertSpec | None
    install: str = ""
    found: list[Found] = field(default_factory=list)


def describe(folder: Path | None) -> Iterator[Description]:
    """Describe every expert, and look for its published weights below a folder.

    Raises
    ------
    UserError
        There is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--weights {folder}: no such folder")
    for name in experts.names():
        try:
            description = Description(name, _at_published_size(name).spec)
        except ImportError as missing:
            yield Description(name, None, one_line(missing))
            continue
        with suppress(ImportError):  # whoever has the package has the weights
            if packaged := experts.expert_class(name).packaged():
                digests = experts.expert_class(name).published
                description.found.append(_checked(name, packaged, digests.get(packaged.name)))
        for published, digest in experts.expert_class(name).published.items():
            for path in _places(folder, published) if folder else ():
                description.found.append(_checked(name, path, digest))
        yield description


def _at_published_size(name: str) -> Expert:
    """Build an expert without its parameters, or with random ones where it must compute on them."""
    try:
        with torch.device("meta"):
            return experts.load(name, experts.RANDOM)
    except NotImplementedError:
        return experts.load(name, experts.RANDOM)


def _places(folder: Path, published: str) -> list[Path]:
    """Return where weights of a published name (perhaps with folders in it) lie below a folder."""
    parts = Path(published).parts
    return sorted(p for p in folder.rglob(parts[-1]) if p.parts[-len(parts) :] == parts)


def _checked(name: str, path: Path, digest: str | None) -> Found:
    """Load weights, strictly, and compare their hash with the published one."""
    try:
        expert = experts.load(name, weights=path)
    except UserError as error:
        return Found(path, weights.hashes(path) if path.is_file() else {}, "refused", str(error))
    if digest is None:
        return Found(path, expert.weight_files, "loads")
    same = digest in expert.weight_files.values()
    return Found(path, expert.weight_files, "verified" if same else "differs")


def table(descriptions: list[Description], searched: bool) -> Table:
    """Return the table of all experts; readable at 80 columns.

    Parameters
    ----------
    descriptions : list of Description
    searched : bool
        Whether weights were looked for.
    """
    drawn = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("expert", no_wrap=True)
    drawn.add_column("installed")
    if searched:
        drawn.add_column("weights")
    drawn.add_column("size", justify="right", no_wrap=True)
    drawn.add_column("width", justify="right", no_wrap=True)
    drawn.add_column("licence")
    drawn.add_column("pretrained on")
    for one in descriptions:
        spec = one.spec
        at_hand = _at_hand(one) if searched else ()
        if spec is None:
            cells = [one.name, "no", *at_hand, "", "", "", one.install]
            drawn.add_row(*map(cell, cells))
            continue
        corpora = ", ".join(spec.pretraining_corpora) or ("–" if spec.parameters else "nothing")
        size = f"{spec.parameters / 1e6:.1f} M" if spec.parameters > 1e5 else f"{spec.parameters:,}"
        licence = spec.licence.partition(" (")[0]
        cells = [one.name, "yes", *at_hand, size, f"{spec.width:,}", licence, corpora]
        drawn.add_row(*map(cell, cells))
    return drawn


def _at_hand(one: Description) -> tuple[str]:
    """Say in a word or two which of an expert's weights were found."""
    if one.spec is not None and not one.spec.needs_weights:
        return ("no need",)
    return (", ".join(dict.fromkeys(found.verdict for found in one.found)) or "not found",)


def details(descriptions: list[Description]) -> Iterator[str]:
    """Say line by line what was found, with hashes, and which names are looked for."""
    for one in descriptions:
        for found in one.found:
            why = f" – {shorten(found.why, WHY_LENGTH, placeholder=' …')}" if found.why else ""
            yield f"{one.name}: {found.path}: {found.verdict}{why}"
            yield from (f"  sha256 {digest}  {name}" for name, digest in found.hashes.items())
    yield "Weights are looked for under these names, anywhere below --weights:"
    for one in descriptions:
        if published := experts.expert_class(one.name).published:
            yield f"  {one.name}: {', '.join(published)}"
    yield "Corpora, parameters and licences:"
    specs = [one.spec for one in descriptions if one.spec is not None]
    named = dict.fromkeys(corpus for spec in specs for corpus in spec.pretraining_corpora)
    yield from (f"  {corpus}: {CORPORA[corpus]}" for corpus in named)
    yield from (f"  {spec.name}: {spec.parameters:,} parameters; {spec.licence}" for spec in specs)
