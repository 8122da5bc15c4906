"""IDX files: MNIST, Fashion-MNIST, KMNIST, EMNIST and others written the same way, gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from search.datasets.arrays import brought_to
from search.datasets.contents import Contents, Entry, Labelled, Part, register_kind
from search.datasets.decoded import MAX_BYTES, fingerprint, require_room, stored
from search.datasets.labels import numbered
from search.datasets.parts import require_apart, roles
from search.datasets.pictures import bytes_of_floats
from search.datasets.places import require_file, require_inside, root_of, visible
from search.problems import SearchProblem

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PREFIXES = {
    Part.TRAIN: ("train",),
    Part.VALIDATION: ("validation", "valid", "val"),
    Part.TEST: ("t10k", "test"),
}
_NAME = re.compile(r"(?P<prefix>.+)-(?P<content>images|labels)[-.]idx\d-[a-z0-9]+(\.gz)?")
SETTINGS = ("train", "validation", "test", "size", "channels", "classes")


@dataclass(frozen=True)
class Header:
    """What the first bytes of a file say: the type of its numbers, and its shape."""

    type: np.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Length of the array that follows."""
        return math.prod(self.shape) * self.type.itemsize


@dataclass(frozen=True)
class Pair:
    """The two files of a part."""

    images: Path
    labels: Path


def describe(entry: Entry) -> dict[str, int | None]:
    """Headers of the images, and the labels."""
    pairs = find_pairs(entry)
    headers = {part: _image_header(pair.images) for part, pair in pairs.items()}
    first = headers[Part.TRAIN]
    raw = {part: read_labels(pair.labels) for part, pair in pairs.items()}
    _, names = numbered(replace(entry, is_labelled=False), raw)
    return {
        "classes": len(names),
        "channels": entry.channels or _channels(first),
        "size": entry.size or min(first.shape[1:3]),
        "images": sum(header.shape[0] for header in headers.values()),
    }


def recognises(directory: Path) -> bool:
    """Whether files with the names of MNIST's lie there, or in the folder `raw`."""
    root = directory.resolve()
    return any(_NAME.fullmatch(found.name) for found in visible(_folder(root), root))


@register_kind("idx", describe=describe, recognises=recognises, settings=SETTINGS)
def read(entry: Entry, *, size: int | None) -> Contents:
    """All images, grey (N, H, W) or with channels last (N, H, W, C)."""
    pairs = find_pairs(entry)
    files = [file for pair in pairs.values() for file in (pair.images, pair.labels)]
    return stored(
        entry.cache_directory,
        fingerprint(entry, files, size=size),
        lambda: _decode(entry, pairs, size=size),
    )


def _decode(entry: Entry, pairs: dict[Part, Pair], *, size: int | None) -> Contents:
    labels, names = numbered(entry, {part: read_labels(pair.labels) for part, pair in pairs.items()})
    first = _image_header(pairs[Part.TRAIN].images)
    side, channels = size or entry.size or min(first.shape[1:3]), entry.channels or _channels(first)
    count = sum(_image_header(pair.images).shape[0] for pair in pairs.values())
    require_room(count, channels=channels, size=side)
    parts = {
        part: Labelled(brought_to(read_images(pair.images), size=side, channels=channels), labels[part])
        for part, pair in pairs.items()
    }
    return Contents.of(parts, names)


def find_pairs(entry: Entry) -> dict[Part, Pair]:
    """The files of each part, by the beginnings of their names.

    Raises SearchProblem `dataset_empty` where those for training are missing, and `dataset_unreadable` where
    a file has no partner, or two have the same role.
    """
    root = root_of(entry)
    folder = _folder(root)
    matches = [match for found in visible(folder, root) if (match := _NAME.fullmatch(found.name))]
    named = {part: (prefix,) for part in Part if (prefix := entry.named(part))}
    claimed = require_apart(entry, {part: [folder / name for name in names] for part, names in named.items()})
    found = {}
    for part, usual in _PREFIXES.items():
        prefixes = named.get(part) or [name for name in usual if folder / name not in claimed]
        pair = _pair(entry, folder, matches, part, prefixes)
        if pair is not None:
            found[part] = pair
    if Part.TRAIN not in found:
        names = ", ".join(sorted({match["prefix"] for match in matches})[:5])
        raise SearchProblem(
            f"data set {entry.name!r}: no train-images-idx3-ubyte and train-labels-idx1-ubyte in {folder}"
            + (f"; set `train` to how the names begin, one of: {names}" if names else ""),
            code="dataset_empty",
        )
    return roles(entry, found)


