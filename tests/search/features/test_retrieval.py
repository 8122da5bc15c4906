"""Embeddings matched or retrieved: by independent formulas, and by what the losses are known for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from scipy import special
from scipy.spatial import distance
from torch import Tensor, nn
from torch.nn import functional

from search.features import (
    Lesson,
    ModelOutputs,
    Pair,
    Seen,
)
from search.features.embed_distill import EmbedDistill
from search.features.ic_kd import FAR, InContextRetrieval
from search.models.embedding import EMBEDDING
from search.problems import SearchProblem
from tests.search.features.embeddings_by_hand import (
    WIDTHS,
    kl,
    made,
    noise,
    saying,
    widths,
)
from tests.search.features.seen import CLASSES, IMAGES, built, equal_pair, pair, seen, value


@pytest.mark.system("embeddistill")
class TestEmbedDistill:
    def made(self, of: Pair, **config: JsonValue) -> EmbedDistill:
        loss = built("embed_distill", of, config)
        assert isinstance(loss, EmbedDistill)
        return loss

    def test_formula(self) -> None:
        of = pair()
        loss = self.made(of)
        given = seen(of, loss)
        query = loss.map(given.student.embedding).detach().numpy()
        teacher = given.teacher.embedding.numpy()
        assert of.teacher.model is not None
        head = of.teacher.model.network.get_classifier()  # type: ignore[operator]
        scores = query @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        apart = np.linalg.norm(teacher - query, axis=1).mean() / np.sqrt(teacher.shape[1])
        target = special.softmax(given.teacher.logits.numpy(), axis=1)
        divergence = kl(target, special.softmax(scores, axis=1)).mean()
        assert float(loss(given).detach()) == pytest.approx(apart + divergence, rel=1e-9)
        weighted = self.made(of, embedding_weight=3.0, score_weight=0.5)
        assert float(weighted(given).detach()) == pytest.approx(3 * apart + divergence / 2, rel=1e-9)

    def test_equal_encoders_and_the_identity_give_zero(self) -> None:
        of = equal_pair()
        loss = self.made(of)
        torch.testing.assert_close(loss.map.weight, torch.eye(32, dtype=torch.float64), rtol=0, atol=0)
        assert abs(float(value(loss, seen(of, loss)).detach())) < 1e-12

    @pytest.mark.parametrize("name", ["cnn", "vit", "mixed"])
    def test_a_query_that_matches_scores_as_the_teacher_does(self, name: str) -> None:
        of = pair(name)
        loss = self.made(of)
        given = seen(of, loss)
        torch.testing.assert_close(loss.scores(given.teacher.embedding), given.teacher.logits)

    def test_a_teachers_classifier_that_is_a_1x1_convolution_is_taken(self) -> None:
        of = equal_pair()
        head = nn.Conv2d(32, CLASSES, 1, bias=False).double()
        loss = self.made(with_classifier(of, head))
        embedding = noise(3, 32)
        expected = head(embedding[:, :, None, None])[:, :, 0, 0]
        torch.testing.assert_close(loss.scores(embedding), expected.detach())

    @pytest.mark.parametrize(
        "head", [nn.Sequential(nn.Linear(32, CLASSES)), nn.Linear(32, 9), nn.Conv2d(32, CLASSES, 3)], ids=str
    )
    def test_another_classifier_is_refused(self, head: nn.Module) -> None:
        with pytest.raises(SearchProblem, match="choose a teacher that ends in one"):
            self.made(with_classifier(equal_pair(), head))

    def test_a_teacher_that_is_not_at_hand_is_refused(self) -> None:
        with pytest.raises(SearchProblem, match="choose a teacher that ends in one"):
            self.made(widths())


class Network(nn.Module):
    """No more than a classifier."""

    num_classes = CLASSES

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def get_classifier(self) -> nn.Module:
        return self.head


@dataclass
class Model:
    """As far as a loss looks at it."""

    network: nn.Module


def with_classifier(of: Pair, head: nn.Module) -> Pair:
    model: Any = Model(Network(head))
    return replace(of, teacher=replace(of.teacher, model=model))


@dataclass(frozen=True)
class Given:
    """Lessons of a teacher's outputs at hand, in batches of seven, in any order."""

    said: ModelOutputs
    labels: Tensor
    order: Tensor

    def teacher(self, taps: Sequence[int]) -> Iterator[Lesson]:
        for rows in torch.split(self.order, 7):
            maps: Mapping[int, Tensor] = {tap: self.said.maps[tap][rows] for tap in taps}
            yield ModelOutputs(self.said.logits[rows], maps), self.labels[rows], rows

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        raise AssertionError("nobody asks the student")


