"""The files of the teacher's cache: one per view and output, whole or absent, in a directory per key.

Files are written under a temporary name and renamed; what a builder that died has left is written over.
They are NumPy's format, mapped when read, so that processes on a node share the pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from search.models.embedding import EMBEDDING

LOGITS = "logits"
RESERVED_SHARE = 0.05
MOST_RESERVED_BYTES = 10 * 1024**3
"""So much of a disk the cache leaves free: that share, and no more than that."""
IN_USE_SECONDS = 3600.0
"""Sets of files that were opened since are not removed to make room for others."""


@dataclass(frozen=True)
class CacheKey:
    """All that the bits of the outputs depend on, beside the view and the output's own name.

    Batches are formed in the images' own order, so that the batch of a training step has no say.
    """

    teacher: str
    teacher_sha256: str
    preprocessing: str
    images_sha256: str
    policy: str
    seed: int
    dtype: str
    precision: str
    channels_last: bool
    device: str
    threads: int
    batch_size: int
    versions: tuple[str, ...]

    def digest(self) -> str:
        """The name of the key's directory."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:40]


def map_name(stage: int, taps: str, *, channels_last: bool = False) -> str:
    """The name of the output that is a stage's map, in this order of its axes; or of the embedding."""
    of = "embedding" if stage == EMBEDDING else f"stage-{stage}"
    return f"{of}-{taps}{'-channels_last' if channels_last else ''}"


class OutputFiles:
    """The files of one key below a directory that all jobs of a node share."""

    def __init__(self, root: Path, key: CacheKey, *, images: int) -> None:
        self.directory = root / key.digest()
        self._images = images

    def path(self, view: int, output: str) -> Path:
        """Where an output of a view is kept."""
        return self.directory / f"view-{view:04d}-{output}.npy"

    @contextmanager
    def builder(self, view: int) -> Iterator[None]:
        """Held by the one process of the node that builds a view; the others wait."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory.with_name(f"{self.directory.name}-view-{view:04d}.lock")):
            self.directory.mkdir(exist_ok=True)
            yield

    def load(self, view: int, output: str) -> Tensor | None:
        """The rows of an output, mapped; None where there is no whole file."""
        path = self.path(view, output)
        try:
            # Copy-on-write: torch wants memory that can be written to, and the file must not change.
            rows = np.load(path, mmap_mode="c", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        if len(rows) != self._images:
            return None
        with suppress(OSError):  # for `require_room`; files that may only be read serve as well
            os.utime(self.directory)
        return torch.from_numpy(rows)

    @contextmanager
    def writing(self, view: int, row_of: Mapping[str, Tensor]) -> Iterator[Callable[[str, Tensor], None]]:
        """A function that appends rows to the files of these outputs, given by a row each.

        They appear under their names when all rows are there. Raises OSError where there is no room.
        """
        require_room(self.directory, sum(row.nbytes for row in row_of.values()) * self._images)
        parts = {output: self.path(view, output).with_suffix(".building") for output in row_of}
        opened: dict[str, BinaryIO] = {}
        try:
            for output, row in row_of.items():
                opened[output] = parts[output].open("wb")
                _write_header(opened[output], row, self._images)
            yield lambda output, rows: _append(opened[output], rows)
            for file in opened.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for output, part in parts.items():
                part.replace(self.path(view, output))
        finally:
            for file in opened.values():
                file.close()
            for part in parts.values():
                part.unlink(missing_ok=True)


def _write_header(file: BinaryIO, row: Tensor, count: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(row.numpy().dtype),
        "fortran_order": False,
        "shape": (count, *row.shape),
    }
    np.lib.format.write_array_header_1_0(file, header)


def _append(file: BinaryIO, rows: Tensor) -> None:
    file.write(rows.contiguous().numpy().data)


def require_room(directory: Path, needed_bytes: int) -> None:
    """Make room for so many bytes beside `directory`, removing sets not in use, the longest unused first.

    Raises OSError where that is not enough.
    """
    others = [path for path in directory.parent.iterdir() if path.is_dir() and path != directory]
    for path in sorted(others, key=_used_at):
        if _is_room(directory, needed_bytes) or time.time() - _used_at(path) < IN_USE_SECONDS:
            break
        # Whoever has a file of it open keeps it until the end.
        shutil.rmtree(path, ignore_errors=True)
    if not _is_room(directory, needed_bytes):
        raise OSError(f"{needed_bytes / 1024**2:.0f} MiB do not fit on the disk of {directory.parent}")


def _is_room(directory: Path, needed_bytes: int) -> bool:
    disk = shutil.disk_usage(directory)
    return disk.free - needed_bytes >= min(RESERVED_SHARE * disk.total, MOST_RESERVED_BYTES)


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has removed it
        return time.time()
