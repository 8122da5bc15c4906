"""What every reader of a data set returns, and how readers are found by kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from search.problems import SearchProblem

UNLABELLED = -1
"""Stands for the label of an image without one: no class has it, so that what reads it fails."""


class Part(StrEnum):
    """A part that a data set may come in; only `train` must be there."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True)
class Entry:
    """A data set as an installation names it: a table of `datasets.toml`, or a directory.

    `train`, `validation` and `test` say which files are that part, in the kind's own way; `classes` are
    names in the order of the labels; `image_key` and `label_key` are a column or field.
    """

    name: str
    kind: str
    path: Path | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    size: int | None = None
    channels: int | None = None
    classes: tuple[str, ...] | None = None
    image_key: str | None = None
    label_key: str | None = None
    cache_directory: Path | None = None
    is_labelled: bool = field(default=True, repr=False)  # otherwise images without labels will do

    def named(self, part: Part) -> str | None:
        """What the table says of a part."""
        return {Part.TRAIN: self.train, Part.VALIDATION: self.validation, Part.TEST: self.test}[part]


@dataclass(frozen=True)
class Labelled:
    """Images uint8 (N, C, S, S), channels first, and labels int64 (N,), all `UNLABELLED` where there are
    none."""

    images: Tensor
    labels: Tensor

    @classmethod
    def without_labels(cls, images: Tensor) -> Labelled:
        """Images that have none."""
        return cls(images, torch.full((len(images),), UNLABELLED, dtype=torch.int64))

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return bool((self.labels != UNLABELLED).any())

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Contents:
    """All images of a data set, decoded; `validation` and `test` are its own parts where it has them."""

    train: Labelled
    class_names: list[str]
    validation: Labelled | None = None
    test: Labelled | None = None
    default_sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no training could use, with labels or without."""
        for name, part in self.parts.items():
            _require_images(name, part)

    @property
    def has_labels(self) -> bool:
        """Whether every part has labels."""
        return all(part.has_labels for part in self.parts.values())

    def without_labels(self) -> Contents:
        """The same images, none of them with a label."""
        bare = {name: Labelled.without_labels(part.images) for name, part in self.parts.items()}
        return replace(
            self,
            train=bare[Part.TRAIN],
            validation=bare.get(Part.VALIDATION),
            test=bare.get(Part.TEST),
        )

    @classmethod
    def of(cls, parts: Mapping[Part, Labelled], class_names: list[str]) -> Contents:
        """The same, of parts by name."""
        return cls(
            parts[Part.TRAIN],
            class_names,
            validation=parts.get(Part.VALIDATION),
            test=parts.get(Part.TEST),
        )

    @property
    def parts(self) -> dict[Part, Labelled]:
        """The parts that there are."""
        all_parts = {Part.TRAIN: self.train, Part.VALIDATION: self.validation, Part.TEST: self.test}
        return {name: part for name, part in all_parts.items() if part is not None}


def label_fault(contents: Contents) -> SearchProblem | None:
    """Why these labels are none to train by or to count by: `dataset_labels`, `dataset_one_class`."""
    classes = len(contents.class_names)
    for name, part in contents.parts.items():
        low, high = (int(value) for value in torch.aminmax(part.labels))
        if low < 0 or high >= classes:
            return SearchProblem(
                f"labels run from {low} to {high} in the {name} part, but there are {classes} classes "
                f"(0 to {classes - 1}): number the classes from 0, and leave out images without a label",
                code="dataset_labels",
            )
    if len(torch.unique(contents.train.labels)) < 2:
        return SearchProblem(
            f"all training images of the data set are of one class out of {classes}; at least two are "
            "needed: add images of other classes, or check where their labels are read from",
            code="dataset_one_class",
        )
    return None


def _require_images(name: Part, part: Labelled) -> None:
    if len(part.images) == 0:
        raise SearchProblem(f"the {name} part of the data set has no images", code="dataset_empty")
    if len(part.images) != len(part.labels):
        raise SearchProblem(
            f"the {name} part has {len(part.images)} images but {len(part.labels)} labels: take both from "
            "the same copy of the data",
            code="dataset_unreadable",
        )


class Reader(Protocol):
    """Decodes a data set of one kind; `size` is the side in pixels, None the data's own.

    Raises SearchProblem with a code that starts with `dataset_` for what the user can mend.
    """

    def __call__(self, entry: Entry, *, size: int | None) -> Contents: ...


class Describer(Protocol):
    """Says cheaply, without decoding, what a data set holds: classes, channels, size, images.

    None where finding out would mean reading all of it.
    """

    def __call__(self, entry: Entry) -> dict[str, int | None]: ...


class Recogniser(Protocol):
    """Whether a directory holds a data set of this kind, by the names of its files."""

    def __call__(self, directory: Path) -> bool: ...


@dataclass(frozen=True)
class Kind:
    """One kind of data set; `settings` are the optional keys of its table in `datasets.toml`."""

    read: Reader
    describe: Describer
    recognises: Recogniser
    settings: frozenset[str]


_kinds: dict[str, Kind] = {}


def register_kind(
    name: str, *, describe: Describer, recognises: Recogniser, settings: Collection[str]
) -> Callable[[Reader], Reader]:
    """Register the decorated reader as a kind of data set."""

    def decorate(read: Reader) -> Reader:
        if name in _kinds:
            raise ValueError(f"data set kind {name!r} is already registered")
        _kinds[name] = Kind(read, describe, recognises, frozenset(settings))
        return read

    return decorate


def kinds() -> dict[str, Kind]:
    """All kinds by name, sorted."""
    return dict(sorted(_kinds.items()))


def reader_of(entry: Entry) -> Kind:
    """The kind of an entry, or SearchProblem naming those there are."""
    if entry.kind not in _kinds:
        raise SearchProblem(
            f"data set {entry.name!r} has kind {entry.kind!r}; known kinds: {', '.join(kinds())}",
            code="dataset_unreadable",
        )
    return _kinds[entry.kind]
