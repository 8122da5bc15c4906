"""`datasets.toml`: which data sets an installation has, by name.

[datasets.flowers]
kind = "imagefolder"      # or cifar, idx, parquet, webdataset: docs/datasets.md has a table of each
path = "flowers"          # relative to this file, or absolute
train = "train"           # optional: which files are the parts, validation and test likewise
test = "val"
size = 64                 # optional: side in pixels; channels = 1 or 3; classes = names in the labels' order
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from search.datasets import Entry, kinds
from search.datasets.labels import MAX_CLASSES
from search.problems import SearchProblem

BUILT_IN = "digits"
FALLBACK = "imagefolder"
NonEmpty = Annotated[str, Field(min_length=1)]


class DatasetTable(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: str
    path: str
    train: NonEmpty | None = None
    validation: NonEmpty | None = None
    test: NonEmpty | None = None
    size: int | None = Field(default=None, ge=8, le=4096)
    channels: Literal[1, 3] | None = None
    classes: list[NonEmpty] | None = Field(default=None, min_length=2, max_length=MAX_CLASSES)
    image_key: NonEmpty | None = None
    label_key: NonEmpty | None = None

    @field_validator("classes")
    @classmethod
    def _all_different(cls, classes: list[str] | None) -> list[str] | None:
        if classes and (doubled := next((name for name in classes if classes.count(name) > 1), None)):
            raise ValueError(f"{doubled!r} is named twice")
        return classes


def find_entry(name: str, datasets_file: Path | None) -> Entry:
    """The data set of that name, or SearchProblem `unknown_dataset` with the nearest names."""
    if name == BUILT_IN:
        return Entry(name=BUILT_IN, kind="digits")
    tables = read_tables(datasets_file)
    if datasets_file is not None and name in tables:
        return entry_of(name, tables[name], datasets_file)
    known = [BUILT_IN, *tables]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise SearchProblem(f"unknown data set {name!r}; {hint}", code="unknown_dataset")


def read_tables(datasets_file: Path | None) -> dict[str, Any]:
    """The file's tables by name, unchecked; none where there is no file."""
    if datasets_file is None or not datasets_file.is_file():
        return {}
    try:
        tables = tomllib.loads(datasets_file.read_text()).get("datasets", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise _faulty(f"{datasets_file.name} cannot be read: {error}") from error
    if not isinstance(tables, dict):
        raise _faulty(f"`datasets` in {datasets_file.name} is not a table: write [datasets.NAME]")
    if BUILT_IN in tables:
        raise _faulty(f"[datasets.{BUILT_IN}] in {datasets_file.name}: {BUILT_IN} are built in; rename it")
    return tables


def entry_of(name: str, table: Any, datasets_file: Path) -> Entry:
    """A table checked, or SearchProblem `dataset_unreadable` that says what is wrong with it."""
    where = f"[datasets.{name}] in {datasets_file.name}"
    try:
        checked = DatasetTable.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
        raise _faulty(f"{where}: {faults}") from error
    if checked.kind not in kinds():
        raise _faulty(f"{where} has kind {checked.kind!r}; known kinds: {', '.join(kinds())}")
    given = checked.model_dump(exclude_none=True)
    unused = sorted(given.keys() - {"kind", "path"} - kinds()[checked.kind].settings)
    if unused:
        raise _faulty(f"{where}: kind {checked.kind!r} has no setting {', '.join(unused)}; remove it")
    path = datasets_file.parent / Path(checked.path).expanduser()
    classes = tuple(checked.classes) if checked.classes else None
    return Entry(name=name, **{**given, "path": path, "classes": classes})


def entry_of_directory(name: str, directory: Path) -> Entry:
    """A data set given as a directory, its kind told by the names of its files.

    Raises SearchProblem `dataset_unreadable` where that is not clear, `dataset_empty` where nothing is known.
    """
    if not directory.is_dir():
        raise _faulty(f"{directory} is not a directory")
    found = [kind for kind, reader in kinds().items() if reader.recognises(directory)]
    if len(found) > 1:
        raise _faulty(
            f"{directory} holds files of several kinds ({', '.join(found)}): keep one, or name it in a "
            f"datasets.toml with its kind, and give that with --datasets-file"
        )
    if not found and not any(path.is_dir() for path in directory.iterdir()):
        raise SearchProblem(
            f"{directory} holds no data set of a known kind ({', '.join(kinds())}): it has neither class "
            "folders nor files with the names that docs/datasets.md lists",
            code="dataset_empty",
        )
    return Entry(name=name, kind=found[0] if found else FALLBACK, path=directory)


def name_of_directory(directory: Path) -> str:
    """A data set's name for a directory: its own last part, of the characters that names have."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", directory.resolve().name).strip("-") or "data"
    return f"own-{name}" if name == BUILT_IN else name


def write_datasets_file(path: Path, directory: Path) -> None:
    """A file that names this one directory. Raises SearchProblem `dataset_unreadable` if it is none."""
    entry = entry_of_directory(name_of_directory(directory), directory)
    text = json.dumps(str(directory.resolve()))  # JSON's strings are TOML's
    path.write_text(f'[datasets.{entry.name}]\nkind = "{entry.kind}"\npath = {text}\n')


def _faulty(message: str) -> SearchProblem:
    return SearchProblem(message, code="dataset_unreadable")
