"""The token that guards a local Ray cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationMode,
    get_authentication_mode,
)

from enecg.errors import UserError
from enecg.progress import say


def provide_token() -> None:
    """Make sure that a local cluster has a token: the given one, the home folder's, or a new one.

    Raises
    ------
    UserError
        The variables name no token.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() not in ("token", "disabled"):
        raise UserError(f"RAY_AUTH_MODE={mode}: write token or disabled")
    if mode.lower() == "disabled" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        if not (problem := _problem_of_token(Path(path))):
            return
        raise UserError(
            f"RAY_AUTH_TOKEN_PATH={path}: {problem}; name a file with the token, or leave the "
            "variable out to have one made"
        )
    file = Path(os.path.expanduser("~/.ray/auth_token"))
    with contextlib.suppress(OSError):
        _make_token(file)
    if problem := _problem_of_token(file):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # goes to the cluster's processes
        say(f"{file}: {problem}; the cluster has a token of its own, its dashboard stays closed")


def _problem_of_token(file: Path) -> str | None:
    try:
        return None if file.read_text(encoding="utf-8").strip() else "is empty"
    except OSError as error:
        return os.strerror(error.errno or 0)
    except UnicodeDecodeError:
        return "is no text"


def _make_token(file: Path) -> None:
    """Write a new token where there is none; of two jobs that do so at once, one counts for both.

    Ray's own way leaves it readable by everybody, and lets the second job overwrite the first's.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
            new.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(mine, file)
    finally:
        mine.unlink(missing_ok=True)


def has_token() -> bool:
    """Whether token authentication is on in this process."""
    return get_authentication_mode() == AuthenticationMode.TOKEN
