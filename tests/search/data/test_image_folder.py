"""Class folders: parts, classes and their order, sizes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data.readers import create_reader

from search.data import UNLABELLED, Dataset, available_datasets, open_dataset
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.dataset_files import folder, write_images


class TestImageFolder:
    def test_class_folders_become_seeded_splits(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        dataset = folder(tmp_path)
        assert dataset.split_sizes == {"train": 36, "meta": 6, "validation": 6, "test": 12}
        assert dataset.class_names == ["class_0", "class_1", "class_2"]
        assert (dataset.channels, dataset.size) == (3, 24)
        for split in dataset.splits.values():
            assert torch.equal(split.images[:, 0, 0, 0].long(), 60 * split.labels)

    def test_a_test_folder_of_its_own_is_the_test_split(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train")
        write_images(tmp_path / "test", each=5)
        assert folder(tmp_path).split_sizes == {"train": 48, "meta": 6, "validation": 6, "test": 15}
        assert folder(tmp_path, test=4).split_sizes["test"] == 4
        with pytest.raises(SearchProblem, match="16 test images") as caught:
            folder(tmp_path, test=16)
        assert caught.value.code == "dataset_too_small"

    def test_grey_images_stay_grey(self, tmp_path: Path) -> None:
        write_images(tmp_path, mode="L")
        assert folder(tmp_path).channels == 1

    def test_jpeg_is_read(self, tmp_path: Path) -> None:
        write_images(tmp_path, suffix="jpeg")
        split = folder(tmp_path).splits["train"]
        assert (split.images[:, 0, 0, 0].long() - 60 * split.labels).abs().max() <= 3

    def test_images_of_different_sizes_are_brought_to_224_and_cut_to_their_middle(
        self, tmp_path: Path
    ) -> None:
        write_images(tmp_path / "a", size=(40, 30))
        write_images(tmp_path / "b", size=(30, 60))
        assert folder(tmp_path / "a").size == 224
        wide = Image.new("RGB", (64, 32), (0, 0, 0))
        wide.paste((200, 0, 0), (16, 0, 48, 32))
        wide.save(tmp_path / "b" / "class_0" / "000.png")
        images = folder(tmp_path / "b", input_size=16).splits
        reddest = max(
            (image for split in images.values() for image in split.images),
            key=lambda image: int(image[0].sum()),
        )
        assert reddest.shape == (3, 16, 16)
        assert (reddest[0] == 200).all()

    def test_a_changed_image_is_decoded_anew(self, tmp_path: Path) -> None:
        write_images(tmp_path / "own")
        first = folder(tmp_path / "own", cache=tmp_path / "cache")
        Image.new("RGB", (24, 24), (9, 9, 9)).save(tmp_path / "own" / "class_0" / "000.png")
        assert folder(tmp_path / "own", cache=tmp_path / "cache").content_sha256 != first.content_sha256

    def test_kept_images_cannot_be_changed_by_a_user_of_them(self, tmp_path: Path) -> None:
        write_images(tmp_path / "own")
        write_images(tmp_path / "own" / "test")
        for _ in range(2):
            dataset = open_dataset(
                "own", Splits(), directory=tmp_path / "own" / "test", cache_directory=tmp_path / "cache"
            )
            assert not (dataset.splits["train"].images == 77).all()
            dataset.splits["train"].images.fill_(77)

    def test_a_damaged_image_is_named(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        path = tmp_path / "class_1" / "003.png"
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(SearchProblem, match=r"class_1/003\.png.*mend or remove") as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_unreadable"

    def test_a_file_that_only_looks_like_an_image_is_named(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        (tmp_path / "class_1" / "zzz.png").write_text("no image")
        with pytest.raises(SearchProblem, match=r"zzz\.png") as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_unreadable"

    @pytest.mark.parametrize(
        ("make", "code"),
        [
            (lambda root: root.mkdir(), "dataset_empty"),
            (lambda root: write_images(root / "deeper"), "dataset_empty"),
            (lambda root: (root / "class_0").mkdir(parents=True), "dataset_empty"),
            (lambda root: write_images(root, classes=1), "dataset_one_class"),
            (lambda root: write_images(root, classes=3, each=1), "dataset_too_small"),
            (lambda root: None, "dataset_unreadable"),
        ],
        ids=["no folders", "classes a level too deep", "no images", "one class", "too few", "no directory"],
    )
    def test_what_no_training_could_use_is_refused(self, tmp_path: Path, make: Any, code: str) -> None:
        make(tmp_path / "own")
        with pytest.raises(SearchProblem) as caught:
            folder(tmp_path / "own")
        assert caught.value.code == code

    def test_a_test_class_that_was_never_trained_is_refused(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", classes=2)
        write_images(tmp_path / "test", classes=3)
        with pytest.raises(SearchProblem, match="class_2") as caught:
            folder(tmp_path)
        assert caught.value.code == "dataset_labels"

    def test_a_class_that_the_table_does_not_name_is_refused(self, tmp_path: Path) -> None:
        write_images(tmp_path / "own")
        file = tmp_path / "datasets.toml"
        file.write_text(
            "[datasets.own]\nkind = 'imagefolder'\npath = 'own'\nclasses = ['class_0', 'class_1']\n"
        )
        with pytest.raises(SearchProblem, match="`classes` does not have: class_2") as caught:
            open_dataset("own", Splits(), datasets_file=file)
        assert caught.value.code == "dataset_labels"

    def test_hidden_folders_are_no_classes(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        (tmp_path / ".ipynb_checkpoints").mkdir()
        assert folder(tmp_path).classes == 3

    def test_a_folder_that_may_not_be_listed_is_named(self, tmp_path: Path) -> None:
        write_images(tmp_path / "own")
        (tmp_path / "own" / "class_1" / "more").symlink_to(tmp_path / "own" / "class_1" / "more")
        with pytest.raises(SearchProblem) as caught:  # a link that leads to itself
            folder(tmp_path / "own" / "class_1" / "more")
        assert caught.value.code == "dataset_unreadable"


class TestClasses:
    @pytest.mark.parametrize(
        "names",
        [
            ["10", "9", "1", "2"],
            ["class 10", "Class 9", "class 9a", "CLASS 1"],
            ["b", "A", "a", "B"],
            ["n02", "n01", "n3", "x-1.5", "x-1.25"],
        ],
    )
    def test_they_are_numbered_in_timms_order(self, tmp_path: Path, names: list[str]) -> None:
        """So that a teacher trained with timm's scripts means the same class by the same number."""
        for index, name in enumerate(names):
            (tmp_path / name).mkdir()
            for number in range(10):
                Image.new("L", (8, 8), 10 * index + number).save(tmp_path / name / f"{number}.png")
        theirs = create_reader("", root=str(tmp_path)).class_to_idx
        ours = {name: number for number, name in enumerate(folder(tmp_path).class_names or [])}
        # timm leaves names that differ in case alone in the order of a set, which changes from run to run.
        lower = [name.lower() for name in names]
        distinct = [name for name in names if lower.count(name.lower()) == 1]
        assert sorted(distinct, key=ours.__getitem__) == sorted(distinct, key=theirs.__getitem__)
        assert set(ours) == set(theirs)


