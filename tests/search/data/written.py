"""The handwritten digits, written by the tests themselves into every format that is read."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

SIDE = 32
Parts = Mapping[str, tuple[np.ndarray, list[int]]]


@lru_cache
def digits(start: int = 0, stop: int = 200) -> tuple[np.ndarray, list[int]]:
    """Real digits, uint8 (N, 32, 32), every pixel of the 8x8 originals four times as long and wide."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = (data.images[start:stop] * 15).astype(np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2), data.target[start:stop].tolist()


def train_and_test() -> Parts:
    return {"train": digits(0, 160), "test": digits(160, 200)}


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """One image as a file's bytes."""
    return encoded_image(Image.fromarray(pixels), kind)


def encoded_image(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_folder(root: Path, parts: Parts) -> None:
    for part, (images, labels) in parts.items():
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / part / f"digit {label}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:04}.png").write_bytes(encoded(pixels))


def write_cifar(root: Path, parts: Parts) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in parts.items():
        rows = images[:, None].repeat(3, axis=1).reshape(len(images), -1)
        content = {b"data": rows, b"labels": labels}
        name = {"train": "data_batch_1", "test": "test_batch"}[part]
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    names = [f"digit {digit}".encode() for digit in range(10)]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))


def idx_bytes(array: np.ndarray, code: int, *, shape: Sequence[int] | None = None) -> bytes:
    """An IDX file: magic number, dimensions, numbers; all big-endian."""
    shape = array.shape if shape is None else shape
    kind = {8: ">u1", 9: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}[code]
    return struct.pack(f">HBB{len(shape)}i", 0, code, len(shape), *shape) + array.astype(kind).tobytes()


def write_idx(root: Path, parts: Parts, *, suffix: str = ".gz") -> None:
    root.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in parts.items():
        prefix = "t10k" if part == "test" else part
        for name, raw in {
            f"{prefix}-images-idx3-ubyte": idx_bytes(images, 8),
            f"{prefix}-labels-idx1-ubyte": idx_bytes(np.array(labels), 8),
        }.items():
            (root / f"{name}{suffix}").write_bytes(gzip.compress(raw) if suffix else raw)


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def tar_members(images: np.ndarray, labels: list[int]) -> list[tuple[str, bytes]]:
    members = []
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        members += [(f"{number:04}.png", encoded(pixels)), (f"{number:04}.cls", str(label).encode())]
    return members


def write_webdataset(root: Path, parts: Parts) -> None:
    for part, (images, labels) in parts.items():
        half = len(labels) // 2
        for shard, chosen in enumerate((slice(0, half), slice(half, None))):
            write_tar(root / f"digits-{part}-{shard:06}.tar", tar_members(images[chosen], labels[chosen]))
    (root / "classnames.txt").write_text("\n".join(f"digit {digit}" for digit in range(10)))


def hugging_face_schema(fields: Sequence[tuple[str, Any]], *, names: Sequence[str] | None) -> pyarrow.Schema:
    """A schema with the note that Hugging Face leaves in it."""
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features["label"] = (
        {"names": list(names), "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    )
    note = json.dumps({"info": {"features": features}}).encode()
    return pyarrow.schema(fields, metadata={b"huggingface": note})


IMAGE_STRUCT = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def write_table(path: Path, columns: Mapping[str, tuple[Any, list[Any]]], **options: Any) -> None:
    """A parquet file of columns by name: their type and values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = hugging_face_schema([(name, kind) for name, (kind, _) in columns.items()], **options)
    arrays = [pyarrow.array(values, type=kind) for kind, values in columns.values()]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), path, row_group_size=50)


def image_rows(images: np.ndarray) -> list[dict[str, Any]]:
    return [{"bytes": encoded(pixels), "path": f"{number}.png"} for number, pixels in enumerate(images)]


def write_parquet(root: Path, parts: Parts) -> None:
    for part, (images, labels) in parts.items():
        write_table(
            root / "data" / f"{part}-00000-of-00001.parquet",
            {"image": (IMAGE_STRUCT, image_rows(images)), "label": (pyarrow.int64(), labels)},
            names=[f"digit {digit}" for digit in range(10)],
        )


WRITERS: dict[str, Callable[[Path, Parts], None]] = {
    "imagefolder": write_folder,
    "cifar": write_cifar,
    "idx": write_idx,
    "webdataset": write_webdataset,
    "parquet": write_parquet,
}
