"""Folders on disk or in object storage (S3, or whatever else fsspec opens), used alike."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, cast
from urllib.parse import unquote

import fsspec
from fsspec.core import has_magic
from fsspec.spec import AbstractFileSystem

from enecg.checked_files import remembered, sha256_once
from enecg.errors import UserError, one_line
from enecg.files import replacing
from enecg.interrupts import temporary_folder
from enecg.paths import given

Place = str | os.PathLike[str]
"""A path on disk, or a URI such as ``s3://bucket/prefix``."""


def is_remote(place: Place) -> bool:
    """Whether a place is not on this machine's file system."""
    scheme, separator, _ = os.fspath(place).partition("://")
    return bool(separator) and scheme not in ("file", "local")


@dataclass(frozen=True)
class Folder:
    """A folder, and the means to reach it; goes to Ray's workers as it is.

    Attributes
    ----------
    uri : str
        An absolute path, or ``protocol://…``, without a slash at the end.
    options : dict
        How fsspec opens it. For S3: what the usual environment variables of the process that
        made the folder say (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
        ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``), so that workers on other
        machines need none; without them, a machine's own profile or role counts.
    """

    uri: str
    options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False, hash=False)

    @classmethod
    def at(cls, place: Place) -> Self:
        """Return the folder at a path or URI; whether it is there is not looked at.

        Raises
        ------
        UserError
            A kind of URI that no installed package opens, or what cannot be a path.
        """
        try:
            text = given(os.fspath(place))
        except ValueError as error:
            raise UserError(str(error)) from None
        if not is_remote(text):
            _, separator, path = text.partition("://")
            text = unquote(path) if separator else text
            # Two slashes in front mean a machine's name to some libraries.
            return cls("/" + os.path.abspath(text).lstrip("/"))
        protocol = text.partition("://")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except (ValueError, ImportError) as error:
            raise UserError(f"{text}: {protocol}:// cannot be opened: {one_line(error)}") from None
        return cls(text.rstrip("/"), _s3_options() if protocol in ("s3", "s3a") else {})

    @property
    def remote(self) -> bool:
        """Whether it is not on this machine's file system."""
        return is_remote(self.uri)

    @property
    def path(self) -> Path:
        """Where it is on this machine's file system."""
        if self.remote:
            raise ValueError(f"{self.uri} is not on this machine")
        return Path(self.uri)

    @property
    def filesystem(self) -> AbstractFileSystem:
        """What opens its files, for libraries that take an fsspec file system."""
        protocol = self.uri.partition("://")[0] if self.remote else "file"
        return fsspec.filesystem(protocol, **self.options)

    def key(self, name: str = "") -> str:
        """Return what ``filesystem`` calls a file of this folder."""
        place = self.uri_of(name)
        return cast(str, self.filesystem._strip_protocol(place)) if self.remote else place

    def uri_of(self, name: str = "") -> str:
        """Return the path or URI of a file, by its name relative to the folder."""
        return f"{self.uri}/{name}" if name else self.uri

    def below(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.uri_of(name), self.options)

    def is_there(self) -> bool:
        """Whether it is a folder; in object storage, whether anything is in it."""
        with _told(self.uri):
            return bool(self.filesystem.isdir(self.key()))

    def names(self) -> list[str]:
        """Return the names of the files and folders in it, sorted; none where it is not there."""
        with _told(self.uri):
            try:
                found = self.filesystem.ls(self.key(), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        here = self.key().rstrip("/")
        places = (str(place).rstrip("/") for place in found)
        return sorted(place.rpartition("/")[2] for place in places if place != here)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every file in it, by name."""
        with _told(self.uri):
            found = self.filesystem.ls(self.key(), detail=True)
        files = (one for one in found if one["type"] == "file")
        return {str(one["name"]).rpartition("/")[2]: int(one["size"]) for one in files}

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        with _told(self.uri_of(name)):
            return bool(self.filesystem.isfile(self.key(name)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading, seekable."""
        with _told(self.uri_of(name)):
            return cast(IO[bytes], self.filesystem.open(self.key(name), "rb"))

    def read(self, name: str) -> bytes:
        """Read a whole file."""
        with _told(self.uri_of(name)):
            return cast(bytes, self.filesystem.cat_file(self.key(name)))

    def sha256(self, name: str) -> str:
        """Return the hexadecimal SHA-256 of a file, read in pieces."""
        with self.open(name) as file:
            # s3fs's files lack the parts of the protocol that file_digest declares, not needs.
            digest = hashlib.sha256()
            while piece := file.read(1 << 22):
                digest.update(piece)
        return digest.hexdigest()

    def sha256_once(self, name: str) -> str:
        """Return a file's SHA-256; read again in this process only if the file has changed.

        On disk it counts as changed with its size, time or inode; in object storage with what the
        server says of it (size, time, tag).
        """
        if not self.remote:
            return sha256_once(Path(self.uri_of(name)))
        with _told(self.uri_of(name)):
            state = self.filesystem.ukey(self.key(name))
        return remembered((self.uri_of(name), state), lambda: self.sha256(name))

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Give a path on disk to write to; when the block ends without an error the file is there.

        It appears whole, by rename or by upload, or not at all; what was there stays until then.
        """
        if not self.remote:
            with replacing(Path(self.uri_of(name))) as temporary:
                yield temporary
            return
        with temporary_folder("enecg-upload-") as folder:
            temporary = folder / "file"
            yield temporary
            with _told(self.uri_of(name)):
                self.filesystem.put_file(os.fspath(temporary), self.key(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file; it appears whole or not at all."""
        with self.replacing(name) as temporary:
            temporary.write_bytes(content)

    def move(self, name: str, other: Folder) -> None:
        """Move a file to another folder of the same file system, in the place of one there.

        On disk it is there whole or not at all at any moment; in object storage it is copied first.
        """
        if not self.remote:
            os.replace(self.uri_of(name), other.uri_of(name))
            return
        with _told(self.uri_of(name)):
            self.filesystem.cp_file(self.key(name), other.key(name))
            self.filesystem.rm_file(self.key(name))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; nothing if it is not there."""
        with _told(self.uri_of(name)):
            key = self.key(name)
            try:
                if self.remote and has_magic(key):  # rm would take it for a pattern
                    for one in self.filesystem.find(key):
                        self.filesystem.rm_file(one)
                else:
                    self.filesystem.rm(key, recursive=True)
            except FileNotFoundError:
                return


def open_file(place: Place) -> IO[bytes]:
    """Open one file at a path or URI for reading.

    Raises
    ------
    UserError
        No such file.
    """
    text = os.fspath(place)
    parent, _, name = text.rpartition("/")
    try:
        if not is_remote(text):
            return open(Folder.at(text).uri, "rb")
        return Folder.at(parent).open(name)
    except FileNotFoundError:
        raise UserError(f"{text}: no such file") from None
    except OSError as error:
        raise UserError(f"{text}: {one_line(error)}") from None


def _s3_options() -> dict[str, Any]:
    """Return what the environment says on reaching S3, as s3fs takes it."""
    said = {
        "key": os.environ.get("AWS_ACCESS_KEY_ID"),
        "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "token": os.environ.get("AWS_SESSION_TOKEN"),
        "endpoint_url": os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL")),
    }
    options: dict[str, Any] = {name: value for name, value in said.items() if value}
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    if region:
        options["client_kwargs"] = {"region_name": region}
    # Other processes write, too: a listing that was true a moment ago may not be any more.
    return {**options, "use_listings_cache": False}


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turn what botocore raises when a server or credentials are missing into OSError."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.startswith(("botocore", "aiohttp")):
            raise OSError(f"{uri}: {one_line(error)}") from error
        raise
