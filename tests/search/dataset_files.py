"""Data sets as files, written for tests: class folders, and CIFAR's pickles of either Python."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from search.data import Dataset, open_dataset
from search.spec import Splits


def write_images(
    root: Path,
    *,
    classes: int = 3,
    each: int = 20,
    size: tuple[int, int] = (24, 24),
    mode: str = "RGB",
    suffix: str = "png",
) -> None:
    """Class folders; every image is of one colour that tells its class and number."""
    for label in range(classes):
        folder = root / f"class_{label}"
        folder.mkdir(parents=True)
        for number in range(each):
            colour = (60 * label, 10 * number % 256, 5) if mode == "RGB" else 60 * label + number
            Image.new(mode, size, colour).save(folder / f"{number:03}.{suffix}")


def folder(root: Path, *, input_size: int | None = None, cache: Path | None = None, **splits: int) -> Dataset:
    return open_dataset("own", Splits(**splits), directory=root, input_size=input_size, cache_directory=cache)


def python_two_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch file as Python 2's cPickle wrote the published ones: protocol 2, byte strings throughout."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array_type = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + integer(0)
        + b"\x85"
        + text(b"b")
        + b"\x87R"
    )
    plain = b"cnumpy\ndtype\n" + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    plain += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    shape = integer(images.shape[0]) + integer(images.shape[1]) + b"\x86"
    raw = images.tobytes()
    state = b"(" + integer(1) + shape + plain + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    names = text(b"labels") + b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array_type + state + names + b"u."


def write_cifar(root: Path, *, writer: str = "python2", each: int = 30) -> np.ndarray:
    """A small CIFAR-10; the pixels of its five training files, in order."""
    root.mkdir(parents=True, exist_ok=True)
    generator, kept = np.random.default_rng(0), []
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = generator.integers(0, 256, (each, 3072), dtype=np.uint8)
        labels = [index % 10 for index in range(each)]
        if writer == "python2":
            (root / name).write_bytes(python_two_pickle(images, labels))
        else:
            (root / name).write_bytes(
                pickle.dumps({b"data": images, b"labels": labels}, protocol=int(writer))
            )
        kept.append(images)
    names = [f"class {index}".encode() for index in range(10)]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return np.concatenate(kept[:-1])
