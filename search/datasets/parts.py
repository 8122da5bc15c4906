"""Which files are the train, validation and test part of a data set, told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from search.datasets.contents import Entry, Part
from search.datasets.places import require_file, require_inside, root_of, visible
from search.problems import SearchProblem

T = TypeVar("T")

PART_NAMES = {
    Part.TRAIN: ("train", "training"),
    Part.VALIDATION: ("validation", "valid", "val", "dev"),
    Part.TEST: ("test", "testing"),
}
_PART_OF = {name: part for part, names in PART_NAMES.items() for name in names}


def roles(entry: Entry, found: dict[Part, T]) -> dict[Part, T]:
    """The parts as they are used: a lone validation part is the test part, as with ImageNet.

    Unless the table itself says `validation`.
    """
    if Part.VALIDATION in found and Part.TEST not in found and entry.validation is None:
        return {Part.TEST if part == Part.VALIDATION else part: value for part, value in found.items()}
    return found


def shards_by_part(entry: Entry, suffixes: tuple[str, ...]) -> dict[Part, list[Path]]:
    """Files with these endings, sorted, by part; at least one for training.

    A pattern of the table comes first (`train = "data/train-*.parquet"`), then the name of the file or its
    folder. Where no name tells a part, all are for training; else files without one are left out.
    Raises SearchProblem `dataset_empty`, and `dataset_unreadable` for what leads out of the directory.
    """
    root = root_of(entry)
    matched = {part: _matching(entry, root, part) for part in Part}
    claimed = require_apart(entry, matched)
    listed = sorted(path for path in _candidates(root, suffixes) if path not in claimed)
    told = {part: [path for path in listed if part_of(path.relative_to(root)) == part] for part in Part}
    if not any(told.values()):
        told[Part.TRAIN] = listed
    found = {part: matched[part] or told[part] for part in Part}
    parts = roles(entry, {part: paths for part, paths in found.items() if paths})
    if Part.TRAIN not in parts:
        raise SearchProblem(
            f"data set {entry.name!r}: no {' or '.join(suffixes)} files for training in {root}; name them by "
            "`train` in datasets.toml",
            code="dataset_empty",
        )
    return parts


def require_apart(entry: Entry, named: Mapping[Part, Iterable[Path]]) -> set[Path]:
    """All files or folders that the table names, of which none may be in two parts.

    Raises SearchProblem `dataset_unreadable`: images on which a student is judged must not have taught it.
    """
    part_of_path: dict[Path, Part] = {}
    for part, paths in named.items():
        for path in paths:
            other = part_of_path.setdefault(path, part)
            if other != part:
                raise SearchProblem(
                    f"{path} is in two parts of {entry.name!r}, `{other}` and `{part}`: name every file once",
                    code="dataset_unreadable",
                )
    return set(part_of_path)


def part_of(path: Path) -> Part | None:
    """The part that a relative path names: `data/train-00000.parquet`, `flowers-val-3.tar`, `test/0.tar`."""
    for piece in reversed(path.parts):
        for word in re.split(r"[^A-Za-z]+", piece.lower()):
            if word in _PART_OF:
                return _PART_OF[word]
    return None


def has_shards(directory: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether such files lie in a directory, where `shards_by_part` would look."""
    return next(_candidates(directory.resolve(), suffixes), None) is not None


def _candidates(root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """In the root, in `data`, and in folders that are named after a part, in either; no deeper."""
    for folder in (root, root / "data"):
        for place in (folder, *_part_folders(folder, root)):
            yield from _shards_in(place, root, suffixes)


def _part_folders(folder: Path, root: Path) -> list[Path]:
    found = visible(folder, root) if folder.is_dir() else ()
    return [Path(entry.path) for entry in found if entry.name.lower() in _PART_OF and entry.is_dir()]


def _shards_in(folder: Path, root: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    found = visible(folder, root) if folder.is_dir() else ()
    for path in (Path(entry.path) for entry in found if entry.name.endswith(suffixes)):
        require_file(path)
        yield path


def _matching(entry: Entry, root: Path, part: Part) -> list[Path]:
    """The files that the table's pattern for a part matches, none where there is no pattern."""
    pattern = entry.named(part)
    if pattern is None:
        return []
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise SearchProblem(
            f"`{part} = {pattern!r}` of {entry.name!r} leads out of its directory: write a pattern relative "
            "to `path`",
            code="dataset_unreadable",
        )
    found = sorted(root.glob(pattern))
    for path in found:
        require_inside(path, root)
        require_file(path)
    if not found:
        raise SearchProblem(
            f"no file in {root} matches `{part} = {pattern!r}` of {entry.name!r}", code="dataset_empty"
        )
    return found
