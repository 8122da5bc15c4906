"""Directories of parquet files as Hugging Face writes image data sets: a column of bytes, a column of labels.

Read with pyarrow alone: nothing is fetched, no script of a data set is run, and a path that stands beside or
instead of an image's bytes is never followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search.datasets.contents import Contents, Entry, Labelled, Part, register_kind
from search.datasets.decoded import fingerprint, require_room, stored
from search.datasets.labels import numbered
from search.datasets.parts import has_shards, shards_by_part
from search.datasets.pictures import Picture, decode, survey
from search.problems import SearchProblem

SUFFIXES = (".parquet",)
SETTINGS = ("train", "validation", "test", "size", "channels", "classes", "image_key", "label_key")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
ROWS_AT_A_TIME = 64
MAX_ROW_GROUP_BYTES = 4 * 1024**3
MAX_FOOTER_BYTES = 256 * 1024**2


def describe(entry: Entry) -> dict[str, int | None]:
    """Rows from the footers, classes from the schema, the first image's header."""
    files = shards_by_part(entry, SUFFIXES)
    first = next(_pictures(entry, files[Part.TRAIN][:1]), None)
    chosen = survey([first] if first else []).format(entry, size=None)
    names = entry.classes or _class_names(entry, files[Part.TRAIN][0])
    return {
        "classes": len(names) if names else None,
        "channels": chosen.channels,
        "size": chosen.size,
        "images": sum(_opened(file).metadata.num_rows for paths in files.values() for file in paths),
    }


def recognises(directory: Path) -> bool:
    """Whether parquet files lie there, in `data`, or in folders of parts."""
    return has_shards(directory, SUFFIXES)


@register_kind("parquet", describe=describe, recognises=recognises, settings=SETTINGS)
def read(entry: Entry, *, size: int | None) -> Contents:
    """All rows of all files, decoded once per node and kept in the cache directory."""
    files = shards_by_part(entry, SUFFIXES)
    name = fingerprint(entry, [file for paths in files.values() for file in paths], size=size)
    return stored(entry.cache_directory, name, lambda: _decode(entry, files, size=size))


def _decode(entry: Entry, files: dict[Part, list[Path]], *, size: int | None) -> Contents:
    raw = {part: _labels(entry, paths) for part, paths in files.items()}
    labels, names = numbered(entry, raw, names=_class_names(entry, files[Part.TRAIN][0]))
    found = survey(_pictures(entry, [file for paths in files.values() for file in paths]))
    chosen = found.format(entry, size=size)
    require_room(found.count, channels=chosen.channels, size=chosen.size)
    parts = {
        part: Labelled(decode(_pictures(entry, paths), chosen, count=len(labels[part])), labels[part])
        for part, paths in files.items()
    }
    return Contents.of(parts, names)


@contextmanager
def _damage_in_words(path: Path) -> Iterator[None]:
    """What pyarrow raises for a damaged file, and what names and texts that are no UTF-8 raise."""
    import pyarrow  # a tenth of a second to import, so only where there is parquet

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> Any:
    """A pyarrow ParquetFile. Raises SearchProblem `dataset_unreadable`."""
    from pyarrow import parquet

    with _damage_in_words(path):
        # Extension types of a file could name classes: they are left as what they are stored as.
        file = parquet.ParquetFile(
            path, thrift_string_size_limit=MAX_FOOTER_BYTES, arrow_extensions_enabled=False
        )
        for field in file.schema_arrow:
            str(field)  # decodes the names, those inside of structs too
    for index in range(file.metadata.num_row_groups):
        if file.metadata.row_group(index).total_byte_size > MAX_ROW_GROUP_BYTES:
            raise _unreadable(
                path,
                f"row group {index} unpacks to more than {MAX_ROW_GROUP_BYTES // 1024**3} GiB; write smaller",
            )
    return file


def _values(path: Path, column: str) -> Iterator[object]:
    """The rows of one column, a few at a time in memory."""
    file = _opened(path)
    with _damage_in_words(path):
        for batch in file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()


def _labels(entry: Entry, files: Iterable[Path]) -> list[object]:
    return [label for path in files for label in _values(path, _label_column(entry, path))]


def _pictures(entry: Entry, files: Iterable[Path]) -> Iterator[Picture]:
    for path in files:
        name = _image_column(entry, path)
        for row, content in enumerate(_values(path, name)):
            encoded = content.get("bytes") if isinstance(content, dict) else content
            if not isinstance(encoded, bytes):
                raise _unreadable(
                    path, f"row {row} of column {name!r} has no bytes of an image; put them into it"
                )
            yield Picture(f"in row {row} of {path}", encoded)


def _image_column(entry: Entry, path: Path) -> str:
    """As set, else by its usual name, else the only one that holds bytes."""
    import pyarrow

    schema = _opened(path).schema_arrow

    def holds_images(field: Any) -> bool:
        kind = field.type
        if pyarrow.types.is_struct(kind):
            index = kind.get_field_index("bytes")
            return index >= 0 and _is_binary(kind.field(index).type)
        return _is_binary(kind)

    return _chosen(
        entry.image_key,
        IMAGE_COLUMNS,
        {field.name: holds_images(field) for field in schema},
        path=path,
        wish="the encoded bytes of images",
        key="image_key",
    )


def _is_binary(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _label_column(entry: Entry, path: Path) -> str:
    """As set, else by its usual name, else the only one of whole numbers or text."""
    import pyarrow

    types = pyarrow.types

    def holds_labels(field: Any) -> bool:
        kind = field.type.value_type if types.is_dictionary(field.type) else field.type
        return bool(types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind))

    return _chosen(
        entry.label_key,
        LABEL_COLUMNS,
        {field.name: holds_labels(field) for field in _opened(path).schema_arrow},
        path=path,
        wish="labels, whole numbers or names",
        key="label_key",
    )


def _chosen(
    named: str | None, usual: Iterable[str], columns: dict[str, bool], *, path: Path, wish: str, key: str
) -> str:
    fitting = [name for name, is_fitting in columns.items() if is_fitting]
    for name in [named] if named else usual:
        if name in fitting:
            return name
        if name in columns:
            raise SearchProblem(
                f"column {name!r} of {path} does not hold {wish}; set `{key}` in datasets.toml",
                code="dataset_unreadable" if key == "image_key" else "dataset_labels",
            )
    if named is None and len(fitting) == 1:
        return fitting[0]
    raise SearchProblem(
        f"no column of {path} is {'named ' + repr(named) if named else 'known to hold ' + wish}; set `{key}` "
        f"in datasets.toml to one of: {', '.join(columns)}",
        code="dataset_unreadable" if key == "image_key" else "dataset_labels",
    )


def _class_names(entry: Entry, path: Path) -> list[str] | None:
    """The names that Hugging Face keeps in the schema for the column of labels."""
    metadata = _opened(path).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = features[_label_column(entry, path)]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # others write parquet too
    is_named = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return names if is_named else None


def _unreadable(path: Path, reason: object) -> SearchProblem:
    return SearchProblem(
        f"{path} cannot be read as parquet ({reason}); mend it or fetch it anew", code="dataset_unreadable"
    )
