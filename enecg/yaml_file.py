"""Reading the YAML that people write: plain data only, in bounded time and memory.

Beside what YAML allows: a key that is given twice is refused, so is one that is not text; numbers
are decimal (``010`` is ten, ``1:30`` and ``2024-01-01`` are text), ``1e-3`` is a number, and tags
such as ``!!python/object`` build nothing. Aliases count as what they stand for.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from enecg.errors import UserError, brief, one_line

LARGEST_FILE = 256 * 1024
"""Bytes; the largest config that comes with this program has 4,000."""
DEEPEST = 32
"""Levels of lists and mappings inside each other."""
MOST_VALUES = 50_000
"""Values in one file, each alias counted as all that it stands for."""
LONGEST_NUMBER = 40
"""Characters."""
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NULL, _BOOL = "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Refused(Exception):
    """What is wrong, and in which line (from 1)."""

    def __init__(self, node: yaml.Node, what: str) -> None:
        super().__init__(f"line {node.start_mark.line + 1}: {what}")


class _Loader(yaml.SafeLoader):
    """Composes nodes; deep nesting ends before Python's stack does."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML wants a class of its own to have one)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node, and those in it."""
        self.depth += 1
        if self.depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: more than {DEEPEST} levels inside each other")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in (
    (_BOOL, r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
     "yYnNtTfFoO"),
    (_NULL, r"~|null|Null|NULL|", "~nN\0"),
    (_INT, r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (_FLOAT, r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?"
     r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),
    (_MERGE, r"<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(
        _tag, re.compile(rf"(?:{_pattern})\Z"), ["" if c == "\0" else c for c in _first]
    )


def read_yaml(path: Path, where: str) -> Any:
    """Read a YAML file.

    Parameters
    ----------
    path : Path
    where : str
        What the file is to the user (``config``, ``gate.space``), for messages.

    Returns
    -------
    object
        Dicts with text as keys, lists, text, numbers, booleans and None; nothing is shared.

    Raises
    ------
    UserError
        No such file, not an ordinary file, too large, not UTF-8, not YAML, or YAML that is
        refused; the message names the line.
    """
    try:
        return _parsed(read_text(path, LARGEST_FILE))
    except FileNotFoundError:
        raise UserError(f"{where}: no file {brief(path)}") from None
    except (OSError, ValueError, yaml.YAMLError, _Refused) as error:
        raise UserError(f"{where}: cannot read {brief(path)}: {_told(error)}") from None


def parse_yaml(text: str) -> Any:
    """Read YAML that stands on the command line.

    Raises
    ------
    ValueError
        As `read_yaml`; the message says what is wrong.
    """
    try:
        if len(text) > LARGEST_FILE:
            raise yaml.YAMLError(f"{len(text):,} characters are too many")
        return _parsed(text)
    except (yaml.YAMLError, _Refused) as error:
        raise ValueError(_told(error)) from None


def read_text(path: Path, most_bytes: int) -> str:
    """Read a text file that a person named, UTF-8 with or without a byte order mark.

    A folder, a pipe or a device is refused, not waited for.

    Raises
    ------
    OSError
        It cannot be opened or read.
    ValueError
        No name of a file, not an ordinary file, more than ``most_bytes``, or not UTF-8.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes into it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is not an ordinary file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8; save the file as UTF-8") from None


def unprintable(text: str) -> str | None:
    """Name the first character of a text that no setting can have, or None.

    Those are control and format characters, line ends and byte order marks included, and halves
    of surrogate pairs: no name holds them by intention, nobody sees them, and a terminal would
    obey some.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            return f"U+{ord(character):04X}"
    return None


def _parsed(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Plain().value(node)
    finally:
        loader.dispose()


def _told(error: Exception) -> str:
    """Say in one line what is wrong, and where."""
    if isinstance(error, OSError):
        return error.strerror or one_line(error)
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f"the character U+{code:04X} is not allowed in YAML"
    if mark is None or problem is None:
        return brief(one_line(error), quoted=False)
    return brief(f"line {mark.line + 1}, column {mark.column + 1}: {problem}", quoted=False)


class _Plain:
    """Turns composed nodes into plain data, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        """The data that a node stands for."""
        self._count += 1
        if self._count > MOST_VALUES:
            raise _Refused(node, f"more than {MOST_VALUES:,} values, with aliases followed")
        if depth > DEEPEST:
            raise _Refused(node, f"more than {DEEPEST} levels inside each other, aliases followed")
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self.value(inner, depth + 1) for inner in node.value]
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self._mapping(node, depth)
        raise _Refused(node, _about_tag(node))

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in lines:
                raise _Refused(
                    key_node, f"the key {brief(key)} is given twice, first in line {lines[key]}"
                )
            lines[key] = key_node.start_mark.line + 1
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, depth)
            else:
                found[key] = self.value(value_node, depth + 1)
        return merged | found

    def _merged(self, node: yaml.Node, depth: int) -> dict[str, Any]:
        """What ``<<: *a`` or ``<<: [*a, *b]`` brings in; of two, the first one counts."""
        several = node.value if isinstance(node, yaml.SequenceNode) else [node]
        parts = [self.value(inner, depth + 1) for inner in several]
        if not all(isinstance(part, dict) for part in parts):
            raise _Refused(node, "<< takes a mapping, or a list of mappings")
        result: dict[str, Any] = {}
        for part in reversed(parts):
            result |= part
        return result


def _key(node: yaml.Node) -> str:
    """The text of a mapping's key."""
    if not isinstance(node, yaml.ScalarNode):
        raise _Refused(node, "a key must be text, not a list or a mapping")
    value = "<<" if node.tag == _MERGE else _scalar(node)
    if not isinstance(value, str):
        raise _Refused(
            node, f"the key {brief(node.value, quoted=False)} is not text; write "
            f'"{brief(node.value, quoted=False)}" in quotes'
        )  # fmt: skip
    return value


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    tag, text = node.tag, node.value
    if tag == _NULL and node.style is None and text in ("", "~", "null", "Null", "NULL"):
        return None
    if tag == _BOOL and text.lower() in ("yes", "no", "true", "false", "on", "off"):
        return text.lower() in ("yes", "true", "on")
    if tag in (_INT, _FLOAT):
        if len(text) > LONGEST_NUMBER:
            raise _Refused(node, f"a number of {len(text):,} characters")
        digits = text.replace("_", "")
        try:
            return int(digits) if tag == _INT else float(digits.lower().replace(".inf", "inf")
                                                         .replace(".nan", "nan"))  # fmt: skip
        except ValueError:
            raise _Refused(node, f"{brief(text)} is no number") from None
    if tag != _TEXT and tag != _MERGE:
        raise _Refused(node, _about_tag(node))
    if (character := unprintable(text)) is not None:
        raise _Refused(node, f"{brief(text)} holds the character {character}, which is not allowed")
    return text


def _about_tag(node: yaml.Node) -> str:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    return f"the tag {brief(tag)} is not allowed: write plain text, numbers, lists and mappings"
