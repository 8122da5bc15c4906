"""The built-in digits, and how any data set's images are dealt to the splits."""

from __future__ import annotations

import pytest
import torch

from search.data import Dataset, as_float, majority_rate, open_dataset
from search.problems import SearchProblem
from search.spec import Splits
from search.splitting import SPLITS


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