def _folder(root: Path) -> Path:
    """torchvision downloads into a folder `raw`."""
    raw = root / "raw"
    require_inside(raw, root)
    return raw if raw.is_dir() else root


def _pair(
    entry: Entry, folder: Path, matches: list[re.Match[str]], part: Part, prefixes: Sequence[str]
) -> Pair | None:
    files = {}
    for content in ("images", "labels"):
        names = sorted(m[0] for m in matches if m["prefix"] in prefixes and m["content"] == content)
        # Of a file and the same file gzipped, which torchvision leaves side by side, the plain one.
        names = [name for name in names if name.removesuffix(".gz") not in names or not name.endswith(".gz")]
        if len(names) > 1:
            raise SearchProblem(
                f"data set {entry.name!r}: {' and '.join(names)} are both {content} of the {part} part; "
                "leave one",
                code="dataset_unreadable",
            )
        if names:
            files[content] = folder / names[0]
            require_file(files[content])
    if len(files) == 1 or (not files and entry.named(part)):
        raise SearchProblem(
            f"data set {entry.name!r}: the {part} part needs two files, PREFIX-images-idx3-ubyte and "
            f"PREFIX-labels-idx1-ubyte with PREFIX {' or '.join(prefixes)}; {folder} has "
            f"{next(iter(files.values())).name if files else 'none of them'}",
            code="dataset_unreadable",
        )
    return Pair(**files) if files else None


def read_images(path: Path) -> Tensor:
    """uint8 (N, C, H, W). Raises SearchProblem `dataset_pixels` for values that are no pixels."""
    array = _read_array(path, _image_header(path))
    if array.dtype.kind == "f":
        array = bytes_of_floats(array, str(path))
    elif array.size and (array.min() < 0 or array.max() > 255):
        raise SearchProblem(
            f"{path} holds pixels from {array.min()} to {array.max()}: bring them to 0..255",
            code="dataset_pixels",
        )
    pixels = torch.from_numpy(array.astype(np.uint8))
    return pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)


def read_labels(path: Path) -> list[object]:
    """One number for each image; of several columns the first, as in QMNIST."""
    array = _read_array(path, _header(path))
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] == 0):
        raise _malformed(path, f"labels of shape {array.shape} are not one number for each image")
    return list((array if array.ndim == 1 else array[:, 0]).tolist())


def _image_header(path: Path) -> Header:
    header = _header(path)
    shape = header.shape
    if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) or 0 in shape[1:]:
        raise _malformed(path, f"its shape {shape} is neither (N, H, W) nor (N, H, W, 1 or 3)")
    return header


def _channels(header: Header) -> int:
    return header.shape[3] if len(header.shape) == 4 else 1


def _header(path: Path) -> Header:
    with _Opened(path) as file:
        return _read_header(file, path)


def _read_header(file: IO[bytes], path: Path) -> Header:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES or start[3] == 0:
        raise _malformed(path, "it does not begin as one")
    raw = file.read(4 * start[3])
    dimensions = np.frombuffer(raw, dtype=">i4", count=len(raw) // 4)
    if len(dimensions) < start[3] or (dimensions < 0).any():
        raise _malformed(path, "its header is cut short")
    header = Header(np.dtype(_TYPES[start[2]]), tuple(int(size) for size in dimensions))
    if header.bytes > MAX_BYTES:
        raise SearchProblem(
            f"{path} says that it holds {header.bytes / 1024**3:.0f} GiB, more than {MAX_BYTES // 1024**3}: "
            "use fewer images",
            code="dataset_too_large",
        )
    return header


def _read_array(path: Path, header: Header) -> np.ndarray:
    with _Opened(path) as file:
        _read_header(file, path)
        raw = file.read(header.bytes + 1)  # never more than the header says, whatever gzip would give
    if len(raw) != header.bytes:
        have = f"{len(raw)} bytes" if len(raw) < header.bytes else "more"
        raise _malformed(path, f"its header says {header.bytes} bytes of numbers, but there are {have}")
    return np.frombuffer(raw, dtype=header.type).reshape(header.shape)


class _Opened:
    """A file, unpacked if its name ends in `.gz`; what goes wrong inside is said in words."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> IO[bytes]:
        try:
            self.file: IO[bytes] = (
                gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")  # type: ignore[assignment]
            )
        except OSError as error:
            raise _malformed(self.path, error.strerror) from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, (EOFError, OSError, zlib.error)):
            raise _malformed(self.path, error) from error


def _malformed(path: Path, reason: object) -> SearchProblem:
    return SearchProblem(
        f"{path} is not a whole IDX file ({reason}); fetch it anew", code="dataset_unreadable"
    )
