"""IDX files: MNIST's names and those of its relatives, every type of number, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from search.data import Dataset, open_dataset
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import digits, idx_bytes, train_and_test, write_idx
from tests.search.dataset_files import folder

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def write(root: Path, images: bytes | None = None, labels: bytes | None = None) -> Path:
    """A training part with one file replaced, not gzipped."""
    write_idx(root, {"train": digits(0, 160)}, suffix="")
    for name, raw in ((IMAGES, images), (LABELS, labels)):
        if raw is not None:
            (root / name).write_bytes(raw)
    return root


def refused(root: Path, code: str, words: str) -> None:
    with pytest.raises(SearchProblem, match=words) as caught:
        folder(root)
    assert caught.value.code == code


def by_table(root: Path, text: str) -> Dataset:
    file = root / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = 'idx'\npath = '.'\n{text}")
    return open_dataset("own", Splits(), datasets_file=file)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_plain_and_gzipped_files_are_read(tmp_path: Path, suffix: str) -> None:
    write_idx(tmp_path, train_and_test(), suffix=suffix)
    assert folder(tmp_path).split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}


def test_images_and_labels_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", train_and_test(), suffix="")
    dataset = folder(tmp_path / "MNIST")
    ours = {
        (image.numpy().tobytes(), label)
        for split in dataset.splits.values()
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    }
    theirs = [MNIST(tmp_path, train=is_train) for is_train in (True, False)]
    assert ours == {
        (image.numpy().tobytes(), label)
        for part in theirs
        for image, label in zip(part.data, part.targets.tolist(), strict=True)
    }


def test_torchvisions_folder_holds_each_file_twice(tmp_path: Path) -> None:
    for suffix in ("", ".gz"):
        write_idx(tmp_path / "raw", train_and_test(), suffix=suffix)
    assert sum(folder(tmp_path).split_sizes.values()) == 200


def test_names_with_dots_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert folder(tmp_path).classes == 10


def test_other_beginnings_of_names_are_set_by_the_table(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_idx(tmp_path, {part: train_and_test()[part]})
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / f"emnist-{file.name.replace('t10k', 'test')}")
    refused(tmp_path, "dataset_empty", "`train`.*emnist-test, emnist-train")
    dataset = by_table(tmp_path, "train = 'emnist-train'\ntest = 'emnist-test'\n")
    assert dataset.split_sizes["test"] == 40


def test_a_part_is_not_the_test_and_the_validation_split_at_once(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": digits(0, 160), "validation": digits(160, 200)})
    dataset = by_table(tmp_path, "test = 'validation'\n")
    assert dataset.split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}


@pytest.mark.parametrize("code", [0x08, 0x0B, 0x0C])
def test_whole_numbers_of_every_type_are_pixels(tmp_path: Path, code: int) -> None:
    images, labels = digits(0, 160)
    root = write(tmp_path, idx_bytes(images, code), idx_bytes(np.array(labels), code))
    assert folder(root).content_sha256 == folder(write(tmp_path / "bytes")).content_sha256


@pytest.mark.parametrize("code", [0x0D, 0x0E])
def test_floating_point_pixels_run_from_zero_to_one(tmp_path: Path, code: int) -> None:
    root = write(tmp_path, idx_bytes(digits(0, 160)[0] / 255, code))
    assert folder(root).content_sha256 == folder(write(tmp_path / "bytes")).content_sha256


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(tmp_path: Path, wrong: float) -> None:
    pixels = digits(0, 160)[0] / 255
    pixels[77, 3, 3] = wrong
    refused(write(tmp_path, idx_bytes(pixels, 0x0D)), "dataset_pixels", "NaN or infinite")


@pytest.mark.parametrize(
    ("pixels", "code", "words"),
    [
        (digits()[0][:160].astype(float), 0x0E, "from 0 to 240: scale them to 0..1"),
        (digits()[0][:160] / 255 - 0.5, 0x0D, "from -0.5 to"),
        (digits()[0][:160].astype(int) * 2, 0x0B, "from 0 to 480: bring them to 0..255"),
        (digits()[0][:160].astype(int) - 9, 0x0C, "from -9 to"),
    ],
)
def test_numbers_that_are_no_pixels_are_refused(
    tmp_path: Path, pixels: np.ndarray, code: int, words: str
) -> None:
    refused(write(tmp_path, idx_bytes(pixels, code)), "dataset_pixels", words)


def test_colours_come_last(tmp_path: Path) -> None:
    images = digits(0, 160)[0]
    colours = np.stack([images, images // 2, images * 0], axis=-1)
    dataset = folder(write(tmp_path, idx_bytes(colours, 8)))
    assert dataset.channels == 3
    train = dataset.splits["train"].images
    assert torch.equal(train[:, 1], train[:, 0] // 2)
    assert not train[:, 2].any()


def test_images_that_are_no_squares_are_cut_to_their_middle(tmp_path: Path) -> None:
    images = np.zeros((160, 20, 32), dtype=np.uint8)
    images[:, :, 6:26] = 200
    dataset = folder(write(tmp_path, idx_bytes(images, 8)))
    assert dataset.size == 20
    assert (dataset.splits["train"].images == 200).all()


def test_of_several_columns_of_labels_the_first_counts(tmp_path: Path) -> None:
    labels = np.array(digits(0, 160)[1])
    columns = np.stack([labels, labels * 0 + 99], axis=1)
    root = write(tmp_path, labels=idx_bytes(columns, 0x0C))
    assert folder(root).content_sha256 == folder(write(tmp_path / "bytes")).content_sha256


def test_a_validation_part_of_its_own_is_the_validation_split(tmp_path: Path) -> None:
    write_idx(tmp_path, {"train": digits(0, 120), "validation": digits(120, 160), "test": digits(160, 200)})
    assert folder(tmp_path).split_sizes == {"train": 108, "meta": 12, "validation": 40, "test": 40}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda raw: b"", "does not begin"),
        (lambda raw: raw[:3], "does not begin"),
        (lambda raw: b"\x89PNG" + raw, "does not begin"),
        (lambda raw: raw[:2] + b"\x0a" + raw[3:], "does not begin"),
        (lambda raw: raw[:9], "cut short"),
        (lambda raw: raw[:-1], "163840 bytes of numbers, but there are 163839"),
        (lambda raw: raw + b"\0", "but there are more"),
        (lambda raw: idx_bytes(np.zeros(8), 8), "neither"),
        (lambda raw: idx_bytes(np.zeros((8, 4, 4, 2)), 8), "neither"),
        (lambda raw: idx_bytes(np.zeros((8, 0, 4)), 8), "neither"),
        (lambda raw: idx_bytes(np.zeros(0), 8, shape=(8, -4, 4)), "cut short"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, make: Any, words: str) -> None:
    raw = idx_bytes(digits(0, 160)[0], 8)
    refused(write(tmp_path, make(raw)), "dataset_unreadable", rf"{IMAGES} is not a whole IDX file.*{words}")


@pytest.mark.parametrize(
    "make",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:9],
        lambda raw: b"",
        lambda raw: b"no gzip at all",
        lambda raw: raw[:-8] + bytes(8),
        lambda raw: raw[:50] + bytes(200) + raw[250:],
    ],
    ids=["half", "header only", "empty", "other content", "wrong checksum", "overwritten"],
)
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_damaged_gzip_is_refused(tmp_path: Path, name: str, make: Any) -> None:
    write_idx(tmp_path, train_and_test())
    path = tmp_path / f"{name}.gz"
    path.write_bytes(make(path.read_bytes()))
    refused(tmp_path, "dataset_unreadable", f"{name}.gz is not a whole IDX file.*fetch it anew")


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A header that claims terabytes, or less than what follows, decides how much is read."""
    bomb = gzip.compress(idx_bytes(np.zeros(0), 8, shape=(2**30, 2**10, 4)))
    write_idx(tmp_path, train_and_test())
    (tmp_path / f"{IMAGES}.gz").write_bytes(bomb)
    refused(tmp_path, "dataset_too_large", "4096 GiB")
    (tmp_path / f"{IMAGES}.gz").write_bytes(
        gzip.compress(idx_bytes(np.zeros(160 * 4), 8, shape=(160, 2, 2)) + bytes(2**24))
    )
    refused(tmp_path, "dataset_unreadable", "640 bytes of numbers, but there are more")


def test_no_images_are_refused(tmp_path: Path) -> None:
    empty = write(tmp_path, idx_bytes(np.zeros((0, 8, 8)), 8), idx_bytes(np.zeros(0), 8))
    refused(empty, "dataset_empty", "has no images")


@pytest.mark.parametrize(
    ("labels", "code", "words"),
    [
        (np.arange(159) % 10, "dataset_unreadable", "160 images but 159 labels"),
        (np.arange(160) % 10 - 1, "dataset_labels", "'-1' of image 0.*no whole number from 0"),
        (np.arange(160) * 1000, "dataset_labels", "'100000' of image 100.*number the classes without gaps"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, labels: np.ndarray, code: str, words: str) -> None:
    refused(write(tmp_path, labels=idx_bytes(labels, 0x0C)), code, words)


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, labels=idx_bytes(np.arange(160) / 2, 0x0D))
    refused(root, "dataset_labels", "'0.0' of image 0.*no whole number")


def test_a_class_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    images, labels = digits(160, 200)
    write_idx(tmp_path, {"train": digits(0, 160), "test": (images, [*labels[:-1], 10])})
    refused(tmp_path, "dataset_labels", "from 0 to 10 in the test part.*10 classes")


def test_fewer_named_classes_than_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SearchProblem, match=r"from 0 to 9 in the train part.*2 classes"):
        by_table(write(tmp_path), "classes = ['zero', 'one']\n")


def test_a_file_without_its_partner_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / LABELS).unlink()
    refused(tmp_path, "dataset_unreadable", f"needs two files.*has {IMAGES}")


def test_two_files_for_one_role_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "train-images.idx3-ubyte").write_bytes((tmp_path / IMAGES).read_bytes())
    refused(tmp_path, "dataset_unreadable", "both images of the train part")