class TestParts:
    def test_validation_and_test_folders_are_the_splits_of_their_names(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", each=20)
        write_images(tmp_path / "val", each=7)
        write_images(tmp_path / "test", each=5)
        assert folder(tmp_path).split_sizes == {"train": 54, "meta": 6, "validation": 21, "test": 15}

    def test_of_an_own_part_fewer_can_be_asked_for_and_not_more(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", each=20)
        write_images(tmp_path / "val", each=7)
        write_images(tmp_path / "test", each=5)
        assert folder(tmp_path, validation=4, test=3, train=30, meta=30).split_sizes == {
            "train": 30,
            "meta": 30,
            "validation": 4,
            "test": 3,
        }
        with pytest.raises(SearchProblem, match=r"22 validation images .* 21: set data.splits.validation"):
            folder(tmp_path, validation=22)

    def test_a_lone_validation_folder_is_the_test_split_as_with_imagenet(self, tmp_path: Path) -> None:
        write_images(tmp_path / "train", each=20)
        write_images(tmp_path / "val", each=7)
        assert folder(tmp_path).split_sizes == {"train": 48, "meta": 6, "validation": 6, "test": 21}

    def test_a_folder_is_never_two_parts(self, tmp_path: Path) -> None:
        """What the table names as the test part is not the validation part as well, because of its name."""
        write_images(tmp_path / "own" / "train", each=20)
        write_images(tmp_path / "own" / "val", each=7)
        file = tmp_path / "datasets.toml"
        file.write_text("[datasets.own]\nkind = 'imagefolder'\npath = 'own'\ntest = 'val'\n")
        sizes = open_dataset("own", Splits(), datasets_file=file).split_sizes
        assert sizes == {"train": 48, "meta": 6, "validation": 6, "test": 21}
        file.write_text(file.read_text() + "validation = 'val'\n")
        with pytest.raises(SearchProblem, match=r"in two parts of 'own', `validation` and `test`"):
            open_dataset("own", Splits(), datasets_file=file)

    def test_class_folders_may_have_the_names_of_parts(self, tmp_path: Path) -> None:
        """Without a folder for training, `test` is a class like any other."""
        write_images(tmp_path)
        (tmp_path / "class_1").rename(tmp_path / "test")
        assert folder(tmp_path).class_names == ["class_0", "class_2", "test"]

    def test_a_part_that_the_table_names_must_be_there(self, tmp_path: Path) -> None:
        write_images(tmp_path / "own" / "train")
        file = tmp_path / "datasets.toml"
        for name, words in (("exam", "is not a directory"), ("../other", "leads out"), ("/tmp", "leads out")):
            file.write_text(f"[datasets.own]\nkind = 'imagefolder'\npath = 'own'\ntest = '{name}'\n")
            with pytest.raises(SearchProblem, match=words):
                open_dataset("own", Splits(), datasets_file=file)


class TestWithoutLabels:
    """A folder of images that nobody has sorted, for a job that reads no labels."""

    def unsorted(self, root: Path, *, classes: str = "") -> Path:
        """A datasets.toml that names it."""
        write_images(root / "sorted", classes=2)
        (root / "photos").mkdir()
        for number, file in enumerate(sorted((root / "sorted").rglob("*.png"))):
            file.rename(root / "photos" / f"{number:03}.png")
        path = root / "datasets.toml"
        path.write_text(f'[datasets.photos]\nkind = "imagefolder"\npath = "photos"\n{classes}')
        return path

    def opened(self, path: Path, *, is_labelled: bool) -> Dataset:
        splits = Splits(meta=5, validation=5, test=10)
        return open_dataset("photos", splits, datasets_file=path, is_labelled=is_labelled)

    def test_its_images_are_dealt_and_have_no_label(self, tmp_path: Path) -> None:
        path = self.unsorted(tmp_path, classes='classes = ["cat", "dog", "bird"]\n')
        dataset = self.opened(path, is_labelled=False)
        assert dataset.split_sizes == {"train": 20, "meta": 5, "validation": 5, "test": 10}
        assert dataset.classes == 3
        assert dataset.own_labels is None
        for split in dataset.splits.values():
            assert not split.is_labelled
            assert split.labels.tolist() == [UNLABELLED] * len(split)
        (told,) = [one for one in available_datasets(path) if one["name"] == "photos"]
        assert (told["classes"], told["images"]) == (3, 40)

    def test_with_labels_it_is_refused(self, tmp_path: Path) -> None:
        path = self.unsorted(tmp_path, classes='classes = ["cat", "dog", "bird"]\n')
        with pytest.raises(SearchProblem, match="no image files in class folders") as caught:
            self.opened(path, is_labelled=True)
        assert caught.value.code == "dataset_empty"

    def test_the_teachers_classes_have_to_be_known(self, tmp_path: Path) -> None:
        with pytest.raises(SearchProblem, match="list `classes`") as caught:
            self.opened(self.unsorted(tmp_path), is_labelled=False)
        assert caught.value.code == "dataset_labels"

    def test_labels_that_there_are_stand_apart(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        splits = Splits(meta=5, validation=5, test=10)
        bare, full = (
            open_dataset("own", splits, directory=tmp_path, is_labelled=is_labelled)
            for is_labelled in (False, True)
        )
        assert bare.own_labels is not None
        for name, split in full.splits.items():
            assert torch.equal(bare.splits[name].images, split.images)
            assert torch.equal(bare.own_labels[name], split.labels)
            assert not bare.splits[name].is_labelled
        assert bare.content_sha256 != full.content_sha256
