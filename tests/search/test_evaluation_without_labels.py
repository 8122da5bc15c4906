"""Each figure against a formula of its own, pair by pair in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from search.evaluation_without_labels import (
    NEIGHBOURS,
    divergence_from_teacher,
    knn_accuracy,
    linear_probe_accuracy,
    neighbour_agreement,
    out_of_distribution_auroc,
    pixel_shuffled,
    said_of,
    similarity_difference,
    teacher_agreement,
)
from search.problems import NonFiniteFigure
from tests.search.synthetic import blobs
from tests.search.training.runs import model

IMAGES, STRANGERS, CLASSES = 60, 25, 4


def vectors(count: int, *, seed: int, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings in loose groups, and the number of each one's group."""
    labels = torch.arange(count) % CLASSES
    centres = 2 * vectors(CLASSES, seed=99)
    return centres[labels] + 1.5 * vectors(count, seed=seed), labels


def cosine(one: Tensor, other: Tensor) -> float:
    left, right = one.double(), other.double()
    return float(left @ right) / math.sqrt(float(left @ left) * float(right @ right))


def by_nearness(image: Tensor, others: Tensor) -> list[int]:
    """The numbers of the others, the nearest by cosine first."""
    return sorted(range(len(others)), key=lambda index: -cosine(image, others[index]))


class TestAgreement:
    def test_with_the_teachers_class(self) -> None:
        student, teacher = torch.eye(4), torch.eye(4)[[0, 1, 3, 3]]
        assert teacher_agreement(student, teacher) == 0.75
        assert teacher_agreement(10 * teacher - 3, teacher) == 1.0

    def test_with_the_teachers_neighbours(self) -> None:
        student, teacher = vectors(IMAGES, seed=0), vectors(IMAGES, seed=1, width=9)
        teacher[:, :6] += 3 * student

        def nearest(embeddings: Tensor) -> list[int]:
            others = [[*range(index), *range(index + 1, IMAGES)] for index in range(IMAGES)]
            return [
                max(rest, key=lambda other: cosine(embeddings[index], embeddings[other]))
                for index, rest in enumerate(others)
            ]

        alike = [one == other for one, other in zip(nearest(student), nearest(teacher), strict=True)]
        assert 0.1 < sum(alike) / IMAGES < 0.9
        assert neighbour_agreement(student, teacher) == pytest.approx(sum(alike) / IMAGES)

    def test_neighbours_do_not_change_under_rotation_and_scale(self) -> None:
        embeddings = vectors(IMAGES, seed=0)
        turn = torch.linalg.qr(vectors(6, seed=3)).Q
        assert neighbour_agreement(3 * embeddings @ turn, embeddings) == 1.0
        assert neighbour_agreement(vectors(IMAGES, seed=5), embeddings) < 0.2


class TestLosses:
    def test_divergence(self) -> None:
        student, teacher = vectors(IMAGES, seed=0), vectors(IMAGES, seed=1)
        expected = 0.0
        for ours, theirs in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
            target, other = (np.exp(each) / np.exp(each).sum() for each in (theirs, ours))
            expected += float((target * np.log(target / other)).sum()) / IMAGES
        assert divergence_from_teacher(student, teacher) == pytest.approx(expected)
        assert divergence_from_teacher(teacher + 5, teacher) == pytest.approx(0, abs=1e-9)

    def test_similarities_of_all_pairs_across_blocks_of_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("search.evaluation_without_labels.ROWS", 7)
        student, teacher = vectors(20, seed=0), vectors(20, seed=1, width=11)
        pairs = [(one, other) for one in range(20) for other in range(20) if one != other]
        squared = [
            (cosine(student[one], student[other]) - cosine(teacher[one], teacher[other])) ** 2
            for one, other in pairs
        ]
        assert similarity_difference(student, teacher) == pytest.approx(sum(squared) / len(pairs))


