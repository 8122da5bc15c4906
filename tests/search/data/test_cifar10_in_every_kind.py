"""CIFAR-10's 60,000 JPEG files as class folders, in tars and in parquet: the same data set each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest

from tests.search.data.written import IMAGE_STRUCT, write_table, write_tar
from tests.search.dataset_files import folder

pytestmark = [pytest.mark.slow, pytest.mark.cifar10]

Files = list[tuple[bytes, int]]


@pytest.fixture(scope="module")
def directory() -> Path:
    found = os.environ.get("LIMBECK_CIFAR10_DIR")
    if not found:
        pytest.skip("set LIMBECK_CIFAR10_DIR to CIFAR-10 as train/<class>/* and test/<class>/*")
    return Path(found)


@pytest.fixture(scope="module")
def parts(directory: Path) -> dict[str, Files]:
    """The encoded images of each part in the order of the folders, with their labels."""

    def files(part: Path) -> Iterator[tuple[bytes, int]]:
        for label, images in enumerate(sorted(part.iterdir())):
            for path in sorted(images.iterdir()):
                yield path.read_bytes(), label

    return {name: list(files(directory / name)) for name in ("train", "test")}


@pytest.fixture(scope="module")
def expected(directory: Path) -> str:
    return folder(directory).content_sha256


def test_tars_hold_the_same(tmp_path: Path, parts: dict[str, Files], expected: str) -> None:
    for part, files in parts.items():
        for shard in range(0, len(files), 10_000):
            members = []
            for number, (raw, label) in enumerate(files[shard : shard + 10_000]):
                members += [(f"{number:05}.jpg", raw), (f"{number:05}.cls", str(label).encode())]
            write_tar(tmp_path / f"{part}-{shard:06}.tar", members)
    dataset = folder(tmp_path)
    assert dataset.split_sizes == {"train": 40_000, "meta": 5000, "validation": 5000, "test": 10_000}
    assert dataset.content_sha256 == expected


def test_parquet_files_hold_the_same(tmp_path: Path, parts: dict[str, Files], expected: str) -> None:
    for part, files in parts.items():
        rows = [{"bytes": raw, "path": None} for raw, _ in files]
        columns = {"img": (IMAGE_STRUCT, rows), "label": (pyarrow.int64(), [label for _, label in files])}
        write_table(tmp_path / "data" / f"{part}-00000-of-00001.parquet", columns, names=None)
    assert folder(tmp_path).content_sha256 == expected
