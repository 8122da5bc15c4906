"""Files under an fsspec URL such as `s3://bucket/limbeck`; for `service.files` only.

Object stores put a whole object at once, but not every fsspec file system does: a temporary name and a move
are safe on all of them. Appending rewrites the object from a buffer: logs cost more than in a directory.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from service.local_files import CHUNK_BYTES, TEMPORARY_SUFFIX, chunks_of, is_temporary


class RemoteFiles:
    """Files under an fsspec URL; the file system's package (s3fs, gcsfs, ...) must be installed."""

    def __init__(self, url: str) -> None:
        self._files, path = fsspec.core.url_to_fs(url)
        self._root = path.rstrip("/")
        self._appended: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def write(self, name: str, chunks: Iterator[bytes]) -> None:
        with self._lock:
            self._appended.pop(name, None)
        self._put(name, chunks)

    def _put(self, name: str, chunks: Iterator[bytes]) -> None:
        target = PurePosixPath(self._place(name))
        temporary = str(target.with_name(f".{target.name}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"))
        self._files.makedirs(str(target.parent), exist_ok=True)
        try:
            with self._files.open(temporary, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
            self._files.mv(temporary, str(target))
        except BaseException:
            if self._files.exists(temporary):
                self._files.rm_file(temporary)
            raise

    def append(self, name: str, data: bytes) -> None:
        with self._lock:
            lines = self._appended.get(name)
            if lines is None:
                lines = self._content(name)
            self._put(name, iter([lines + data]))
            self._appended[name] = lines + data

    def _content(self, name: str) -> bytes:
        place = self._place(name)
        return bytes(self._files.cat_file(place)) if self._files.exists(place) else b""

    def create(self, name: str, data: bytes) -> bool:
        """Write the file if there is none. Of several at once the last wins: fsspec offers no better."""
        if self._files.exists(self._place(name)):
            return False
        self.write(name, iter([data]))
        return True

    def read(self, name: str, start: int, end: int | None) -> Iterator[bytes]:
        return self._read(self._place(name), start, end)

    def _read(self, path: str, start: int, end: int | None) -> Iterator[bytes]:
        with self._files.open(path, "rb", block_size=CHUNK_BYTES) as stream:
            stream.seek(start)
            yield from chunks_of(stream, None if end is None else max(0, end - start))

    def size(self, name: str) -> int:
        information = self._files.info(self._place(name))
        if information["type"] == "directory":
            raise IsADirectoryError(name)
        return int(information["size"])

    def names(self, prefix: str) -> list[str]:
        files = (path for path in self._find(prefix) if not is_temporary(PurePosixPath(path).name))
        return sorted(path.removeprefix(self._root).lstrip("/") for path in files)

    def remove(self, name: str) -> None:
        with self._lock:
            self._appended.pop(name, None)
        self._files.rm_file(self._place(name))

    def local_path(self, name: str) -> Path | None:
        return None

    def sweep(self, prefix: str, older_than_seconds: float) -> int:
        removed = 0
        for path in self._find(prefix):
            if is_temporary(PurePosixPath(path).name) and self._age_seconds(path) >= older_than_seconds:
                self._files.rm_file(path)
                removed += 1
        return removed

    def _age_seconds(self, path: str) -> float:
        modified: datetime = self._files.modified(path)
        return (datetime.now(UTC) - modified).total_seconds()

    def _find(self, prefix: str) -> list[Any]:
        top = self._place(prefix) if prefix else self._root
        return list(self._files.find(top)) if self._files.exists(top) else []

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"
