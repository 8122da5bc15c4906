"""Files in a local directory, which may be a network mount that all nodes share; for `service.files` only.

A write goes to a temporary name in the same directory, is fsynced, renamed, and the directory is fsynced:
after a crash at any moment the name holds the old content or the new, never a part.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20
TEMPORARY_SUFFIX = ".part"


class PathOutsideRootError(ValueError):
    """A name that is not a plain relative path, or that leads out of the artifact root."""


class LocalFiles:
    """Files under a local directory, which may be a network mount that all nodes share."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._root = directory.resolve()

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        target = self._place(name)
        with self._temporary(target, chunks) as temporary:
            temporary.rename(target)
        _fsync_directory(target.parent)

    @contextmanager
    def _temporary(self, target: Path, chunks: Iterator[bytes]) -> Iterator[Path]:
        """A complete, fsynced file beside the target; it is gone afterwards, unless it was renamed."""
        self._make_directory(target.parent)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        try:
            with temporary.open("xb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def append(self, name: str, data: bytes) -> None:
        target = self._place(name)
        self._make_directory(target.parent)
        is_new = not target.exists()
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            _fsync_directory(target.parent)

    def create(self, name: str, data: bytes) -> bool:
        """Write the file only if there is none; of several at once exactly one wins. Whether this one did."""
        target = self._place(name)
        if target.exists():
            return False
        with self._temporary(target, iter([data])) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
        _fsync_directory(target.parent)
        return True

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes]:
        return self._read(self._place(name), start, end)

    @staticmethod
    def _read(path: Path, start: int, end: int | None) -> Iterator[bytes]:
        with path.open("rb") as stream:
            stream.seek(start)
            yield from chunks_of(stream, None if end is None else max(0, end - start))

    def size(self, name: str) -> int:
        path = self._place(name)
        if path.is_dir():
            raise IsADirectoryError(name)
        return path.stat().st_size

    def names(self, prefix: str) -> list[str]:
        files = (path for path in self._walk(prefix) if not is_temporary(path.name))
        return sorted(path.relative_to(self._root).as_posix() for path in files)

    def remove(self, name: str) -> None:
        self._place(name).unlink()

    def local_path(self, name: str) -> Path | None:
        return self._place(name)

    def sweep(self, prefix: str, older_than_seconds: float) -> int:
        limit, removed = time.time() - older_than_seconds, 0
        for path in self._walk(prefix):
            with suppress(FileNotFoundError):
                if is_temporary(path.name) and path.stat().st_mtime <= limit:
                    path.unlink()
                    removed += 1
        return removed

    def _walk(self, prefix: str) -> Iterator[Path]:
        top = self._place(prefix) if prefix else self._root
        for directory, _, files in os.walk(top):
            yield from (Path(directory) / file for file in files)

    def _place(self, name: str) -> Path:
        place = (self._root / name).resolve()
        if not place.is_relative_to(self._root) or place == self._root:
            raise PathOutsideRootError(f"{name!r} leads out of the artifact root")
        return place

    def _make_directory(self, directory: Path) -> None:
        """Make missing directories and fsync their parents, so that a file's name outlives a power cut."""
        missing = [directory, *directory.parents][: len(directory.relative_to(self._root).parts)]
        for path in reversed(missing):
            with suppress(FileExistsError):
                path.mkdir()
                _fsync_directory(path.parent)


def is_temporary(name: str) -> bool:
    """Whether a file is one that is still being written, or that a killed writer left."""
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def chunks_of(stream: BinaryIO, length: int | None = None) -> Iterator[bytes]:
    """The next `length` bytes (None: all that follow) in chunks of at most 1 MiB."""
    while length is None or length > 0:
        chunk = stream.read(CHUNK_BYTES if length is None else min(CHUNK_BYTES, length))
        if not chunk:
            return
        if length is not None:
            length -= len(chunk)
        yield chunk
