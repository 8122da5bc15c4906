"""What holds for every kind of data set alike: the same real digits, written in each format, come out."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.data import Dataset, available_datasets, open_dataset
from search.datasets import decoded, kinds
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.data.written import WRITERS, digits, idx_bytes, train_and_test
from tests.search.dataset_files import folder

FILES = sorted(WRITERS)


def written(kind: str, root: Path) -> Path:
    WRITERS[kind](root, train_and_test())
    return root


def labels_by_image(dataset: Dataset, *splits: str) -> dict[bytes, int]:
    """One channel of each image, with its label."""
    return {
        image[0].numpy().tobytes(): label
        for name in splits
        for image, label in zip(
            dataset.splits[name].images, dataset.splits[name].labels.tolist(), strict=True
        )
    }


def test_every_kind_is_written_here() -> None:
    assert {*FILES, "digits"} == set(kinds())


@pytest.mark.parametrize("kind", FILES)
def test_images_and_labels_come_out_as_they_went_in(kind: str, tmp_path: Path) -> None:
    dataset = folder(written(kind, tmp_path))
    assert (dataset.classes, dataset.channels, dataset.size) == (10, 3 if kind == "cifar" else 1, 32)
    for split in dataset.splits.values():
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    for (start, stop), splits in {
        (0, 160): ("train", "meta", "validation"),
        (160, 200): ("test",),
    }.items():
        images, labels = digits(start, stop)
        expected = {pixels.tobytes(): label for pixels, label in zip(images, labels, strict=True)}
        assert labels_by_image(dataset, *splits) == expected
    assert dataset.split_sizes == {"train": 128, "meta": 16, "validation": 16, "test": 40}


@pytest.mark.parametrize("kind", FILES)
def test_class_names_are_kept(kind: str, tmp_path: Path) -> None:
    names = folder(written(kind, tmp_path)).class_names
    expected = str if kind == "idx" else "digit {}".format  # IDX files hold no names
    assert names == [expected(digit) for digit in range(10)]


@pytest.mark.parametrize("kind", FILES)
def test_classes_can_be_named_in_the_order_of_the_labels(kind: str, tmp_path: Path) -> None:
    written(kind, tmp_path / "own")
    names = [f"digit {digit}" for digit in reversed(range(10))]
    file = tmp_path / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = '{kind}'\npath = 'own'\nclasses = {names}\n")
    dataset = open_dataset("own", Splits(), datasets_file=file)
    assert dataset.class_names == names
    if kind == "imagefolder":  # the only kind whose files hold names and no numbers
        images, labels = digits(160, 200)
        found = labels_by_image(dataset, "test")
        assert [found[pixels.tobytes()] for pixels in images] == [9 - label for label in labels]


@pytest.mark.parametrize("kind", FILES)
def test_another_size_and_more_channels(kind: str, tmp_path: Path) -> None:
    written(kind, tmp_path / "own")
    file = tmp_path / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = '{kind}'\npath = 'own'\nsize = 16\nchannels = 3\n")
    images = open_dataset("own", Splits(), datasets_file=file).splits["test"].images
    assert images.shape == (40, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 2])
    large = open_dataset("own", Splits(), datasets_file=file, input_size=32).splits["test"].images
    assert float(images.float().mean()) == pytest.approx(float(large.float().mean()), rel=0.02)


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "cifar"])
def test_decoded_images_are_kept_and_used_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = written(kind, tmp_path / "own"), tmp_path / "cache"
    first = folder(root, cache=cache)
    monkeypatch.setattr(decoded, "_write", lambda *arguments: pytest.fail("decoded again"))
    second = folder(root, cache=cache)
    assert first.content_sha256 == second.content_sha256 == folder(root).content_sha256
    assert torch.equal(first.splits["train"].images, second.splits["train"].images)
    monkeypatch.undo()
    newest = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    os.utime(newest, ns=(0, 0))
    assert len(list((cache / "datasets").glob("*.lock"))) == 1
    folder(root, cache=cache)
    assert len(list((cache / "datasets").glob("*.lock"))) == 2


@pytest.mark.parametrize("kind", FILES)
def test_the_catalogue_agrees_with_what_is_read(kind: str, tmp_path: Path) -> None:
    dataset = folder(written(kind, tmp_path / "own"))
    file = tmp_path / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = '{kind}'\npath = 'own'\n")
    said = available_datasets(file)[1]
    assert (said["name"], said["kind"]) == ("own", kind)
    assert (said["classes"], said["channels"], said["size"]) == (10, dataset.channels, 32)
    # Counting tars would mean reading them, for which a list does not wait; CIFAR has only one file here.
    assert said["images"] == (None if kind in ("webdataset", "cifar") else 200)


@pytest.mark.parametrize("kind", FILES)
def test_one_class_only_is_refused(kind: str, tmp_path: Path) -> None:
    images, labels = digits(0, 160)
    zeros = images[[label == 0 for label in labels]]
    WRITERS[kind](tmp_path, {"train": (zeros, [0] * len(zeros)), "test": (zeros, [0] * len(zeros))})
    with pytest.raises(SearchProblem, match="at least two are needed") as caught:
        folder(tmp_path)
    assert caught.value.code == "dataset_one_class"


@pytest.mark.parametrize("kind", FILES)
def test_one_class_will_do_where_no_labels_are_read(kind: str, tmp_path: Path) -> None:
    images, labels = digits(0, 160)
    zeros = images[[label == 0 for label in labels]]
    WRITERS[kind](tmp_path, {"train": (zeros, [0] * len(zeros)), "test": (zeros, [0] * len(zeros))})
    dataset = open_dataset("own", Splits(), directory=tmp_path, is_labelled=False)
    assert sum(dataset.split_sizes[name] for name in ("train", "meta", "validation")) == len(zeros)
    assert dataset.own_labels is None
    assert not any(split.is_labelled for split in dataset.splits.values())


def half_without(kind: str, root: Path) -> Path:
    """Digits of which every other image in training has no label."""
    images, labels = digits(0, 160)
    mixed: list[int] = [label if place % 2 else -1 for place, label in enumerate(labels)]
    WRITERS[kind](root, {"train": (images, mixed), "test": digits(160, 200)})
    if kind == "idx":
        raw = idx_bytes(np.array(mixed), 9)
        (root / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(raw))
    return root


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "imagefolder"])
def test_images_without_a_label_will_do_where_none_is_read(kind: str, tmp_path: Path) -> None:
    """Decoded for such a job, they are refused in one with labels all the same."""
    root, cache = half_without(kind, tmp_path / "own"), tmp_path / "cache"
    bare = open_dataset("own", Splits(), directory=root, cache_directory=cache, is_labelled=False)
    assert (bare.classes, bare.split_sizes["test"], bare.own_labels) == (10, 40, None)
    for directory in (cache, None):
        with pytest.raises(SearchProblem) as caught:
            open_dataset("own", Splits(), directory=root, cache_directory=directory)
        assert caught.value.code == "dataset_labels"


@pytest.mark.parametrize("kind", FILES)
def test_more_than_belongs_into_memory_is_refused_before_it_is_decoded(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SearchProblem, match=r"GiB.*set a smaller `size`.*at most") as caught:
        folder(written(kind, tmp_path), input_size=50_000)
    assert caught.value.code == "dataset_too_large"


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_leads_out_of_the_directory_is_refused(kind: str, tmp_path: Path) -> None:
    root = written(kind, tmp_path / "own")
    inside = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    inside.rename(tmp_path / "outside")
    inside.symlink_to(tmp_path / "outside")
    file = tmp_path / "datasets.toml"
    file.write_text(f"[datasets.own]\nkind = '{kind}'\npath = 'own'\n")
    with pytest.raises(SearchProblem, match=r"leads out.*copy") as caught:
        open_dataset("own", Splits(), datasets_file=file)
    assert caught.value.code == "dataset_unreadable"


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_only_has_the_name_of_a_file_is_refused(kind: str, make: Any, tmp_path: Path) -> None:
    root = written(kind, tmp_path / "own")
    file = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.unlink()
    make(file)
    table = tmp_path / "datasets.toml"
    table.write_text(f"[datasets.own]\nkind = '{kind}'\npath = 'own'\n")
    with pytest.raises(
        SearchProblem, match=r"none, but a folder, a pipe, or a link that leads nowhere"
    ) as caught:
        open_dataset("own", Splits(), datasets_file=table, cache_directory=tmp_path)
    assert caught.value.code == "dataset_unreadable"


@pytest.mark.parametrize("kind", FILES)
def test_a_link_inside_the_directory_is_followed(kind: str, tmp_path: Path) -> None:
    root = written(kind, tmp_path / "own")
    inside = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    kept = root / "data" / "kept" if kind == "parquet" else root / "kept"
    inside.rename(kept)
    inside.symlink_to(kept)
    assert sum(folder(root).split_sizes.values()) == 200
