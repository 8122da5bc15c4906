"""Decoded images kept on disk, so that each node decodes a data set once."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from search.datasets.contents import Contents
from search.problems import SearchProblem

MAX_BYTES = 8 * 1024**3
_TENSORS = ("images", "labels", "test_images", "test_labels")


def require_room(count: int, *, channels: int, size: int) -> None:
    """Raise SearchProblem `dataset_too_large` for images that do not belong in memory."""
    needed = count * channels * size * size
    if needed > MAX_BYTES:
        raise SearchProblem(
            f"{count} images of {channels}x{size}x{size} take {needed / 1024**3:.0f} GiB of memory, more "
            f"than {MAX_BYTES // 1024**3} GiB; set a smaller `size` for the data set, or data.input_size",
            code="dataset_too_large",
        )


def stored(directory: Path | None, fingerprint: str, decode: Callable[[], Contents]) -> Contents:
    """The contents of that fingerprint: read from `directory`, or decoded and written there by one process.

    Arrays are mapped copy-on-write: processes on a node share the pages, none can change the file.
    """
    if directory is None:
        return decode()
    place = directory / "datasets" / fingerprint
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not place.is_dir():
            _write(place, decode())
    return _read(place)


def _write(place: Path, contents: Contents) -> None:
    temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=".building-"))
    try:
        for name in _TENSORS:
            tensor: Tensor | None = getattr(contents, name)
            if tensor is not None:
                np.save(temporary / f"{name}.npy", tensor.numpy())
        (temporary / "class_names.json").write_text(json.dumps(contents.class_names))
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(place: Path) -> Contents:
    def mapped(name: str) -> Tensor | None:
        path = place / f"{name}.npy"
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)) if path.exists() else None

    images, labels, test_images, test_labels = (mapped(name) for name in _TENSORS)
    assert images is not None
    assert labels is not None
    return Contents(
        images=images,
        labels=labels,
        class_names=json.loads((place / "class_names.json").read_text()),
        test_images=test_images,
        test_labels=test_labels,
    )
