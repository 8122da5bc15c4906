"""Data sets: splits, kinds, what is refused and how, and that hostile files do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from search.data import SPLITS, Dataset, as_float, available_datasets, majority_rate, open_dataset
from search.datasets import decoded
from search.datasets_file import name_of_directory, write_datasets_file
from search.problems import SearchProblem
from search.spec import Splits
from tests.search.dataset_files import folder, write_cifar, write_images


def digits(**splits: int) -> Dataset:
    return open_dataset("digits", Splits(**splits))


def rows(dataset: Dataset, *names: str) -> set[bytes]:
    return {image.numpy().tobytes() for name in names for image in dataset.splits[name].images}


class TestDigits:
    def test_the_splits_have_their_default_sizes_and_share_no_image(self) -> None:
        dataset = digits()
        assert dataset.split_sizes == {"train": 400, "meta": 200, "validation": 200, "test": 997}
        assert tuple(dataset.splits) == SPLITS
        assert len(rows(dataset, *SPLITS)) == 1797

    def test_images_are_bytes_channels_first_and_labels_whole_numbers(self) -> None:
        dataset = digits()
        for images in dataset.splits.values():
            assert images.images.dtype == torch.uint8
            assert images.images.shape[1:] == (1, 32, 32)
            assert images.labels.dtype == torch.int64
        assert (dataset.classes, dataset.channels, dataset.size) == (10, 1, 32)
        assert dataset.class_names == [str(digit) for digit in range(10)]

    def test_the_seed_decides_the_splits_and_nothing_else_does(self) -> None:
        state = torch.get_rng_state()
        first, same, other = digits(seed=3), digits(seed=3), digits(seed=4)
        assert torch.equal(first.splits["test"].images, same.splits["test"].images)
        assert rows(first, "test") != rows(other, "test")
        assert torch.equal(torch.get_rng_state(), state)
        assert first.content_sha256 == other.content_sha256

    def test_fewer_test_images_are_a_part_of_the_same_ones(self) -> None:
        assert rows(digits(test=100), "test") < rows(digits(), "test")

    def test_fewer_training_images_leave_the_other_splits_alone(self) -> None:
        few, many = digits(train=100), digits()
        assert rows(few, "train") < rows(many, "train")
        for name in ("meta", "validation", "test"):
            assert torch.equal(few.splits[name].images, many.splits[name].images)

    def test_more_training_images_are_taken_from_the_default_test(self) -> None:
        assert digits(train=1000).split_sizes == {"train": 1000, "meta": 200, "validation": 200, "test": 397}

    def test_labels_belong_to_their_images(self) -> None:
        from sklearn.datasets import load_digits

        raw = load_digits()
        dataset = digits()
        images = torch.nn.functional.interpolate(
            torch.from_numpy(raw.images).float()[:, None] * (255 / 16), size=(32, 32), mode="bilinear"
        )
        label_of = {
            image.round().to(torch.uint8).numpy().tobytes(): int(label)
            for image, label in zip(images, raw.target, strict=True)
        }
        for split in dataset.splits.values():
            for image, label in zip(split.images, split.labels.tolist(), strict=True):
                assert label_of[image.numpy().tobytes()] == label

    def test_mean_and_deviation_are_those_of_the_train_split(self) -> None:
        dataset = digits()
        pixels = dataset.splits["train"].images.numpy() / 255
        assert dataset.mean == pytest.approx([pixels.mean()], rel=1e-12)
        assert dataset.std == pytest.approx([pixels.std()], rel=1e-12)

    def test_another_size_on_request(self) -> None:
        dataset = open_dataset("digits", Splits(), input_size=16)
        assert dataset.size == 16
        assert dataset.splits["train"].images.shape[1:] == (1, 16, 16)

    def test_proof_trains_on_all_three_with_the_same_numbers(self) -> None:
        dataset = digits()
        search, proof = dataset.training_images("search"), dataset.training_images("proof")
        assert (len(search), len(proof)) == (400, 800)
        assert torch.equal(proof.images[:400], search.images)
        assert not rows(dataset, "test") & {image.numpy().tobytes() for image in proof.images}

    @pytest.mark.parametrize(
        ("splits", "words"),
        [
            ({"train": 1797}, "1797"),
            ({"train": 1000, "test": 997}, "smaller splits"),
            ({"meta": 5000}, "5000"),
        ],
    )
    def test_more_than_there_is_is_refused_with_figures(self, splits: dict[str, int], words: str) -> None:
        with pytest.raises(SearchProblem, match=words) as caught:
            digits(**splits)
        assert caught.value.code == "dataset_too_small"


def test_bytes_become_floats_between_zero_and_one() -> None:
    assert as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def test_the_majority_rate_is_what_guessing_reaches() -> None:
    assert majority_rate(torch.tensor([2, 2, 2, 0]), classes=5) == 0.75


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

    def test_decoded_images_are_kept_and_used_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_images(tmp_path / "own")
        first = folder(tmp_path / "own", cache=tmp_path / "cache")
        monkeypatch.setattr(decoded, "_write", lambda *arguments: pytest.fail("decoded again"))
        second = folder(tmp_path / "own", cache=tmp_path / "cache")
        assert first.content_sha256 == second.content_sha256
        assert torch.equal(first.splits["train"].images, second.splits["train"].images)
        monkeypatch.undo()
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
            (lambda root: (root / "class_0").mkdir(parents=True), "dataset_empty"),
            (lambda root: write_images(root, classes=1), "dataset_one_class"),
            (lambda root: write_images(root, classes=3, each=1), "dataset_too_small"),
            (lambda root: None, "dataset_unreadable"),
        ],
        ids=["no folders", "no images", "one class", "too few", "no directory"],
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

    def test_what_does_not_belong_in_memory_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        write_images(tmp_path)
        with pytest.raises(SearchProblem, match="GiB") as caught:
            folder(tmp_path, input_size=50_000)
        assert caught.value.code == "dataset_too_large"


class TestDatasetsFile:
    def write(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "datasets.toml"
        path.write_text(text)
        return path

    def test_names_lead_to_directories_relative_to_the_file(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers" / "learn")
        write_images(tmp_path / "flowers" / "exam", each=4)
        path = self.write(
            tmp_path,
            '[datasets.flowers]\nkind = "imagefolder"\npath = "flowers"\n'
            'train = "learn"\ntest = "exam"\nsize = 8\n',
        )
        dataset = open_dataset("flowers", Splits(), datasets_file=path)
        assert dataset.split_sizes["test"] == 12
        assert dataset.size == 8

    def test_an_unknown_name_is_refused_with_the_nearest(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, '[datasets.flowers]\nkind = "imagefolder"\npath = "flowers"\n')
        for wrong, right in (("flower", "flowers"), ("digit", "digits")):
            with pytest.raises(SearchProblem, match=f"did you mean {right}") as caught:
                open_dataset(wrong, Splits(), datasets_file=path)
            assert caught.value.code == "unknown_dataset"

    def test_no_name_leads_out_to_a_path(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers")
        with pytest.raises(SearchProblem) as caught:
            open_dataset(str(tmp_path / "flowers"), Splits())
        assert caught.value.code == "unknown_dataset"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[datasets.a\n", "cannot be read"),
            ("[datasets.a]\npath = 'x'\n", "kind: Field required"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 'x'\nfolder = 'y'\n", "folder: Extra inputs"),
            ("[datasets.a]\nkind = 'images'\npath = 'x'\n", "known kinds: cifar, digits, imagefolder"),
            ("datasets = 3\n", "table"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 3\n", "path: Input should be a valid string"),
            ("[datasets.a]\nkind = 'imagefolder'\npath = 'x'\nsize = -4\n", "size"),
        ],
    )
    def test_a_faulty_file_is_refused_in_words(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(SearchProblem, match=words) as caught:
            open_dataset("a", Splits(), datasets_file=self.write(tmp_path, text))
        assert caught.value.code == "dataset_unreadable"

    def test_a_directory_without_a_name_gets_one_and_a_file_that_names_it(self, tmp_path: Path) -> None:
        write_images(tmp_path / "my 'own' flowers")
        path = tmp_path / "datasets.toml"
        write_datasets_file(path, tmp_path / "my 'own' flowers")
        name = name_of_directory(tmp_path / "my 'own' flowers")
        assert name == "my-own-flowers"
        assert open_dataset(name, Splits(), datasets_file=path).classes == 3
        with pytest.raises(SearchProblem, match="not a directory"):
            write_datasets_file(path, tmp_path / "gone")

    def test_the_catalogue_lists_all_without_decoding(self, tmp_path: Path) -> None:
        write_images(tmp_path / "flowers")
        write_cifar(tmp_path / "cifar")
        broken = tmp_path / "flowers" / "class_2" / "019.png"
        broken.write_bytes(b"")
        path = self.write(
            tmp_path,
            "[datasets.flowers]\nkind = 'imagefolder'\npath = 'flowers'\n"
            "[datasets.small]\nkind = 'cifar'\npath = 'cifar'\n"
            "[datasets.gone]\nkind = 'imagefolder'\npath = 'gone'\n",
        )
        found = {entry["name"]: entry for entry in available_datasets(path)}
        assert found["digits"] == {
            "name": "digits",
            "kind": "digits",
            "classes": 10,
            "channels": 1,
            "size": 32,
            "images": 1797,
        }
        assert (found["flowers"]["classes"], found["flowers"]["images"], found["flowers"]["size"]) == (
            3,
            60,
            24,
        )
        assert found["small"]["classes"] == 10
        assert "not a directory" in found["gone"]["error"]
        assert [entry["name"] for entry in available_datasets(None)] == ["digits"]
