"""What every reader of a data set returns, and how readers are found by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from search.problems import SearchProblem


@dataclass(frozen=True)
class Entry:
    """A data set as an installation names it: a table of `datasets.toml`, or a directory."""

    name: str
    kind: str
    path: Path | None = None
    train: str | None = None
    test: str | None = None
    size: int | None = None
    channels: int | None = None
    cache_directory: Path | None = None


@dataclass(frozen=True)
class Contents:
    """All images of a data set, decoded: uint8 (N, C, S, S), labels int64 (N,).

    `test_images` and `test_labels` are the data set's own test part where it has one.
    """

    images: Tensor
    labels: Tensor
    class_names: list[str]
    test_images: Tensor | None = None
    test_labels: Tensor | None = None
    default_sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no training could use."""
        classes = len(self.class_names)
        _check(self.images, self.labels, classes=classes)
        if self.test_images is not None and self.test_labels is not None:
            _check(self.test_images, self.test_labels, classes=classes)
        used = len(torch.unique(self.labels))
        if used < 2:
            raise SearchProblem(
                f"all images of the data set are of one class out of {classes}; at least two are needed",
                code="dataset_one_class",
            )


def _check(images: Tensor, labels: Tensor, *, classes: int) -> None:
    if len(images) == 0:
        raise SearchProblem("the data set has no images", code="dataset_empty")
    if len(images) != len(labels):
        raise SearchProblem(f"{len(images)} images but {len(labels)} labels", code="dataset_unreadable")
    low, high = (int(value) for value in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise SearchProblem(
            f"labels run from {low} to {high}, but there are {classes} classes (0 to {classes - 1})",
            code="dataset_labels",
        )


class Reader(Protocol):
    """Decodes a data set of one kind; `size` is the side in pixels, None the data's own.

    Raises SearchProblem with a code that starts with `dataset_` for what the user can mend.
    """

    def __call__(self, entry: Entry, *, size: int | None) -> Contents: ...


class Describer(Protocol):
    """Says cheaply, without decoding, what a data set holds: classes, channels, size, images."""

    def __call__(self, entry: Entry) -> dict[str, int | None]: ...


@dataclass(frozen=True)
class Kind:
    """One kind of data set."""

    read: Reader
    describe: Describer


_kinds: dict[str, Kind] = {}


def register_kind(name: str, *, describe: Describer) -> Callable[[Reader], Reader]:
    """Register the decorated reader as a kind of data set."""

    def decorate(read: Reader) -> Reader:
        if name in _kinds:
            raise ValueError(f"data set kind {name!r} is already registered")
        _kinds[name] = Kind(read=read, describe=describe)
        return read

    return decorate


def kinds() -> list[str]:
    """All kinds, sorted."""
    return sorted(_kinds)


def reader_of(entry: Entry) -> Kind:
    """The kind of an entry, or SearchProblem naming those there are."""
    if entry.kind not in _kinds:
        raise SearchProblem(
            f"data set {entry.name!r} has kind {entry.kind!r}; known kinds: {', '.join(kinds())}",
            code="dataset_unreadable",
        )
    return _kinds[entry.kind]
