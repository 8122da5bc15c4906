"""Where a data set's files may lie: inside its own directory, after all links are resolved."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

from search.datasets.contents import Entry
from search.problems import SearchProblem


def root_of(entry: Entry) -> Path:
    """The data set's directory, resolved. Raises SearchProblem `dataset_unreadable` if there is none."""
    if entry.path is None or not entry.path.is_dir():
        raise SearchProblem(
            f"data set {entry.name!r}: {entry.path} is not a directory; correct its path",
            code="dataset_unreadable",
        )
    return entry.path.resolve()


def visible(directory: Path, root: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in a directory, but for hidden names; a link that leads out of `root` is refused.

    Raises SearchProblem `dataset_unreadable`, also where the directory cannot be listed.
    """
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():  # told by the listing itself: nothing is asked per plain file
                    require_inside(Path(entry.path), root)
                yield entry
    except OSError as error:
        raise SearchProblem(
            f"{directory} cannot be listed: {error.strerror or error}; give Limbeck the right to read it",
            code="dataset_unreadable",
        ) from error


def files_in(directory: Path, root: Path, suffixes: Container[str]) -> list[Path]:
    """The files of a directory with these endings, in lower case, sorted.

    Raises SearchProblem `dataset_unreadable` for what has such a name and is no file: a link that leads
    nowhere would be an image less without a word, and opening a pipe would wait for ever.
    """
    found = []
    for entry in visible(directory, root):
        path = Path(entry.path)
        if path.suffix.lower() in suffixes:
            require_file(path)
            found.append(path)
    return sorted(found)


def require_file(path: Path) -> None:
    """Raise SearchProblem `dataset_unreadable` for what is no file: a folder, a pipe, a link to nowhere."""
    if not os.path.lexists(path):
        raise SearchProblem(f"{path} is missing: fetch the data set anew", code="dataset_unreadable")
    if not path.is_file():
        raise SearchProblem(
            f"{path} has the name of a data file and is none, but a folder, a pipe, or a link that leads "
            "nowhere: mend or remove it",
            code="dataset_unreadable",
        )


def require_inside(path: Path, root: Path) -> None:
    """Raise SearchProblem `dataset_unreadable` for a path that leads out of a resolved root."""
    if not path.resolve().is_relative_to(root):
        raise SearchProblem(
            f"{path} leads out of the data set's directory {root}: copy what it points to into the directory "
            "(cp -rL follows links)",
            code="dataset_unreadable",
        )


def child(root: Path, name: str) -> Path:
    """A file or folder below the root, by a relative name that stays inside."""
    path = root / name
    require_inside(path, root)
    return path
