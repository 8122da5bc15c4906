"""Losses on embeddings: by independent formulas, and by what they are known for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from scipy import special
from scipy.spatial import distance
from torch import Tensor, nn
from torch.nn import functional
from torchdistill.losses import mid_level

from search.features import (
    Seen,
)
from search.features.crd import ContrastiveDistillation
from search.features.ega import GraphAlignment, edge_difference, node_difference
from search.features.rkd import normalised_distances
from search.problems import SearchProblem
from tests.search.features.embeddings_by_hand import (
    BATCH,
    WIDTHS,
    Array,
    batch,
    kl,
    made,
    noise,
    of_peer,
    step,
    widths,
)
from tests.search.features.seen import IMAGES, value


@pytest.mark.system("rkd")
class TestRelational:
    @pytest.mark.parametrize("seed", range(3))
    def test_the_same_as_torchdistills(self, seed: int) -> None:
        student, teacher = batch(seed)
        peer = mid_level.RKDLoss("at", "at", dist_factor=25.0, angle_factor=50.0, reduction="mean")
        found = float(made("rkd")(step(student, teacher)))
        assert found == pytest.approx(of_peer(peer, student, teacher), rel=1e-5)

    def test_formula(self) -> None:
        def of(embedding: Array) -> tuple[Array, Array]:
            apart = distance.squareform(distance.pdist(embedding))
            towards = embedding[None] - embedding[:, None]
            unit = towards / (apart + np.eye(BATCH))[:, :, None]
            return apart / apart[apart > 0].mean(), np.einsum("ijd,ikd->ijk", unit, unit)

        def smooth(difference: Array) -> float:
            size = np.abs(difference)
            return float(np.where(size < 1, size**2 / 2, size - 0.5).mean())

        student, teacher = batch()
        both = zip(of(student.numpy()), of(teacher.numpy()), strict=True)
        distances, angles = (smooth(one - other) for one, other in both)
        found = float(made("rkd")(step(student, teacher)))
        assert found == pytest.approx(25 * distances + 50 * angles, rel=1e-5)
        found = float(made("rkd", distance_weight=2.0, angle_weight=3.0)(step(student, teacher)))
        assert found == pytest.approx(2 * distances + 3 * angles, rel=1e-5)

    def test_distances_do_not_change_when_embeddings_are_turned_moved_and_scaled(self) -> None:
        student, teacher = batch()
        turn = torch.linalg.qr(noise(WIDTHS[0], WIDTHS[0], seed=5)).Q
        changed = 3.7 * student @ turn + noise(WIDTHS[0], seed=6)
        torch.testing.assert_close(normalised_distances(changed), normalised_distances(student))
        loss = made("rkd", angle_weight=0.0)
        before, after = (float(loss(step(each, teacher))) for each in (student, changed))
        assert before > 0
        assert after == pytest.approx(before, rel=1e-9)


@pytest.mark.system("pkt")
class TestProbabilisticTransfer:
    @pytest.mark.parametrize("seed", range(3))
    def test_the_same_as_torchdistills(self, seed: int) -> None:
        student, teacher = batch(seed)
        peer = mid_level.PKTLoss("at", "output", "at", "output")
        found = float(made("pkt")(step(student, teacher)))
        assert found == pytest.approx(of_peer(peer, student, teacher), rel=1e-5)

    def test_formula(self) -> None:
        def neighbours(embedding: Tensor) -> Array:
            near = 1 - distance.squareform(distance.pdist(embedding.numpy(), "cosine")) / 2
            rows: Array = near / near.sum(axis=1, keepdims=True)
            return rows

        student, teacher = batch()
        expected = kl(neighbours(teacher), neighbours(student)).sum() / BATCH**2
        assert float(made("pkt")(step(student, teacher))) == pytest.approx(expected, rel=1e-5)

    def test_the_length_of_an_images_embedding_changes_nothing(self) -> None:
        student, teacher = batch()
        lengths = torch.linspace(0.2, 5, BATCH, dtype=torch.float64)[:, None]
        before = float(made("pkt")(step(student, teacher)))
        after = float(made("pkt")(step(student * lengths, teacher * lengths.flip(0))))
        assert before > 0
        assert after == pytest.approx(before, rel=1e-9)


@pytest.mark.system("cc")
class TestCorrelationCongruence:
    def kernel(self, embedding: Tensor) -> Array:
        unit = embedding.numpy() / np.linalg.norm(embedding.numpy(), axis=1, keepdims=True)
        total = sum(0.8**power / special.factorial(power) * (unit @ unit.T) ** power for power in range(3))
        return np.asarray(np.exp(-0.8) * total)

    def test_formula(self) -> None:
        student, teacher = batch()
        expected = np.square(self.kernel(student) - self.kernel(teacher)).mean()
        assert float(made("cc")(step(student, teacher))) == pytest.approx(expected, rel=1e-10)

    def test_the_square_of_torchdistills_of_embeddings_at_length_1(self) -> None:
        student, teacher = batch()
        peer = mid_level.CCKDLoss("at", "at", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, reduction="sum")
        apart = of_peer(peer, functional.normalize(student), functional.normalize(teacher))
        found = float(made("cc")(step(student, teacher)))
        assert found == pytest.approx(apart**2 / BATCH**2, rel=1e-5)

    def test_the_kernel_is_nearly_the_gaussian_one(self) -> None:
        student, _ = batch()
        squared = distance.squareform(distance.pdist(functional.normalize(student).numpy(), "sqeuclidean"))
        assert np.abs(self.kernel(student) - np.exp(-0.4 * squared)).max() < 0.05

    def test_zero_at_equality_and_only_there(self) -> None:
        student, teacher = batch()
        assert float(made("cc", widths(12, 12))(step(teacher, teacher))) == 0
        assert float(made("cc", widths(12, 12))(step(2 * teacher, teacher))) < 1e-30
        assert float(made("cc")(step(student, teacher))) > 1e-4


@pytest.mark.system("ega")
class TestGraphAlignment:
    def made(self, **config: JsonValue) -> GraphAlignment:
        loss = made("ega", None, **config)
        assert isinstance(loss, GraphAlignment)
        return loss

    def mapped(self, by: nn.Linear, embedding: Tensor) -> Array:
        found: Array = by(embedding).detach().numpy()
        return found

    def test_formula(self) -> None:
        student, teacher = batch()
        loss = self.made(width=20)
        both = np.concatenate(
            [self.mapped(loss.teacher_map, teacher), self.mapped(loss.student_map, student)]
        )
        correlations = np.corrcoef(both)
        between = correlations[:BATCH, BATCH:]
        nodes = np.linalg.norm(between - np.eye(BATCH))
        edges = np.linalg.norm(correlations[:BATCH, :BATCH] - correlations[BATCH:, BATCH:])
        found = float(loss(step(student, teacher)).detach())
        assert found == pytest.approx(0.8 * nodes + 0.24 * edges, rel=1e-10)
        weighted = self.made(width=20, node_weight=2.0, edge_weight=0.5)
        found = float(weighted(step(student, teacher)).detach())
        assert found == pytest.approx(2 * nodes + 0.5 * edges, rel=1e-10)

    def test_equal_graphs_have_equal_edges_but_nodes_only_where_images_are_uncorrelated(self) -> None:
        _, teacher = batch()
        assert float(edge_difference(teacher, teacher)) == 0
        assert float(node_difference(teacher, teacher)) > 0.1
        # Without correlation: orthogonal rows of mean zero.
        centred = teacher - teacher.mean(dim=1, keepdim=True)
        apart = torch.linalg.qr(centred.T).Q.T
        assert float(node_difference(apart, apart)) < 1e-6

    def test_the_teachers_map_learns_classes_and_nothing_else(self) -> None:
        loss, given = self.made(width=20), step(*batch())
        loss(given).backward()
        found = [each.grad for each in (loss.teacher_map.weight, loss.classifier.weight)]
        said = loss.classifier(loss.teacher_map(given.teacher.embedding))
        taught = functional.cross_entropy(said, given.targets)
        expected = torch.autograd.grad(taught, [loss.teacher_map.weight, loss.classifier.weight])
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.system("crd")
class TestContrastive:
    def made(self, *, images: int = IMAGES, **config: JsonValue) -> ContrastiveDistillation:
        loss = made("crd", widths(images=images), **config)
        assert isinstance(loss, ContrastiveDistillation)
        return loss

    def said(self, loss: ContrastiveDistillation, given: Seen) -> tuple[Tensor, Tensor]:
        student, teacher = (
            loss.student_map(given.student.embedding),
            loss.teacher_map(given.teacher.embedding),
        )
        return functional.normalize(student).detach(), functional.normalize(teacher).detach()

    def test_formula(self) -> None:
        loss, given = self.made(negatives=6), step(*batch())
        anchors = self.said(loss, given)
        banks = loss.get_buffer("teacher_bank").clone(), loss.get_buffer("student_bank").clone()
        torch.manual_seed(4)
        others = loss.others(given.indices)
        torch.manual_seed(4)
        found = float(loss(given).detach())
        places = np.concatenate([given.indices[:, None].numpy(), others.numpy()], axis=1)
        total, chance = 0.0, 6 / IMAGES
        for anchor, bank in zip(anchors, banks, strict=True):
            scores = np.exp(np.einsum("bkd,bd->bk", bank.numpy()[places], anchor.numpy()) / 0.07)
            scores /= scores.mean() * IMAGES
            right = scores / (scores + chance)
            total -= float((np.log(right[:, 0]) + np.log(1 - right[:, 1:]).sum(axis=1)).mean())
        assert found == pytest.approx(total, rel=1e-9)

    def test_the_same_as_torchdistills_over_steps(self) -> None:
        loss = self.made(negatives=6)
        peer = mid_level.CRDLoss("at", "at", "at", 128, IMAGES, 6, IMAGES).double()
        peer.memory_v1.copy_(loss.get_buffer("student_bank"))
        peer.memory_v2.copy_(loss.get_buffer("teacher_bank"))
        for seed in range(3):
            given = step(*batch(seed))
            student, teacher = self.said(loss, given)
            torch.manual_seed(seed)
            drawn = torch.cat([given.indices[:, None], loss.others(given.indices)], dim=1)
            entries: dict[str, Any] = {
                "output": student,
                "input": {"pos_idx": given.indices, "contrast_idx": drawn},
            }
            expected = float(peer({"at": entries}, {"at": {"output": teacher}}))
            torch.manual_seed(seed)
            assert float(loss(given).detach()) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(loss.get_buffer("student_bank"), peer.memory_v1)
        torch.testing.assert_close(loss.get_buffer("teacher_bank"), peer.memory_v2)

    def test_rows_stay_at_length_1_and_totals_are_set_once(self) -> None:
        loss = self.made()
        first: Tensor | None = None
        for seed in range(4):
            given = step(*batch(seed))
            before = loss.get_buffer("student_bank").clone()
            loss(given if seed else replace(given, indices=given.indices + 3))
            for name in ("student_bank", "teacher_bank"):
                lengths = loss.get_buffer(name).norm(dim=1)
                torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)
            moved = (loss.get_buffer("student_bank") != before).any(dim=1).nonzero().flatten()
            assert moved.tolist() == [*range(0 if seed else 3, BATCH if seed else BATCH + 3)]
            first = loss.log_totals.clone() if first is None else first
            assert torch.equal(loss.log_totals, first)
        assert bool(loss.started)

    def test_a_silent_image_leaves_its_row_at_length_1(self) -> None:
        loss = self.made(momentum=0.0)
        nn.init.zeros_(loss.student_map.bias)
        loss(step(torch.zeros(BATCH, WIDTHS[0], dtype=torch.float64), batch()[1]))
        lengths = loss.get_buffer("student_bank").norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-6)

    def test_pairs_that_belong_together_cost_less_than_shuffled_ones(self) -> None:
        loss = made("crd", widths(7, 7))
        assert isinstance(loss, ContrastiveDistillation)
        loss.teacher_map.load_state_dict(loss.student_map.state_dict())
        embedding = noise(IMAGES, 7)
        for name in ("student_bank", "teacher_bank"):
            loss.keep(name, functional.normalize(loss.student_map(embedding)))
        loss(step(embedding, embedding))
        aligned = float(value(loss, step(embedding, embedding)).detach())
        for places in (1, 5, 12):
            shuffled = float(value(loss, step(embedding.roll(places, dims=0), embedding)).detach())
            assert aligned < shuffled - 1

    def test_negatives_are_all_other_images_alike(self) -> None:
        loss = self.made(images=7, negatives=5)
        torch.manual_seed(0)
        indices = torch.arange(7).repeat(600)
        others = loss.others(indices)
        assert others.shape == (4200, 5)
        assert not (others == indices[:, None]).any()
        drawn = torch.bincount(others[indices == 2].flatten(), minlength=7) / 3000
        expected = torch.full((7,), 1 / 6)
        expected[2] = 0
        torch.testing.assert_close(drawn, expected, rtol=0, atol=0.03)
        assert self.made(images=7).negatives == 6

    def test_one_training_image_is_refused(self) -> None:
        with pytest.raises(SearchProblem, match="at least two"):
            self.made(images=1)