@pytest.mark.system("ic_kd")
class TestInContextRetrieval:
    said = saying(noise(IMAGES, WIDTHS[1], seed=3), seed=4)
    labels = torch.arange(IMAGES) * 7 % CLASSES

    def made(self, *, labels: Tensor | None = None, **config: JsonValue) -> InContextRetrieval:
        loss = made("ic_kd", None, **config)
        assert isinstance(loss, InContextRetrieval)
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
        loss.prepare(Given(self.said, self.labels if labels is None else labels, order), seed=0)
        return loss

    def step(self, labels: Tensor | None = None) -> Seen:
        """Of every second image, seen a little differently than when the bank was filled."""
        rows = torch.arange(0, IMAGES, 2)
        embedding = self.said.embedding[rows] + 0.1 * noise(len(rows), WIDTHS[1], seed=5)
        return Seen(
            ModelOutputs(2 * noise(len(rows), CLASSES, seed=6), {}),
            ModelOutputs(self.said.logits[rows], {EMBEDDING: embedding[:, :, None, None]}),
            (self.labels if labels is None else labels)[rows],
            rows,
        )

    def expected(self, given: Seen, positives: int, negatives: int) -> tuple[float, float]:
        """Both parts, image by image."""
        bank, logits, labels = self.said.embedding.numpy(), self.said.logits.numpy(), self.labels.numpy()
        cosines = 1 - distance.cdist(given.teacher.embedding.numpy(), bank, "cosine")
        first, second = [], []
        for row, (index, label) in enumerate(
            zip(given.indices.tolist(), given.targets.tolist(), strict=True)
        ):
            nearest = [place for place in np.argsort(-cosines[row]) if place != index]
            same = [place for place in nearest if labels[place] == label][:positives]
            others = [place for place in nearest if labels[place] != label][:negatives]
            weights = special.softmax(cosines[row, same] / 0.1)
            target = special.softmax(weights @ logits[same] / 4)
            own = given.student.logits[row].numpy()
            first.append(16 * float(kl(target, special.softmax(own / 4))))
            theirs = special.softmax(logits[others], axis=1)
            likeness = 1 - distance.cdist(special.softmax(own)[None], theirs, "cosine")
            second.append(float(np.maximum(likeness - 0.5, 0).mean()))
        return float(np.mean(first)), float(np.mean(second))

    @pytest.mark.parametrize(("positives", "negatives"), [(2, 3), (8, 8)])
    def test_formula(self, positives: int, negatives: int) -> None:
        given = self.step()
        towards, away = self.expected(given, positives, negatives)
        assert away > 0
        loss = self.made(positives=positives, negatives=negatives)
        assert float(loss(given)) == pytest.approx(towards + 2 * away, rel=1e-9)
        loss = self.made(positives=positives, negatives=negatives, positive_weight=3.0, negative_weight=0.5)
        assert float(loss(given)) == pytest.approx(3 * towards + 0.5 * away, rel=1e-9)

    @pytest.mark.parametrize("most", [1, 3, 100])
    def test_it_retrieves_its_class_and_others_and_never_itself(self, most: int) -> None:
        given = self.step()
        loss = self.made(positives=most, negatives=most)
        positives, negatives = loss.retrieved(given)
        for (cosines, places), same in ((positives, True), (negatives, False)):
            found = cosines > FAR
            assert bool(found.any(dim=1).all())
            assert not bool(((places == given.indices[:, None]) & found).any())
            of_class = self.labels[places] == given.targets[:, None]
            assert bool((of_class == same)[found].all())
            of_all = (self.labels == given.targets[:, None]).sum(dim=1) - 1
            allowed = of_all if same else IMAGES - 1 - of_all
            assert torch.equal(found.sum(dim=1), allowed.clamp(max=most))

    def test_retrieving_a_whole_class_the_target_is_its_weighted_mean(self) -> None:
        given = self.step()
        loss = self.made(positives=IMAGES)
        (cosines, places), _ = loss.retrieved(given)
        near = functional.normalize(given.teacher.embedding) @ functional.normalize(self.said.embedding).T
        near = near - 1e9 * (given.indices[:, None] == torch.arange(IMAGES))
        near = near - 1e9 * (given.targets[:, None] != self.labels)
        expected = torch.softmax(near / 0.1, dim=1) @ self.said.logits
        torch.testing.assert_close(loss.target(cosines, places), expected)
        level = self.made(positives=IMAGES, sharpness=100.0)
        members = ((self.labels == given.targets[:, None]) & (near > -10)).double()
        mean = members @ self.said.logits / members.sum(dim=1, keepdim=True)
        torch.testing.assert_close(level.target(cosines, places), mean, rtol=0.02, atol=0.02)

    def test_an_image_alone_in_its_class_is_taught_by_negatives_only(self) -> None:
        labels = torch.where(torch.arange(IMAGES) == 0, 1, 0)
        given = self.step(labels)
        one = replace(
            given,
            student=ModelOutputs(given.student.logits[:1], {}),
            teacher=ModelOutputs(given.teacher.logits[:1], {EMBEDDING: given.teacher.maps[EMBEDDING][:1]}),
            targets=given.targets[:1],
            indices=given.indices[:1],
        )
        loss = self.made(labels=labels)
        assert float(loss.towards(one.student.logits, *loss.retrieved(one)[0])) == 0
        away = float(loss.away(one.student.logits, *loss.retrieved(one)[1]))
        assert float(loss(one)) == pytest.approx(2 * away, rel=1e-12)

    def test_a_training_set_of_one_class_has_no_negatives(self) -> None:
        labels = torch.zeros(IMAGES, dtype=torch.long)
        given = self.step(labels)
        loss = self.made(labels=labels)
        assert float(loss.away(given.student.logits, *loss.retrieved(given)[1])) == 0
        assert torch.isfinite(loss(given))
