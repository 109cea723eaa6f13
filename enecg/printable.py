"""Text from outside (names, paths, messages) made safe to show on a terminal or in a log."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Return text with each character that cannot be seen written as an escape, as ``\x1b``.

    Class names, record ids, paths and error messages may hold anything: sequences that move the
    cursor or set a terminal's title, characters that turn the direction of writing, line ends,
    halves of characters that no encoding knows. What is printable stays as it is, so that doing
    this twice changes nothing.

    Parameters
    ----------
    text : object
        Text, or what ``str`` makes text of.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )
