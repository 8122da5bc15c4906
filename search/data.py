"""Data sets by name, split by seed, in memory as uint8. The only caller of `search.datasets`."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search.datasets import Contents, Entry, Labelled, Part, kinds, reader_of
from search.datasets.contents import UNLABELLED, label_fault
from search.datasets_file import entry_of, entry_of_directory, find_entry, read_tables
from search.problems import SearchProblem
from search.spec import Splits
from search.splitting import deal


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (N, C, H, W), channels first, and labels int64 (N,), all `UNLABELLED` where there are
    none."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_labelled(self) -> bool:
        """Whether there are labels."""
        return len(self) == 0 or int(self.labels[0]) != UNLABELLED

    def without_labels(self) -> ImageSet:
        """The same images, none of them with a label."""
        return ImageSet(self.images, torch.full_like(self.labels, UNLABELLED))

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on a device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def first(self, count: int) -> ImageSet:
        """The first images, in order."""
        return ImageSet(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Dataset:
    """A data set, split. `mean` and `std` are per channel, of the train split, for images in [0, 1].

    Of a job without labels, `own_labels` are those that the data has all the same, by split, for figures that
    are only reported.
    """

    name: str
    classes: int
    channels: int
    size: int
    splits: dict[str, ImageSet]
    content_sha256: str
    class_names: list[str] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own_labels: dict[str, Tensor] | None = None

    @property
    def split_sizes(self) -> dict[str, int]:
        """Images in each split."""
        return {name: len(images) for name, images in self.splits.items()}

    def training_images(self, splits: str) -> ImageSet:
        """What a run trains on: `search` the train split, `proof` train, meta and validation together.

        The train split comes first, so that an image has the same index in both.
        """
        if splits == "search":
            return self.splits["train"]
        parts = [self.splits[name] for name in ("train", "meta", "validation")]
        return ImageSet(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))


def as_float(images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images uint8 in 0..255 as floating point in [0, 1], the same to the bit on every device."""
    # By a tensor: CUDA multiplies by the inverse of a plain number, and half of the bytes become others.
    return images.to(dtype) / torch.full((), 255.0, dtype=dtype, device=images.device)


def majority_rate(labels: Tensor, *, classes: int) -> float:
    """The share of the most frequent class: what always guessing it would reach."""
    return float(torch.bincount(labels, minlength=classes).max() / len(labels))


def open_dataset(
    name: str,
    splits: Splits,
    *,
    datasets_file: Path | None = None,
    directory: Path | None = None,
    input_size: int | None = None,
    cache_directory: Path | None = None,
    is_labelled: bool = True,
) -> Dataset:
    """Open and split a data set.

    The name is `digits`, a table of `datasets_file`, or free where `directory` holds the data set itself.
    `input_size` is the side in pixels that images are brought to; by default the data's own. Decoded images
    are kept in `cache_directory`. Unless `is_labelled`, no split has labels, and the data need not have any,
    or usable ones.
    Raises SearchProblem: unknown_dataset, dataset_unreadable, dataset_empty,
    dataset_one_class, dataset_labels, dataset_pixels, dataset_too_small, dataset_too_large.
    """
    found = entry_of_directory(name, directory) if directory else find_entry(name, datasets_file)
    entry = replace(found, cache_directory=cache_directory, is_labelled=is_labelled)
    contents = reader_of(entry).read(entry, size=input_size)
    if is_labelled and not contents.has_labels:
        raise SearchProblem(
            f"the images of data set {name!r} have no labels: add them, or set data.labels to `none`",
            code="dataset_labels",
        )
    fault = label_fault(contents)
    if is_labelled and fault is not None:
        raise fault
    parts, own_labels = _dealt(contents, splits), None
    if not is_labelled:
        if fault is None:
            own_labels = {name: split.labels for name, split in parts.items()}
        contents = contents.without_labels()
        parts = {name: split.without_labels() for name, split in parts.items()}
    mean, std = channel_statistics(parts["train"].images)
    return Dataset(
        name=name,
        classes=len(contents.class_names),
        channels=contents.train.images.shape[1],
        size=contents.train.images.shape[-1],
        splits=parts,
        content_sha256=content_sha256(contents),
        class_names=contents.class_names,
        mean=mean,
        std=std,
        own_labels=own_labels,
    )


def available_datasets(datasets_file: Path | None) -> list[dict[str, Any]]:
    """What the catalogue says of each data set: name, kind, classes, channels, size, images.

    No image is decoded. A data set that cannot be read is listed with `error`, the sentence that says why.
    """
    found = [{"name": "digits", "kind": "digits", **_described(Entry(name="digits", kind="digits"))}]
    for name, table in read_tables(datasets_file).items():
        assert datasets_file is not None
        kind = table.get("kind") if isinstance(table, dict) else None
        try:
            figures = _described(entry_of(name, table, datasets_file))
        except SearchProblem as problem:
            figures = {"error": problem.message}
        found.append({"name": name, "kind": kind, **figures})
    return found


def data_kinds() -> dict[str, str]:
    """What each kind of data set is, in a sentence."""
    modules = {name: sys.modules[kind.read.__module__] for name, kind in kinds().items()}
    return {name: (module.__doc__ or "").strip().splitlines()[0] for name, module in modules.items()}


def _described(entry: Entry) -> dict[str, Any]:
    return dict(reader_of(entry).describe(entry))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images (N, C, H, W), on the scale [0, 1].

    Counted exactly in integers, so that they do not depend on the number of threads. A channel without any
    variation gets 1, so that dividing by it does no harm.
    """
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].reshape(-1), minlength=256).double()
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def content_sha256(contents: Contents) -> str:
    """Hash of all images and labels as they are in memory, before the split; without labels of the images
    alone."""
    digest = hashlib.sha256()
    for name in (Part.TRAIN, Part.TEST, Part.VALIDATION):
        part = contents.parts.get(name)
        for tensor in _hashed(part) if part else ():
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hashed(part: Labelled) -> tuple[Tensor, ...]:
    return (part.images, part.labels) if part.has_labels else (part.images,)


def _dealt(contents: Contents, splits: Splits) -> dict[str, ImageSet]:
    parts = {str(name): part for name, part in contents.parts.items()}
    counts = {name: len(part) for name, part in parts.items()}
    shares = deal(counts, splits, defaults=contents.default_sizes)
    return {
        name: ImageSet(parts[share.part].images[share.indices], parts[share.part].labels[share.indices])
        for name, share in shares.items()
    }
