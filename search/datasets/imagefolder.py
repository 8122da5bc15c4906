"""Class folders of images, with or without folders for the train, validation and test parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from search.datasets.contents import UNLABELLED, Contents, Entry, Labelled, Part, register_kind
from search.datasets.decoded import fingerprint, require_room, stored
from search.datasets.labels import in_natural_order
from search.datasets.parts import PART_NAMES, require_apart, roles
from search.datasets.pictures import (
    SUFFIXES,
    Format,
    decode,
    files_as_pictures,
    survey,
)
from search.datasets.places import child, files_in, root_of, visible
from search.problems import SearchProblem

SETTINGS = ("train", "validation", "test", "size", "channels", "classes")


@dataclass(frozen=True)
class Listing:
    """The files of one part, in sorted order, with the number of their class."""

    files: list[Path]
    labels: list[int]


@dataclass(frozen=True)
class Folder:
    """What lies in a data set's directory."""

    class_names: list[str]
    parts: dict[Part, Listing]

    @property
    def files(self) -> list[Path]:
        """All files, part by part."""
        return [file for listing in self.parts.values() for file in listing.files]


def describe(entry: Entry) -> dict[str, int | None]:
    """Counts from the names of the files; size and channels from the first image's header."""
    folder = list_folder(replace(entry, is_labelled=False))
    first = survey(files_as_pictures(folder.files[:1])).format(entry, size=None)
    return {
        "classes": len(folder.class_names),
        "channels": first.channels,
        "size": first.size,
        "images": len(folder.files),
    }


def recognises(directory: Path) -> bool:
    """Whether there are images in class folders, right in the directory or in a part's folder."""
    root = directory.resolve()
    part_names = {name for names in PART_NAMES.values() for name in names}
    tops = [root, *(root / name for name in _folders(root, root) if name in part_names)]
    return any(_holds_images(top / name, root) for top in tops for name in _folders(top, root))


def _holds_images(folder: Path, root: Path) -> bool:
    return any(Path(found.name).suffix.lower() in SUFFIXES for found in visible(folder, root))


@register_kind("imagefolder", describe=describe, recognises=recognises, settings=SETTINGS)
def read(entry: Entry, *, size: int | None) -> Contents:
    """All images, decoded once per node and kept in the cache directory."""
    folder = list_folder(entry)
    name = fingerprint(entry, folder.files, size=size)
    return stored(entry.cache_directory, name, lambda: _decode_folder(entry, folder, size=size))


def list_folder(entry: Entry) -> Folder:
    """The files of a data set, by part and class; SearchProblem where there are none.

    Where no labels are needed, a part without class folders may hold its images itself.
    """
    root = root_of(entry)
    roots = _part_roots(entry, root)
    train_root = roots.get(Part.TRAIN, root)
    others = {folder for part, folder in roots.items() if part != Part.TRAIN}
    folders = {name for name in _folders(train_root, root) if train_root / name not in others}
    class_names = list(entry.classes or in_natural_order(folders))
    parts = {Part.TRAIN: _list_part(entry, train_root, class_names, folders)}
    for part, folder in roots.items():
        if part != Part.TRAIN:
            parts[part] = _list_part(entry, folder, class_names, set(_folders(folder, root)))
    return Folder(class_names, parts)


def _part_roots(entry: Entry, root: Path) -> dict[Part, Path]:
    """The folders of the parts: as named, or by their usual names where there is one for training."""
    found = {part: folder for part in Part if (folder := _named(entry, root, part))}
    claimed = require_apart(entry, {part: [folder] for part, folder in found.items()})
    usual = {part: folder for part in Part if (folder := _usual(root, part)) and folder not in claimed}
    if Part.TRAIN in {**usual, **found}:
        found = {**usual, **found}
    return roles(entry, found)


def _named(entry: Entry, root: Path, part: Part) -> Path | None:
    name = entry.named(part)
    if name is None:
        return None
    found = child(root, name)
    if not found.is_dir():
        raise SearchProblem(
            f"{found} is not a directory: correct `{part}` of {entry.name!r}", code="dataset_unreadable"
        )
    return found


def _usual(root: Path, part: Part) -> Path | None:
    return next((child(root, name) for name in PART_NAMES[part] if (root / name).is_dir()), None)


def _folders(directory: Path, root: Path) -> list[str]:
    return [found.name for found in visible(directory, root) if found.is_dir()]


def _list_part(entry: Entry, folder: Path, class_names: list[str], folders: set[str]) -> Listing:
    if strange := folders - set(class_names):
        source = "`classes` does" if entry.classes else "the training images do"
        raise SearchProblem(
            f"data set {entry.name!r}: {folder.name} has classes that {source} not have: "
            f"{', '.join(sorted(strange)[:5])}; rename or remove them",
            code="dataset_labels",
        )
    root = root_of(entry)
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        found = files_in(folder / name, root, SUFFIXES) if name in folders else []
        files += found
        labels += [label] * len(found)
    if not files and not entry.is_labelled:
        files = _unsorted(entry, folder)
        labels = [UNLABELLED] * len(files)
    if not files:
        raise SearchProblem(
            f"data set {entry.name!r}: no image files in class folders of {folder}; expected "
            f"{folder.name}/CLASS/IMAGE with one of the endings {', '.join(sorted(SUFFIXES))}",
            code="dataset_empty",
        )
    return Listing(files, labels)


def _unsorted(entry: Entry, folder: Path) -> list[Path]:
    """Images that lie in no class folder; the table has to say what the teacher tells apart."""
    files = files_in(folder, root_of(entry), SUFFIXES)
    if files and not entry.classes:
        raise SearchProblem(
            f"data set {entry.name!r}: the images of {folder} are in no class folders: list `classes` in "
            "datasets.toml, one name for each output of the teacher, in its order",
            code="dataset_labels",
        )
    return files


def _decode_folder(entry: Entry, folder: Folder, *, size: int | None) -> Contents:
    chosen = survey(files_as_pictures(folder.files)).format(entry, size=size)
    require_room(len(folder.files), channels=chosen.channels, size=chosen.size)
    parts = {part: _decode_part(listing, chosen) for part, listing in folder.parts.items()}
    return Contents.of(parts, folder.class_names)


def _decode_part(listing: Listing, chosen: Format) -> Labelled:
    images = decode(files_as_pictures(listing.files), chosen, count=len(listing.files))
    return Labelled(images, torch.tensor(listing.labels))
