"""docs/datasets.md: its tables open what it says, and it lists every kind, setting and code."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from search.__main__ import overview as list_everything
from search.data import open_dataset
from search.datasets import kinds
from search.datasets.parts import PART_NAMES
from search.datasets.pictures import FORMATS
from search.datasets_file import DatasetTable
from search.spec import Splits
from tests.search.data.written import (
    IMAGE_STRUCT,
    Parts,
    digits,
    image_rows,
    tar_members,
    train_and_test,
    write_cifar,
    write_folder,
    write_idx,
    write_table,
    write_tar,
)

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "datasets.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def letters(root: Path, parts: Parts) -> None:
    write_idx(root, parts)
    for file in list(root.iterdir()):
        file.rename(root / f"emnist-letters-{file.name.replace('t10k', 'test')}")


def shards(root: Path, parts: Parts) -> None:
    for part, name in (("train", "train"), ("test", "val")):
        members = [
            (file, content)
            if file.endswith("png")
            else (file.replace("cls", "json"), json.dumps({"species": f"no. {int(content)}"}).encode())
            for file, content in tar_members(*parts[part])
        ]
        write_tar(root / f"flowers-{name}-000.tar", members)


def birds(root: Path, parts: Parts) -> None:
    for name, (images, labels) in (
        ("train", parts["train"]),
        ("validation", parts["test"]),
        ("test", (digits(0, 9)[0], [-1] * 9)),
    ):
        columns = {"photo": (IMAGE_STRUCT, image_rows(images)), "species": (pyarrow.int64(), labels)}
        write_table(root / "data" / f"{name}-00000-of-00001.parquet", columns, names=None)


WRITE: dict[str, Callable[[Path, Parts], None]] = {
    "flowers": write_folder,
    "cifar100": write_cifar,
    "letters": letters,
    "shards": shards,
    "birds": birds,
}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_table_opens_what_is_described(tmp_path: Path, block: str) -> None:
    ((name, table),) = tomllib.loads(block)["datasets"].items()
    WRITE[name](tmp_path / "own", train_and_test())
    file = tmp_path / "datasets.toml"
    file.write_text(block.replace(table["path"], "own"))
    dataset = open_dataset(name, Splits(), datasets_file=file)
    assert dataset.classes == 10
    if name == "shards":  # its table makes the 40 images of the second part the validation split
        assert dataset.split_sizes == {"train": 112, "meta": 16, "validation": 40, "test": 32}
    else:
        assert dataset.split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}


def test_every_kind_has_its_part_and_its_table() -> None:
    described = set(re.findall(r"^### (\w+)$", PAGE, re.MULTILINE))
    assert described | {"digits"} == set(kinds())
    assert {
        table["kind"] for block in BLOCKS for table in tomllib.loads(block)["datasets"].values()
    } == described


def test_the_library_lists_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    list_everything()
    listed = capsys.readouterr().out
    assert all(re.search(rf"^  {kind} +\w+", listed, re.MULTILINE) for kind in kinds())


def test_every_setting_is_explained_with_its_kinds() -> None:
    rows = re.findall(
        r"^\| (`[a-z_`, ]+`) \| (all[^|]*|`[^|]*) \|", PAGE.split("### imagefolder")[0], re.MULTILINE
    )
    explained = {setting: text for settings, text in rows for setting in re.findall(r"`(\w+)`", settings)}
    assert set(explained) == set(DatasetTable.model_fields) - {"kind", "path"}
    files = {name: kind for name, kind in kinds().items() if name != "digits"}
    for setting, text in explained.items():
        having = {name for name, kind in files.items() if setting in kind.settings}
        named = set(re.findall(r"`(\w+)`", text))
        assert having == (set(files) - named if text.startswith("all") else named), setting


def test_every_code_is_listed() -> None:
    sources = [
        ROOT / "search" / name for name in ("data.py", "datasets_file.py", "splitting.py", "preflight.py")
    ]
    text = "".join(path.read_text() for path in [*sources, *(ROOT / "search" / "datasets").glob("*.py")])
    codes = set(re.findall(r"\"(dataset_[a-z_]+|unknown_dataset)\"", text))
    assert (
        set(re.findall(r"^\| `(\w*dataset\w*)` \|", PAGE.split("## What is refused")[1], re.MULTILINE))
        == codes
    )


def test_formats_and_words_for_parts_are_listed() -> None:
    assert all(kind.lower() in PAGE.lower() for kind in FORMATS)
    assert all(f"`{word}`" in PAGE for words in PART_NAMES.values() for word in words)
