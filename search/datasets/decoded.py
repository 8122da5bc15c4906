"""Decoded images kept on disk, so that each node decodes a data set once."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from search.datasets.contents import Contents, Entry, Labelled, Part
from search.problems import SearchProblem

MAX_BYTES = 8 * 1024**3
_VERSION = 2  # of how images are decoded: raised with every change of what comes out


def require_room(count: int, *, channels: int, size: int) -> None:
    """Raise SearchProblem `dataset_too_large` for images that do not belong in memory."""
    needed = count * channels * size * size
    if needed > MAX_BYTES:
        fits = int((MAX_BYTES / (count * channels)) ** 0.5)
        raise SearchProblem(
            f"{count} images of {channels}x{size}x{size} take {needed / 1024**3:.0f} GiB of memory, more "
            f"than {MAX_BYTES // 1024**3} GiB; set a smaller `size` for the data set, or data.input_size: at "
            f"most {fits}",
            code="dataset_too_large",
        )


def fingerprint(entry: Entry, files: Iterable[Path], *, size: int | None) -> str:
    """What decoded images depend on: each file's place, length and time of change, and the settings.

    Of the files' status: opening 60,000 headers would take seconds at every start.
    """
    settings = replace(entry, name="", size=size or entry.size, cache_directory=None)
    digest = hashlib.sha256(f"{_VERSION} {settings}\n".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def stored(directory: Path | None, name: str, decode: Callable[[], Contents]) -> Contents:
    """The contents of that fingerprint: read from `directory`, or decoded and written there by one process.

    Arrays are mapped copy-on-write: processes on a node share the pages, none can change the file.
    """
    if directory is None:
        return decode()
    place = directory / "datasets" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not place.is_dir():
            _write(place, decode())
    return _read(place)


def _write(place: Path, contents: Contents) -> None:
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=".building-"))
    try:
        for name, part in contents.parts.items():
            np.save(temporary / f"{name}_images.npy", part.images.numpy())
            np.save(temporary / f"{name}_labels.npy", part.labels.numpy())
        (temporary / "class_names.json").write_text(json.dumps(contents.class_names))
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(place: Path) -> Contents:
    def mapped(name: str) -> Tensor:
        return torch.from_numpy(np.load(place / f"{name}.npy", mmap_mode="c", allow_pickle=False))

    parts = {
        part: Labelled(mapped(f"{part}_images"), mapped(f"{part}_labels"))
        for part in Part
        if (place / f"{part}_images.npy").exists()
    }
    names = json.loads((place / "class_names.json").read_text())
    return Contents.of(parts, names)
