"""Losses that look at all training images first: by formulas in numpy, and by what they are known for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from scipy import special
from torch import Tensor

from search.features import (
    ModelOutputs,
    Pair,
    build_feature_loss,
)
from search.features.mgd_shao import MultiGranularity, encoded, heads, stable_logits
from search.features.tintem import FaithfulDistillation, semi_orthogonal, unfaithfulness
from tests.search.features.lessons_by_hand import HEADS, Array, Given, noise, saying, step, widths
from tests.search.features.seen import (
    CLASSES,
    IMAGES,
    built,
    equal_pair,
    model,
    outputs,
    pair,
    seen,
    value,
)


@pytest.mark.system("tintem")
class TestFaithful:
    def made(self, head: str, student: Tensor, teacher: Tensor, **config: str) -> FaithfulDistillation:
        of = widths(student.shape[1], teacher.shape[1])
        loss = build_feature_loss("tintem", {"head": head, **config}, pair=of).double()
        assert isinstance(loss, FaithfulDistillation)
        loss.prepare(Given({"student": saying(student), "teacher": saying(teacher)}), seed=3)
        return loss

    def test_formula(self) -> None:
        of = pair()
        teacher = outputs(of.teacher.name).embedding.numpy()
        student = outputs(of.student.name).embedding.numpy()[:8]
        principal = np.linalg.svd(teacher - teacher.mean(axis=0))[2][: student.shape[1]]
        given = (teacher - teacher.mean(axis=0)) @ principal.T
        loss = built("tintem", of)
        # Directions are found up to their signs, and those beyond the images' rank are free.
        rank = IMAGES - 1
        weight = loss.get_buffer("weight").numpy()
        agreement = (weight * principal).sum(axis=1)[:rank]
        np.testing.assert_allclose(np.abs(agreement), 1, atol=1e-6)
        target = (teacher[:8] - teacher.mean(axis=0)) @ weight.T
        expected = np.square(student - target).mean() / np.square(given).mean()
        assert float(value(loss, seen(of, loss))) == pytest.approx(expected, rel=1e-9)
        cosines = (student * target).sum(axis=1) / np.linalg.norm(student, axis=1)
        expected = 1 - (cosines / np.linalg.norm(target, axis=1)).mean()
        loss = built("tintem", of, {"distance": "cosine"})
        assert float(value(loss, seen(of, loss))) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("head", ["pca", "random", "procrustes"])
    @pytest.mark.parametrize("size", [(5, 12), (12, 12), (12, 5)], ids=str)
    @pytest.mark.parametrize("images", [4, 50])
    def test_the_head_is_semi_orthogonal(self, head: str, size: tuple[int, int], images: int) -> None:
        weight = self.made(head, noise(images, size[0]), noise(images, size[1], seed=1)).weight
        gram = weight @ weight.T if size[0] <= size[1] else weight.T @ weight
        torch.testing.assert_close(gram, torch.eye(min(size), dtype=torch.float64), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("better", ["pca", "learned"])
    def test_it_keeps_what_lies_between_images_better_than_a_random_one(self, better: str) -> None:
        teacher = noise(60, 12) * torch.logspace(0, -2, 12, dtype=torch.float64)

        def strain(head: str) -> float:
            loss = self.made(head, noise(60, 4, seed=1), teacher)
            changed = torch.pdist(loss.head(teacher)) - torch.pdist(teacher)
            return float(changed.square().mean())

        assert strain(better) < 0.5 * strain("random")

    def test_learning_makes_a_random_head_more_faithful(self) -> None:
        teacher = noise(60, 12) * torch.logspace(0, -2, 12, dtype=torch.float64)
        start = semi_orthogonal(4, 12, torch.Generator().manual_seed(3))
        end = self.made("learned", noise(60, 4, seed=1), teacher).weight
        centred = teacher - teacher.mean(dim=0)
        before, after = (float(unfaithfulness(weight.float(), centred.float())) for weight in (start, end))
        assert after < 0.5 * before

    @pytest.mark.parametrize("size", [(5, 12), (12, 5)], ids=str)
    def test_procrustes_agrees_most_with_the_student_among_orthogonal_heads(
        self, size: tuple[int, int]
    ) -> None:
        student, teacher = noise(50, size[0]), noise(50, size[1], seed=1)
        generator = torch.Generator().manual_seed(0)

        def agreement(weight: Tensor) -> float:
            centred = teacher - teacher.mean(dim=0)
            return float(((student - student.mean(dim=0)) * (centred @ weight.T)).sum())

        best = agreement(self.made("procrustes", student, teacher).weight)
        assert all(agreement(semi_orthogonal(*size, generator)) < best for _ in range(200))

    def test_only_procrustes_is_made_anew_at_every_epoch(self) -> None:
        every = {head: built("tintem", pair(), {"head": head}).lessons_every_epochs for head in HEADS}
        assert every == {"pca": None, "random": None, "learned": None, "procrustes": 1}

    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("distance", ["mse", "cosine"])
    def test_zero_where_the_student_is_the_head_of_the_teacher(self, head: str, distance: str) -> None:
        teacher = noise(20, 12, seed=1)
        loss = self.made(head, noise(20, 5), teacher, distance=distance)
        assert float(loss(step(saying(loss.head(teacher)), saying(teacher)))) == pytest.approx(0, abs=1e-12)
        assert float(loss(step(saying(-loss.head(teacher)), saying(teacher)))) > 0.5


def p(logits: Array, temperature: float) -> Array:
    softened: Array = special.softmax(logits / temperature, axis=1)
    return softened


def softened_kl(target: Array, other: Array, temperature: float) -> float:
    rows = special.rel_entr(p(target, temperature), p(other, temperature)).sum(axis=1)
    return temperature**2 * float(rows.mean())


def two_layers(state: Mapping[str, Tensor], name: str, values: Array) -> Array:
    def affine(place: int, given: Array) -> Array:
        weight, bias = (state[f"{name}.{place}.{kind}"].detach().numpy() for kind in ("weight", "bias"))
        moved: Array = given @ weight.T + bias
        return moved

    return affine(2, np.maximum(affine(0, values), 0))


@pytest.mark.system("mgd_shao")
class TestMultiGranularity:
    def loss(self, of: Pair, **config: JsonValue) -> MultiGranularity:
        loss = built("mgd_shao", of, config)
        assert isinstance(loss, MultiGranularity)
        return loss

    def test_formula(self) -> None:
        of = pair()
        loss = self.loss(of, mode="mas")
        batch, state = seen(of, loss), loss.state_dict()
        student, teacher = batch.student.embedding.numpy(), batch.teacher.embedding.numpy()
        expected, stable = 0.0, [batch.teacher.logits.numpy()]
        for width, temperature in ((64, 2.0), (256, 8.0)):
            target = two_layers(state, f"heads.encoder_{width}", teacher)
            other = two_layers(state, f"encoders.{width}", student)
            assert target.shape == other.shape == (8, width)
            expected += softened_kl(target, other, temperature)
            stable.append(two_layers(state, f"heads.decoder_{width}", target))
        assert float(value(self.loss(of), batch).detach()) == pytest.approx(expected, rel=1e-9)
        expected += softened_kl(np.mean(stable, axis=0), batch.student.logits.numpy(), 4.0)
        assert float(value(loss, batch).detach()) == pytest.approx(expected, rel=1e-9)

    def test_the_heads_learn_and_the_teacher_does_not(self) -> None:
        of = pair()
        before = {name: kept.clone() for name, kept in model(of.teacher.name).state_dict().items()}
        loss = self.loss(of)
        after = model(of.teacher.name).state_dict()
        assert all(torch.equal(kept, after[name]) for name, kept in before.items())
        assert all("heads" not in name for name, _ in loss.named_parameters())
        few, many = (
            softened_head_loss(self.loss(of, head_epochs=epochs), outputs(of.teacher.name))
            for epochs in (1, 200)
        )
        assert many < few

    def test_the_stable_logits_are_the_teachers_where_both_decoders_give_them(self) -> None:
        parts = heads(6, CLASSES).double()
        logits = noise(1, CLASSES).expand(4, -1)
        with torch.no_grad():
            for width in (64, 256):
                last = parts.get_submodule(f"decoder_{width}.2")
                for kept, given in zip(last.parameters(), (torch.zeros(()), logits[0]), strict=True):
                    kept.copy_(given)
        torch.testing.assert_close(stable_logits(parts, noise(4, 6), logits), logits)

    def test_zero_where_encoders_and_embeddings_are_the_same(self) -> None:
        of = equal_pair()
        loss = self.loss(of)
        assert float(value(loss, seen(of, loss)).detach()) > 1e-4
        for width in (64, 256):
            same = loss.heads.get_submodule(f"encoder_{width}").state_dict()
            loss.encoders.get_submodule(str(width)).load_state_dict(same)
        assert float(value(loss, seen(of, loss)).detach()) == pytest.approx(0, abs=1e-12)


def softened_head_loss(loss: MultiGranularity, teacher: ModelOutputs) -> float:
    """How far the decoders are from the teacher's logits."""
    total = 0.0
    for width, temperature in ((64, 2.0), (256, 8.0)):
        said = loss.heads.get_submodule(f"decoder_{width}")(encoded(loss.heads, width, teacher.embedding))
        total += softened_kl(teacher.logits.numpy(), said.numpy(), temperature)
    return total