class TestEmbeddings:
    def test_the_nearest_vote(self) -> None:
        (bank, labels), (judged, truth) = clustered(IMAGES, seed=0), clustered(STRANGERS, seed=1)
        rightly = 0
        for image, label in zip(judged, truth.tolist(), strict=True):
            votes = labels[by_nearness(image, bank)[:NEIGHBOURS]]
            rightly += int(torch.bincount(votes, minlength=CLASSES).argmax()) == label
        assert CLASSES < rightly < STRANGERS
        assert knn_accuracy(bank, labels, judged, truth) == pytest.approx(rightly / STRANGERS)

    def test_a_linear_probe_is_ridge_regression_in_closed_form(self) -> None:
        (bank, labels), (judged, truth) = clustered(IMAGES, seed=0), clustered(STRANGERS, seed=1)
        mean, deviation = bank.double().mean(dim=0), bank.double().std(dim=0, unbiased=False)
        known, asked = ((each.double() - mean) / deviation for each in (bank, judged))
        wanted = 2 * torch.nn.functional.one_hot(labels, CLASSES).double() - 1
        ridge = known.T @ known + torch.eye(known.shape[1], dtype=torch.float64)
        weight = torch.linalg.solve(ridge, known.T @ (wanted - wanted.mean(dim=0)))
        rightly = ((asked @ weight + wanted.mean(dim=0)).argmax(dim=1) == truth).double().mean()
        assert 0.4 < float(rightly) < 1
        assert linear_probe_accuracy(bank, labels, judged, truth) == pytest.approx(float(rightly))

    def test_strangers_are_told_by_their_distance_to_the_fifth_neighbour(self) -> None:
        bank, inside = clustered(IMAGES, seed=0)[0], clustered(STRANGERS, seed=1)[0]
        outside = vectors(STRANGERS, seed=2)

        def distance(image: Tensor) -> float:
            return 1 - cosine(image, bank[by_nearness(image, bank)[NEIGHBOURS - 1]])

        known, strange = ([distance(image) for image in each] for each in (inside, outside))
        ahead = sum(far > near for far in strange for near in known) / STRANGERS**2
        assert 0.5 < ahead < 1
        assert out_of_distribution_auroc(bank, inside, outside) == pytest.approx(ahead, abs=1e-6)
        assert out_of_distribution_auroc(bank, inside, inside) == 0.5


class TestShuffledPixels:
    def test_each_image_keeps_its_pixels_in_an_order_of_its_own(self) -> None:
        images = torch.arange(3 * 25, dtype=torch.uint8).view(1, 3, 5, 5).repeat(2, 1, 1, 1)
        one, other = pixel_shuffled(images, seed=0)
        assert not torch.equal(one, other)
        assert not torch.equal(one, images[0])
        for shuffled in (one, other):
            pixels = {tuple(pixel) for pixel in shuffled.flatten(1).T.tolist()}
            assert pixels == {tuple(pixel) for pixel in images[0].flatten(1).T.tolist()}

    def test_the_seed_alone_decides(self) -> None:
        images = blobs(4, seed=0).images
        assert torch.equal(pixel_shuffled(images, seed=3), pixel_shuffled(images, seed=3))
        assert not torch.equal(pixel_shuffled(images, seed=3), pixel_shuffled(images, seed=4))


class TestWhatModelsSay:
    def test_logits_and_what_the_classifier_is_given(self) -> None:
        network, images = model("resnet8_w8", seed=0).train(), blobs(70, seed=0).images
        said = said_of(network, images)
        assert network.training
        assert said.embeddings is not None
        assert said.embeddings.shape == (70, network.embedding_width)
        classifier = network.network.get_classifier()  # type: ignore[operator]
        with torch.no_grad():
            assert torch.allclose(classifier(said.embeddings), said.logits, atol=1e-5)
            assert torch.allclose(network.eval()(images / 255), said.logits, atol=1e-5)
        assert torch.equal(said.first(3).logits, said.logits[:3])

    def test_what_is_not_finite_is_said(self) -> None:
        network = model("resnet8_w8", seed=0)
        with torch.no_grad():
            next(network.parameters()).fill_(math.nan)
        with pytest.raises(NonFiniteFigure, match="not finite"):
            said_of(network, blobs(4, seed=0).images)
