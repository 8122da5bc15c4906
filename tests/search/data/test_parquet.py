"""Parquet directories as Hugging Face writes them: columns, parts, class names, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest

from search.data import Dataset, open_dataset
from search.datasets import parquet as reader
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import (
    IMAGE_STRUCT,
    digits,
    encoded,
    image_rows,
    train_and_test,
    write_parquet,
    write_table,
)
from tests.search.dataset_files import folder

FILE = "train-00000-of-00001.parquet"


def write(path: Path, *, image: Any = None, label: Any = None, more: Any = None, **options: Any) -> None:
    """Sixty digits in a table, whose columns can be replaced: name, type, values."""
    images, labels = digits(0, 60)
    columns = {}
    for name, kind, values in (
        image or ("image", IMAGE_STRUCT, image_rows(images)),
        label or ("label", pyarrow.int64(), labels),
        *(more or ()),
    ):
        columns[name] = (kind, values)
    write_table(path, columns, names=options.get("names"))


def refused(root: Path, code: str, words: str) -> None:
    with pytest.raises(SearchProblem, match=words) as caught:
        folder(root)
    assert caught.value.code == code


def by_table(root: Path, text: str) -> Dataset:
    file = root / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = 'parquet'\npath = '.'\n{text}")
    return open_dataset("own", Splits(), datasets_file=file)


def sha256(root: Path) -> str:
    write(root / "plain" / FILE)
    return folder(root / "plain").content_sha256


class TestColumns:
    @pytest.mark.parametrize("name", ["image", "img", "picture"])
    def test_images_are_found_by_name_or_because_they_are_alone(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / FILE, image=(name, IMAGE_STRUCT, image_rows(digits(0, 60)[0])))
        assert folder(tmp_path).content_sha256 == sha256(tmp_path / "other")

    @pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
    def test_plain_bytes_are_images_too(self, tmp_path: Path, kind: Any) -> None:
        write(tmp_path / FILE, image=("image", kind, [encoded(pixels) for pixels in digits(0, 60)[0]]))
        assert folder(tmp_path).content_sha256 == sha256(tmp_path / "other")

    @pytest.mark.parametrize("kind", [pyarrow.int8(), pyarrow.uint8(), pyarrow.int32(), pyarrow.uint64()])
    @pytest.mark.parametrize("name", ["label", "fine_label", "digit"])
    def test_labels_are_whole_numbers_of_any_width(self, tmp_path: Path, kind: Any, name: str) -> None:
        write(tmp_path / FILE, label=(name, kind, digits(0, 60)[1]))
        assert folder(tmp_path).content_sha256 == sha256(tmp_path / "other")

    @pytest.mark.parametrize(
        "kind",
        [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
    )
    def test_labels_may_be_names(self, tmp_path: Path, kind: Any) -> None:
        write(tmp_path / FILE, label=("label", kind, [f"Digit {label}" for label in digits(0, 60)[1]]))
        assert folder(tmp_path).class_names == [f"Digit {digit}" for digit in range(10)]

    def test_cifar_100_has_its_fine_labels(self, tmp_path: Path) -> None:
        labels = digits(0, 60)[1]
        coarse = [("coarse_label", pyarrow.int64(), [label % 3 for label in labels])]
        write(tmp_path / FILE, label=("fine_label", pyarrow.int64(), labels), more=coarse)
        assert folder(tmp_path).content_sha256 == sha256(tmp_path / "other")
        assert by_table(tmp_path, "label_key = 'coarse_label'\n").classes == 3

    @pytest.mark.parametrize(
        ("columns", "code", "words"),
        [
            (
                {"image": ("image", pyarrow.string(), ["/etc/passwd"] * 60)},
                "dataset_unreadable",
                "'image' .* does not hold the encoded bytes of images; set `image_key`",
            ),
            (
                {"image": ("image", pyarrow.list_(pyarrow.float32()), [[0.5, float("nan")]] * 60)},
                "dataset_unreadable",
                "does not hold the encoded bytes",
            ),
            (
                {"image": ("image", IMAGE_STRUCT, [{"bytes": None, "path": "/etc/passwd"}] * 60)},
                "dataset_unreadable",
                "row 0 of column 'image' has no bytes",
            ),
            ({"image": ("image", IMAGE_STRUCT, [None] * 60)}, "dataset_unreadable", "has no bytes"),
            (
                {"image": ("image", IMAGE_STRUCT, [{"bytes": b"no image", "path": None}] * 60)},
                "dataset_unreadable",
                "in row 0 of .*cannot be read",
            ),
            (
                {"label": ("label", pyarrow.float32(), [float(n % 10) for n in range(60)])},
                "dataset_labels",
                "'label' .* does not hold labels",
            ),
            ({"label": ("label", pyarrow.bool_(), [True] * 60)}, "dataset_labels", "does not hold labels"),
            (
                {"label": ("label", pyarrow.int64(), [0, None] * 30)},
                "dataset_labels",
                "'None' of image 1.*leave them out",
            ),
            ({"label": ("label", pyarrow.int64(), [0, -1] * 30)}, "dataset_labels", "'-1' of image 1"),
            ({"label": ("label", pyarrow.int64(), [0, 2**40] * 30)}, "dataset_labels", "without gaps"),
            (
                {"more": [("x", pyarrow.int64(), [0] * 60)], "label": ("y", pyarrow.int64(), [0, 1] * 30)},
                "dataset_labels",
                "set `label_key` in datasets.toml to one of: image, y, x",
            ),
            (
                {"more": [("x", IMAGE_STRUCT, [None] * 60)], "image": ("y", IMAGE_STRUCT, [None] * 60)},
                "dataset_unreadable",
                "set `image_key` in datasets.toml to one of: y, label, x",
            ),
        ],
    )
    def test_other_columns_are_refused(
        self, tmp_path: Path, columns: dict[str, Any], code: str, words: str
    ) -> None:
        write(tmp_path / FILE, **columns)
        refused(tmp_path, code, words)

    def test_a_column_of_the_table_must_be_there(self, tmp_path: Path) -> None:
        write(tmp_path / FILE)
        with pytest.raises(SearchProblem, match=r"no column of .* is named 'picture'"):
            by_table(tmp_path, "image_key = 'picture'\n")


class TestClassNames:
    def test_the_schemas_names_are_those_of_the_classes(self, tmp_path: Path) -> None:
        names = [f"number {digit}" for digit in range(12)]
        write(tmp_path / FILE, names=names)
        dataset = folder(tmp_path)
        assert (dataset.classes, dataset.class_names) == (12, names)  # two classes may lack images

    def test_labels_beyond_the_names_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / FILE, names=["a", "b", "c"])
        refused(tmp_path, "dataset_labels", "from 0 to 9 in the train part, but there are 3 classes")

    def test_without_names_classes_are_numbers(self, tmp_path: Path) -> None:
        write(tmp_path / FILE)
        assert folder(tmp_path).class_names == [str(digit) for digit in range(10)]


class TestParts:
    @pytest.mark.parametrize(
        "names",
        [
            ["data/train-00000-of-00001.parquet", "data/validation-0.parquet", "data/test-0.parquet"],
            ["train/0000.parquet", "validation/0000.parquet", "test/0000.parquet"],
            ["train.parquet", "val.parquet", "test.parquet"],
        ],
    )
    def test_own_parts_are_the_splits_of_their_names(self, tmp_path: Path, names: list[str]) -> None:
        for name, (start, stop) in zip(names, ((0, 120), (120, 160), (160, 200)), strict=True):
            images, labels = digits(start, stop)
            columns = {"image": (IMAGE_STRUCT, image_rows(images)), "label": (pyarrow.int64(), labels)}
            write_table(tmp_path / name, columns, names=None)
        assert folder(tmp_path).split_sizes == {"train": 108, "meta": 12, "validation": 40, "test": 40}

    def test_an_unlabelled_test_part_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        write(tmp_path / "train-0.parquet")
        write(tmp_path / "val-0.parquet")
        write(tmp_path / "test-0.parquet", label=("label", pyarrow.int64(), [-1] * 60))
        refused(tmp_path, "dataset_labels", "in the test part.*name another part")
        assert by_table(tmp_path, "test = 'val-*.parquet'\n").split_sizes["test"] == 60


class TestDamage:
    @pytest.mark.parametrize("share", [0.0, 0.2, 0.9])
    def test_a_file_that_is_cut_is_refused(self, tmp_path: Path, share: float) -> None:
        write(tmp_path / FILE)
        path = tmp_path / FILE
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        refused(tmp_path, "dataset_unreadable", f"{FILE} cannot be read as parquet.*fetch it anew")

    def test_a_damaged_page_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / FILE)
        path = tmp_path / FILE
        raw = bytearray(path.read_bytes())
        raw[4:60] = bytes(56)
        path.write_bytes(raw)
        refused(tmp_path, "dataset_unreadable", "cannot be read as parquet")

    @pytest.mark.parametrize("name", [b"label", b"bytes", b"image"])
    def test_names_that_are_no_text_are_refused(self, tmp_path: Path, name: bytes) -> None:
        write(tmp_path / FILE)
        path = tmp_path / FILE
        path.write_bytes(path.read_bytes().replace(name, b"\xff" + name[1:]))
        refused(tmp_path, "dataset_unreadable", "cannot be read as parquet")

    def test_what_is_no_parquet_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / FILE).write_text("no parquet")
        refused(tmp_path, "dataset_unreadable", "cannot be read as parquet")

    def test_no_rows_are_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path, {"train": (digits()[0][:0], [])})
        refused(tmp_path, "dataset_empty", "has no images")

    def test_a_group_of_rows_that_unpacks_to_too_much_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_parquet(tmp_path, train_and_test())
        monkeypatch.setattr(reader, "MAX_ROW_GROUP_BYTES", 1000)
        refused(tmp_path, "dataset_unreadable", "row group 0 unpacks to more than.*write smaller")
