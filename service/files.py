"""The artifact root: the only writer of checkpoints, trial logs and artifacts.

A file is seen whole or not at all: it is written under a temporary name, fsynced, renamed, and its
directory fsynced. A local (shared) directory is the normal case (`service.local_files`); any other fsspec
URL works through `service.remote_files`. Names are relative, with forward slashes, and stay inside the root
after links are resolved. One writer per file.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from service.local_files import LocalFiles, PathOutsideRootError, chunks_of, is_temporary

__all__ = ["ArtifactRoot", "PathOutsideRootError", "Written"]

IDENTITY_NAME = "limbeck-root"


@dataclass(frozen=True)
class Written:
    """Size and SHA-256 (hexadecimal) of a file, as it was written."""

    bytes: int
    sha256: str


class Storage(Protocol):
    """What the artifact root needs of a place that holds files; names have been checked before."""

    def write(self, name: str, chunks: Iterator[bytes]) -> None: ...
    def append(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes]: ...
    def size(self, name: str) -> int: ...
    def names(self, prefix: str) -> list[str]: ...
    def remove(self, name: str) -> None: ...
    def local_path(self, name: str) -> Path | None: ...
    def sweep(self, prefix: str, older_than_seconds: float) -> int: ...


class ArtifactRoot:
    """Files of all jobs under one directory, or one fsspec URL, that every node shares.

    Every method raises PathOutsideRootError for a bad name, and OSError (FileNotFoundError, disk full, ...)
    as the system gives it; after a failed write the earlier content, or nothing, is there.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        place = str(url_or_path)
        if "://" in place and not place.startswith("file://"):
            from service.remote_files import RemoteFiles

            self._storage: Storage = RemoteFiles(place)
        else:
            self._storage = LocalFiles(Path(place.removeprefix("file://")))
        self.place = place

    def write_bytes(self, relative: str, data: bytes) -> Written:
        """Write a whole file; an earlier one of that name is replaced in one moment."""
        return self._write(relative, iter([data]))

    def write_file(self, relative: str, source: Path) -> Written:
        """Copy a local file into the root; the source stays."""
        with source.open("rb") as stream:
            return self._write(relative, chunks_of(stream))

    def append_line(self, relative: str, line: str) -> None:
        """Append one line and fsync it; the newline is added. A failed append leaves no part of the line."""
        if "\n" in line:
            raise ValueError("a line must not contain a newline")
        self._storage.append(checked_name(relative), line.encode() + b"\n")

    def read_bytes(self, relative: str) -> bytes:
        """The whole content."""
        return b"".join(self.open_range(relative))

    def open_range(self, relative: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Bytes start <= i < end in chunks of at most 1 MiB; the file is opened at the first chunk."""
        return self._storage.read(checked_name(relative), start, end)

    def size(self, relative: str) -> int:
        """Size in bytes."""
        return self._storage.size(checked_name(relative))

    def measure(self, relative: str) -> Written:
        """Size and checksum of what is there now, read anew."""
        digest = _Digest()
        for chunk in self.open_range(relative):
            digest.update(chunk)
        return digest.written()

    def exists(self, relative: str) -> bool:
        """Whether there is a complete file of that name."""
        try:
            self.size(relative)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return False
        return True

    def list(self, prefix: str = "") -> list[str]:
        """Names of all complete files under a directory, sorted; none if there is no such directory."""
        return self._storage.names(checked_name(prefix) if prefix else "")

    def remove(self, relative: str) -> None:
        """Remove a file; it is no error if it is gone."""
        with suppress(FileNotFoundError):
            self._storage.remove(checked_name(relative))

    def sweep(self, prefix: str = "", *, older_than_seconds: float = 3600.0) -> int:
        """Remove temporary files that killed writers left under a directory; how many there were."""
        return self._storage.sweep(checked_name(prefix) if prefix else "", older_than_seconds)

    def fetch(self, relative: str, directory: Path) -> Path:
        """A local file with the content: the file itself in a local root, else a copy in `directory`."""
        path = self._storage.local_path(checked_name(relative))
        if path is None:
            path = directory / PurePosixPath(relative).name
            with path.open("wb") as stream:
                for chunk in self.open_range(relative):
                    stream.write(chunk)
        elif not path.is_file():
            raise FileNotFoundError(f"no file {relative!r} in the artifact root")
        return path

    def identity(self) -> str:
        """The root's own nonce, made by whoever asks first.

        Two processes see the same root exactly if they get the same nonce: each worker publishes it when it
        registers. Asking also proves that the root can be written and read.
        """
        self._storage.create(IDENTITY_NAME, secrets.token_hex(16).encode())
        return self.read_bytes(IDENTITY_NAME).decode()

    def check_writable(self) -> None:
        """Write a nonce, read it back, remove it; raises OSError if any of it fails."""
        name, nonce = f"check-{secrets.token_hex(8)}", secrets.token_bytes(16)
        self.write_bytes(name, nonce)
        try:
            if self.read_bytes(name) != nonce:
                raise OSError(f"the artifact root {self.place} gives back other bytes than were written")
        finally:
            self.remove(name)

    def _write(self, relative: str, chunks: Iterator[bytes]) -> Written:
        digest = _Digest()
        self._storage.write(checked_name(relative), digest.following(chunks))
        return digest.written()


def checked_name(relative: str) -> str:
    """The name, if it is a plain relative path; links are checked where the file system is asked."""
    parts = relative.split("/")
    if "\0" in relative or "\\" in relative or any(part in ("", ".", "..") for part in parts):
        raise PathOutsideRootError(f"not a plain relative path: {relative!r}")
    if is_temporary(parts[-1]):
        raise PathOutsideRootError(f"a name kept for temporary files: {relative!r}")
    return relative


class _Digest:
    """Size and checksum of the bytes that pass by."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._bytes += len(chunk)

    def following(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.update(chunk)
            yield chunk

    def written(self) -> Written:
        return Written(bytes=self._bytes, sha256=self._sha256.hexdigest())
