"""A corpus of recordings as files, on disk or in object storage: finding, reading, fetching."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from enecg.errors import UserError, one_line
from enecg.progress import say
from enecg.storage import Folder, Place

_HEADS_AT_ONCE, _FILES_AT_ONCE = 1000, 64  # read from object storage side by side


class Corpus(Folder):
    """The folder that recordings are read from. File names are relative, with ``/`` in between."""

    @classmethod
    def at(cls, place: Place) -> Self:
        """Return the corpus at a path or URI.

        Raises
        ------
        UserError
            No such folder.
        """
        corpus = super().at(place)
        try:
            there = corpus.is_there()
        except OSError as error:
            raise UserError(f"--input {place}: {one_line(error)}") from None
        if not there:
            raise UserError(f"--input {place}: no such folder")
        # A link to the corpus is fine; links inside it are judged by where they lead.
        return corpus if corpus.remote else cls(os.path.realpath(corpus.uri))

    def names_ending(self, ending: str) -> list[str]:
        """Return every file of the corpus whose name has an ending, at any depth, sorted.

        The ending counts in any case: ``.HEA`` is ``.hea``.
        Hidden files and folders are left out. Links to folders are not followed: what they
        lead to inside the corpus is found where it is; links that lead out of the corpus are
        left out, and said so.

        Raises
        ------
        UserError
            A name that is not UTF-8.
        """
        every = self._remote_names() if self.remote else self._local_names()
        found = sorted(name for name in every if name.lower().endswith(ending))
        for name in found:
            try:
                name.encode()
            except UnicodeEncodeError:
                shown = name.encode("utf-8", "backslashreplace").decode()
                raise UserError(
                    f"{self.uri}: {shown}: a name that is not UTF-8; rename it"
                ) from None
        return found

    def read_heads(self, names: Sequence[str], size: int) -> Iterator[tuple[str, bytes]]:
        """Read the first bytes of many files, side by side where they come over a network.

        Yields
        ------
        name : str
        content : bytes
            At most ``size`` of them; empty where the file cannot be read.
        """
        if not self.remote:
            for name in names:
                try:
                    with open(self.uri_of(name), "rb") as file:
                        yield name, file.read(size)
                except OSError:
                    yield name, b""
            return
        for start in range(0, len(names), _HEADS_AT_ONCE):
            part = names[start : start + _HEADS_AT_ONCE]
            keys = [self.key(name) for name in part]
            read = self.filesystem.cat_ranges(keys, 0, size, on_error="return")
            for name, content in zip(part, read, strict=True):
                yield name, content if isinstance(content, bytes) else b""

    def fetch(self, names: Iterable[str], into: Path) -> None:
        """Copy files to a folder on disk, under the same names; files that are not there are not.

        Raises
        ------
        OSError
            The storage cannot be reached or read, or the disk written.
        """
        wanted = [(self.key(name), into / name) for name in dict.fromkeys(names)]
        for _, target in wanted:
            if not target.resolve().is_relative_to(into.resolve()):
                raise ValueError(f"{target} leads out of {into}")
            target.parent.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(wanted), _FILES_AT_ONCE):
            part = wanted[start : start + _FILES_AT_ONCE]
            contents = self.filesystem.cat_ranges([key for key, _ in part], None, None)
            for (key, target), content in zip(part, contents, strict=True):
                if isinstance(content, bytes):
                    target.write_bytes(content)
                elif not isinstance(content, FileNotFoundError):
                    raise OSError(f"{key}: {one_line(content)}") from content

    def _remote_names(self) -> Iterator[str]:
        here = self.key().rstrip("/") + "/"
        for key in self.filesystem.find(self.key()):
            name = str(key).removeprefix(here)
            if not any(part.startswith(".") for part in name.split("/")):
                yield name

    def _local_names(self) -> Iterator[str]:
        outside = 0
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            with os.scandir(self.uri_of(folder)) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink() and not self._leads_inside(entry.path):
                        outside += 1
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif not os.path.isdir(entry.path):  # broken links too, to be told about
                        yield name
        if outside:
            say(f"{self.uri}: {outside:,} links that lead out of this folder were not followed")

    def _leads_inside(self, link: str) -> bool:
        return Path(os.path.realpath(link)).is_relative_to(self.uri)
