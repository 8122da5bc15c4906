"""Class folders of PNG and JPEG files, with or without folders for the train and test parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from search.datasets.contents import Contents, Entry, register_kind
from search.datasets.decoded import require_room, stored
from search.problems import SearchProblem

SUFFIXES = {".png", ".jpg", ".jpeg"}
DEFAULT_SIZE = 224
MAX_OWN_SIZE = 512
_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "val", "valid", "validation")
_GREY_MODES = {"1", "L", "LA"}


@dataclass(frozen=True)
class Listing:
    """The files of one part, in sorted order, with the number of their class."""

    files: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class Folder:
    """What lies in a data set's directory."""

    class_names: list[str]
    train: Listing
    test: Listing | None


@dataclass(frozen=True)
class Format:
    """How images are brought into memory."""

    channels: int
    size: int


def describe(entry: Entry) -> dict[str, int | None]:
    """Counts from the names of the files; size and channels from the first image's header."""
    folder = list_folder(entry)
    first = _format(entry, folder.train.files[:1], size=None)
    images = len(folder.train.files) + (len(folder.test.files) if folder.test else 0)
    return {
        "classes": len(folder.class_names),
        "channels": first.channels,
        "size": first.size,
        "images": images,
    }


@register_kind("imagefolder", describe=describe)
def read(entry: Entry, *, size: int | None) -> Contents:
    """All images, decoded once per node and kept in the cache directory.

    The data's own size is that of its images where all are squares of one size (at most 512), else 224:
    the shorter side is brought to the size, and the middle is cut out. Grey images stay grey if all are.
    """
    folder = list_folder(entry)
    files = [*folder.train.files, *(folder.test.files if folder.test else [])]
    # The fingerprint is of the files' status: opening 60,000 headers would take seconds at every start.
    fingerprint = _fingerprint(entry, files, size=size)
    return stored(entry.cache_directory, fingerprint, lambda: _decode_folder(entry, folder, files, size=size))


def list_folder(entry: Entry) -> Folder:
    """The files of a data set, by part and class; SearchProblem where there are none."""
    if entry.path is None or not entry.path.is_dir():
        raise SearchProblem(
            f"data set {entry.name!r}: {entry.path} is not a directory", code="dataset_unreadable"
        )
    train_root = _part(entry.path, entry.train, _TRAIN_FOLDERS)
    test_root = _part(entry.path, entry.test, _TEST_FOLDERS) if train_root or entry.test else None
    train_root = train_root or entry.path
    class_names = sorted(path.name for path in train_root.iterdir() if path.is_dir() and path != test_root)
    train = _list_part(entry, train_root, class_names)
    return Folder(class_names, train, _list_part(entry, test_root, class_names) if test_root else None)


def _part(root: Path, name: str | None, usual: Iterable[str]) -> Path | None:
    """The folder of a part: as named, or one of the usual names."""
    if name is not None:
        found = root / name
        if not found.is_dir():
            raise SearchProblem(f"{found} is not a directory", code="dataset_unreadable")
        return found
    return next((root / folder for folder in usual if (root / folder).is_dir()), None)


def _list_part(entry: Entry, root: Path, class_names: list[str]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    strange = {path.name for path in root.iterdir() if path.is_dir()} - {*class_names, entry.test or ""}
    if strange:
        raise SearchProblem(
            f"data set {entry.name!r}: {root.name} has classes that the training images lack: "
            f"{', '.join(sorted(strange)[:5])}",
            code="dataset_labels",
        )
    for label, name in enumerate(class_names):
        found = sorted(path for path in (root / name).glob("*") if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise SearchProblem(
            f"data set {entry.name!r}: no PNG or JPEG files in the class folders of {root}",
            code="dataset_empty",
        )
    return Listing(files, labels)


def _format(entry: Entry, files: list[Path], *, size: int | None) -> Format:
    """Channels and side, from the settings and otherwise from all the images' headers."""
    grey, sizes = True, set()
    for file in files:
        with _opened(file) as image:
            sizes.add(image.size)
            grey = grey and image.mode in _GREY_MODES
    width, height = next(iter(sizes))
    is_uniform = len(sizes) == 1 and width == height and width <= MAX_OWN_SIZE
    own = width if is_uniform else DEFAULT_SIZE
    return Format(channels=entry.channels or (1 if grey else 3), size=size or entry.size or own)


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=["PNG", "JPEG"])
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _decode_folder(entry: Entry, folder: Folder, files: list[Path], *, size: int | None) -> Contents:
    chosen = _format(entry, files, size=size)
    require_room(len(files), channels=chosen.channels, size=chosen.size)
    test = folder.test
    return Contents(
        images=_decode(folder.train.files, chosen),
        labels=torch.tensor(folder.train.labels),
        class_names=folder.class_names,
        test_images=_decode(test.files, chosen) if test else None,
        test_labels=torch.tensor(test.labels) if test else None,
    )


def _decode(files: list[Path], chosen: Format) -> Tensor:
    """uint8 (N, C, S, S)."""
    images = torch.empty((len(files), chosen.channels, chosen.size, chosen.size), dtype=torch.uint8)
    for index, file in enumerate(files):
        images[index] = _decode_one(file, chosen)
    return images


def _decode_one(file: Path, chosen: Format) -> Tensor:
    with _opened(file) as image:
        try:
            converted = image.convert("L" if chosen.channels == 1 else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from error
    if converted.size != (chosen.size, chosen.size):
        converted = _middle(converted, chosen.size)
    pixels = torch.from_numpy(np.array(converted))
    return pixels[None] if chosen.channels == 1 else pixels.permute(2, 0, 1)


def _middle(image: Image.Image, size: int) -> Image.Image:
    """The middle square, at that side."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # Cut first: resizing by `box` would mix in pixels from outside it.
    middle = image.crop((left, top, left + side, top + side))
    return middle.resize((size, size), Image.Resampling.BILINEAR)


def _fingerprint(entry: Entry, files: list[Path], *, size: int | None) -> str:
    """What the decoded images depend on: every file's place, length and time of change, and the settings."""
    asked = f"imagefolder 1 {entry.path} {entry.train} {entry.test} {size or entry.size} {entry.channels}\n"
    digest = hashlib.sha256(asked.encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable(file: Path, error: Exception) -> SearchProblem:
    return SearchProblem(
        f"the image {file} cannot be read ({error}); mend or remove it", code="dataset_unreadable"
    )
