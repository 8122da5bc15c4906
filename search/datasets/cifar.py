"""CIFAR-10 and CIFAR-100 in their published python form, and other sets written the same way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search.datasets.arrays import brought_to
from search.datasets.contents import Contents, Entry, Labelled, register_kind
from search.datasets.decoded import require_room
from search.datasets.places import require_file, require_inside, root_of
from search.datasets.restricted_pickle import read_pickle
from search.problems import SearchProblem

OWN_SIZE = 32
CHANNELS = 3
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))


def describe(entry: Entry) -> dict[str, int | None]:
    """What the catalogue says; only the small file of class names is read."""
    root = root_of(entry)
    images = 60_000 if (root / "train").is_file() or (root / _BATCHES[-1]).is_file() else None
    return {
        "classes": len(entry.classes or _class_names(root)),
        "channels": entry.channels or CHANNELS,
        "size": entry.size or OWN_SIZE,
        "images": images,
    }


def recognises(directory: Path) -> bool:
    """Whether CIFAR's own files lie there."""
    return any((directory / name).is_file() for name in (*_BATCHES, "train"))


@register_kind("cifar", describe=describe, recognises=recognises, settings=("size", "channels", "classes"))
def read(entry: Entry, *, size: int | None) -> Contents:
    """The training and test files of a directory such as `cifar-10-batches-py` or `cifar-100-python`."""
    root = root_of(entry)
    train = [root / name for name in _batches(root)] or [root / "train"]
    test = root / ("test_batch" if _batches(root) else "test")
    names = list(entry.classes or _class_names(root))
    return Contents(_read_files(entry, train, size), names, test=_read_files(entry, [test], size))


def _batches(root: Path) -> list[str]:
    """The training files from the first to the last one there, so that one missing between is noticed."""
    there = [index for index, name in enumerate(_BATCHES) if os.path.lexists(root / name)]
    return list(_BATCHES[: there[-1] + 1]) if there else []


def _class_names(root: Path) -> list[str]:
    """From `batches.meta` (CIFAR-10) or `meta` (CIFAR-100, its fine classes)."""
    path = root / "batches.meta" if (root / "batches.meta").is_file() else root / "meta"
    names = _first(read_pickle(path), path, b"label_names", b"fine_label_names")
    if not isinstance(names, list):
        raise _malformed(path, "its class names are not a list")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def _read_files(entry: Entry, paths: list[Path], size: int | None) -> Labelled:
    for path in paths:
        require_inside(path, root_of(entry))
        require_file(path)
    parts = [_read_file(path) for path in paths]
    images = torch.cat([images for images, _ in parts])
    labels = torch.cat([labels for _, labels in parts])
    side, channels = size or entry.size or OWN_SIZE, entry.channels or CHANNELS
    require_room(len(images), channels=channels, size=side)
    return Labelled(brought_to(images, size=side, channels=channels), labels)


def _read_file(path: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of one file."""
    contents = read_pickle(path)
    pixels = _first(contents, path, b"data")
    labels = _first(contents, path, b"labels", b"fine_labels")
    width = CHANNELS * OWN_SIZE * OWN_SIZE
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (width,):
        raise _malformed(path, f"`data` is not an array of bytes with {width} columns")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _malformed(path, "its labels are not a list of whole numbers")
    images = torch.from_numpy(pixels.copy()).reshape(-1, CHANNELS, OWN_SIZE, OWN_SIZE)
    return images, torch.tensor(labels, dtype=torch.int64)


def _first(contents: dict[bytes, Any], path: Path, *keys: bytes) -> Any:
    for key in keys:
        if key in contents:
            return contents[key]
    raise _malformed(path, f"it has no entry {' or '.join(key.decode() for key in keys)}")


def _malformed(path: Path, reason: str) -> SearchProblem:
    return SearchProblem(
        f"{path} is not a CIFAR file: {reason}; fetch the published file anew",
        code="dataset_unreadable",
    )
