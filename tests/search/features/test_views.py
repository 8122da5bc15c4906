"""Losses on further views of a batch: by formulas in numpy, and by what they are known for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from scipy import special
from torch import Tensor, nn

from search.features import Extra, ModelOutputs, Seen
from search.features.mlkd import MultilevelLogits, rare_classes, strongly_changed, unsure_images
from search.features.sskd import SelfSupervised, counted, likeness, turns
from search.models.embedding import EMBEDDING
from tests.search.features.embeddings_by_hand import Array, kl, made, noise, widths
from tests.search.features.seen import (
    CLASSES,
    IMAGES,
    built,
    equal_pair,
    images,
    model,
    outputs,
    pair,
    seen,
    value,
)

BATCH = 7


def p(logits: Tensor, temperature: float = 1.0) -> Array:
    softened: Array = special.softmax(logits.numpy() / temperature, axis=1)
    return softened


def said(logits: Tensor, embedding: Tensor) -> ModelOutputs:
    return ModelOutputs(logits, {EMBEDDING: embedding[:, :, None, None]})


def step(views: int, **tensors: Tensor) -> Seen:
    """A batch and its views, of embeddings of 6 and 9 values."""
    rows = torch.arange(BATCH)
    return Seen(
        said(2 * noise(BATCH, CLASSES), noise(BATCH, 6, seed=1)),
        said(2 * noise(BATCH, CLASSES, seed=2), noise(BATCH, 9, seed=3)),
        rows * 3 % CLASSES,
        rows,
        Extra(None, tensors),
        said(2 * noise(views * BATCH, CLASSES, seed=4), noise(views * BATCH, 6, seed=5)),
    )


@pytest.mark.system("mlkd")
class TestMultilevelLogits:
    def made(self, **config: JsonValue) -> MultilevelLogits:
        loss = made("mlkd", **config)
        assert isinstance(loss, MultilevelLogits)
        return loss

    def apart(self, student: Tensor, teacher: Tensor, counting: tuple[Array, Array]) -> Array:
        """By image, by class and by batch."""
        found = np.zeros(3)
        for temperature in (2, 3, 4, 5, 6):
            own, theirs = p(student, temperature), p(teacher, temperature)
            found[0] += temperature**2 * (counting[0] * kl(theirs, own)).mean()
            by_class = (own.T @ own - theirs.T @ theirs) ** 2
            found[1] += (counting[1][:, None] * by_class).sum() / CLASSES
            by_batch = (own @ own.T - theirs @ theirs.T) ** 2
            found[2] += (counting[0][:, None] * by_batch).sum() / BATCH
        return found

    def test_formula(self) -> None:
        batch = step(1, strong=2 * noise(BATCH, CLASSES, seed=6))
        sure, shares = p(batch.teacher.logits).max(axis=1), p(batch.teacher.logits).sum(axis=0)
        masks = (sure <= np.percentile(sure, 50)).astype(float), (shares <= np.percentile(shares, 50)) * 1.0
        assert {*masks[0]} == {*masks[1]} == {0.0, 1.0}
        weak = self.apart(batch.student.logits, batch.teacher.logits, masks)
        assert batch.views is not None
        strong = self.apart(
            batch.views.logits, batch.extra.tensors["strong"], (np.ones(BATCH), np.ones(CLASSES))
        )
        assert float(self.made()(batch)) == pytest.approx((weak + strong).sum(), rel=1e-12)
        weighed = self.made(class_weight=0.5, batch_weight=3.0, strong_weight=0.2)
        expected = (weak + 0.2 * strong) @ np.array([1, 0.5, 3])
        assert float(weighed(batch)) == pytest.approx(expected, rel=1e-12)

    def test_all_parts_are_zero_between_equals(self) -> None:
        batch = step(1, strong=noise(BATCH, CLASSES, seed=6))
        same = replace(
            batch, student=batch.teacher, views=said(batch.extra.tensors["strong"], noise(BATCH, 6))
        )
        for others in ({"class_weight": 1e6}, {"batch_weight": 1e6}, {"strong_weight": 1e6}):
            assert float(self.made(**others)(same)) == 0
            assert float(self.made(**others)(batch)) > 1

    def test_the_less_sure_half_alone_is_taught_in_the_weak_view(self) -> None:
        batch = step(1, strong=noise(BATCH, CLASSES, seed=6))
        student = replace(batch.student, logits=batch.student.logits.requires_grad_())
        loss = self.made(class_weight=0.0, batch_weight=0.0)
        (slope,) = torch.autograd.grad(loss(replace(batch, student=student)), student.logits)
        unsure = unsure_images(batch.teacher.logits, 0.5).bool()
        assert int(unsure.sum()) == 4
        assert bool((slope[~unsure] == 0).all())
        assert bool((slope[unsure] != 0).all())
        assert bool((unsure_images(batch.teacher.logits, 1.0) == 1).all())
        assert rare_classes(torch.eye(3)[[0, 1, 1, 2, 2, 2]] * 9, 0.5).tolist() == [1.0, 1.0, 0.0]

    def test_the_teacher_sees_the_view_that_the_student_sees(self) -> None:
        of = pair()
        loss = built("mlkd", of)
        batch = seen(of, loss)
        assert batch.extra.views is not None
        assert batch.extra.views.shape == (8, 1, 1, 32, 32)
        torch.testing.assert_close(
            batch.extra.tensors["strong"], model(of.teacher.name)(batch.extra.views[:, 0]), rtol=0, atol=0
        )

    def test_each_image_is_changed_strongly_by_the_seed(self) -> None:
        made_of_it = []
        for seed in (0, 1, 0):
            torch.manual_seed(seed)
            made_of_it.append(strongly_changed(images()))
        assert torch.equal(made_of_it[0], made_of_it[2])
        differs = (made_of_it[0] != made_of_it[1]).flatten(1).any(dim=1)
        assert float(differs.double().mean()) > 0.8
        assert made_of_it[0].dtype == images().dtype
        for strong in made_of_it:
            assert 0 <= float(strong.min()) <= float(strong.max()) <= 1
            changed = (strong - images()).abs().flatten(1).amax(dim=1) > 0.05
            assert float(changed.double().mean()) > 0.6

    def test_a_strong_view_is_not_mirrored(self) -> None:
        """The batch was cropped, and mirrored where that is right, before: digits must not be."""
        half = torch.zeros(64, 1, 32, 32)
        half[..., :16] = 1.0
        torch.manual_seed(0)
        strong = strongly_changed(half)
        turned_over = (strong[..., :8].mean(dim=(1, 2, 3)) < 0.2) & (
            strong[..., 24:].mean(dim=(1, 2, 3)) > 0.8
        )
        assert not bool(turned_over.any())


@pytest.mark.system("sskd")
class TestSelfSupervised:
    def made(self, **config: JsonValue) -> SelfSupervised:
        loss = made("sskd", widths(6, 9), **config)
        assert isinstance(loss, SelfSupervised)
        return loss

    def batch(self) -> Seen:
        return step(
            3,
            logits=2 * noise(BATCH, 3, CLASSES, seed=6),
            embedding=noise(BATCH, 3, 9, seed=7),
        )

    def cosines(self, head: nn.Module, turned: Tensor, plain: Tensor) -> Array:
        values = [head.get_submodule(place) for place in ("0", "2")]

        def mapped(given: Tensor) -> Array:
            for layer, is_last in zip(values, (False, True), strict=True):
                weight, bias = (
                    layer.get_buffer(name)
                    if name in dict(layer.named_buffers())
                    else layer.get_parameter(name)
                    for name in ("weight", "bias")
                )
                given = given @ weight.T + bias
                given = given if is_last else given.clamp(min=0)
            found: Array = given.detach().numpy()
            return found / np.linalg.norm(found, axis=1, keepdims=True)

        cosines: Array = mapped(turned) @ mapped(plain).T
        return cosines

    def kept(self, scores: Array, own: Array, share: float) -> list[int]:
        """As released: by the right answer's rank, all rows that are right and a share of the rest."""
        ranks = [
            int(np.flatnonzero(np.argsort(-row) == right)[0]) for row, right in zip(scores, own, strict=True)
        ]
        wrong = sum(rank > 0 for rank in ranks)
        order = sorted(range(len(ranks)), key=lambda row: ranks[row])
        return order[: len(ranks) - wrong + int(wrong * share)]

    @pytest.mark.parametrize("shares", [(1.0, 0.75), (0.5, 0.25), (0.0, 0.0)], ids=str)
    def test_formula(self, shares: tuple[float, float]) -> None:
        loss, batch = self.made(wrong_turned_share=shares[0], wrong_likeness_share=shares[1]), self.batch()
        assert batch.views is not None
        plain = 16 * kl(p(batch.teacher.logits, 4), p(batch.student.logits, 4)).mean()
        teacher = batch.extra.tensors["logits"].flatten(0, 1)
        rows = self.kept(teacher.numpy(), np.repeat(batch.targets.numpy(), 3), shares[0])
        turned = 16 * kl(p(teacher, 4), p(batch.views.logits, 4))[rows].mean()
        given = batch.extra.tensors["embedding"].flatten(0, 1)
        theirs = self.cosines(loss.teacher_head, given, batch.teacher.embedding)
        own = self.cosines(loss.student_head, batch.views.embedding, batch.student.embedding)
        rows = self.kept(theirs, np.repeat(np.arange(BATCH), 3), shares[1])
        alike = kl(special.softmax(theirs / 0.5, axis=1), special.softmax(own / 0.5, axis=1))[rows].mean()
        expected = 0.9 * plain + 2.7 * turned + 10 * 0.25 * alike
        assert float(loss(batch).detach()) == pytest.approx(expected, rel=1e-10)

    def test_a_share_of_the_wrong_rows_counts_and_all_right_ones(self) -> None:
        scores, own = noise(3 * BATCH, BATCH), torch.arange(BATCH).repeat_interleave(3)
        right = scores.argmax(dim=1) == own
        assert 0 < int(right.sum()) < len(own)
        assert bool((counted(scores, own, 1.0) == 1).all())
        assert torch.equal(counted(scores, own, 0.0).bool(), right)
        half = counted(scores, own, 0.5).bool()
        assert int(half.sum()) == int(right.sum()) + int((~right).sum()) // 2
        assert bool(half[right].all())
        worse = (scores > scores.gather(1, own[:, None])).sum(dim=1)
        assert int(worse[half].max()) <= int(worse[~half].min())

    def test_all_parts_are_zero_between_equal_nets(self) -> None:
        of = equal_pair()
        loss = built("sskd", of)
        assert isinstance(loss, SelfSupervised)
        batch = seen(of, loss)
        assert float(loss.by_likeness(batch).detach()) > 1e-8
        loss.student_head.load_state_dict(loss.teacher_head.state_dict())
        assert float(value(loss, batch).detach()) == pytest.approx(0, abs=1e-12)
        assert float(value(loss, self.other(batch)).detach()) > 0.01

    def other(self, batch: Seen) -> Seen:
        return replace(batch, student=replace(batch.student, logits=batch.student.logits.flip(1) * 3))

    def test_the_cosines_are_of_each_turned_image_with_each_plain_one(self) -> None:
        of = pair()
        loss = built("sskd", of)
        assert isinstance(loss, SelfSupervised)
        batch = seen(of, loss)
        assert batch.views is not None
        found = likeness(loss.student_head, batch.views.embedding, batch.student.embedding)
        assert found.shape == (3 * 8, 8)
        assert float(found.detach().abs().max()) <= 1 + 1e-12

    def test_views_are_turned_and_both_models_see_the_same(self) -> None:
        of = pair()
        loss = built("sskd", of)
        batch = seen(of, loss)
        found = turns(images()[:8])
        for place, times in enumerate((1, 2, 3)):
            expected = np.rot90(images()[:8].numpy(), times, axes=(2, 3))
            np.testing.assert_array_equal(found[:, place].numpy(), expected)
        assert batch.extra.views is not None
        assert torch.equal(batch.extra.views, found)
        logits = model(of.teacher.name)(found[5, 2][None])[0]
        torch.testing.assert_close(batch.extra.tensors["logits"][5, 2], logits)

    def test_the_teachers_head_learns_whose_turn_it_is_by_the_seed_and_the_teacher_does_not(self) -> None:
        of = pair()
        before = {name: kept.clone() for name, kept in model(of.teacher.name).state_dict().items()}
        losses = {epochs: built("sskd", of, {"head_epochs": epochs}) for epochs in (1, 300)}
        after = model(of.teacher.name).state_dict()
        assert all(torch.equal(kept, after[name]) for name, kept in before.items())
        with torch.no_grad():
            turned = model(of.teacher.name).forward_taps(turns(images()).flatten(0, 1), (EMBEDDING,))[1]
        own = np.repeat(np.arange(IMAGES), 3)
        entropies = {}
        for epochs, loss in losses.items():
            assert isinstance(loss, SelfSupervised)
            assert all("teacher_head" not in name for name, _ in loss.named_parameters())
            cosines = self.cosines(
                loss.teacher_head, turned[EMBEDDING].flatten(1), outputs(of.teacher.name).embedding
            )
            entropies[epochs] = -special.log_softmax(cosines, axis=1)[np.arange(3 * IMAGES), own].mean()
        assert entropies[300] < entropies[1] < math.log(IMAGES) + 0.1
        again = built("sskd", of, {"head_epochs": 1})
        for name, kept in losses[1].state_dict().items():
            assert torch.equal(kept, again.state_dict()[name]), name

    def test_the_right_class_of_a_turned_image_is_its_images(self) -> None:
        """Only rows of a wrong teacher are left out, by the labels of the images one after the other."""
        loss, batch = self.made(wrong_turned_share=0.0), self.batch()
        sure = 20 * torch.nn.functional.one_hot(batch.targets, CLASSES).double()
        wrong = sure.roll(1, dims=1)
        logits = torch.stack([sure, wrong, sure], dim=1)
        views = batch.views
        assert views is not None
        batch = replace(
            batch,
            extra=Extra(None, {**batch.extra.tensors, "logits": logits}),
            views=replace(views, logits=views.logits.requires_grad_()),
        )
        assert batch.views is not None
        (slope,) = torch.autograd.grad(loss.by_turned(batch), batch.views.logits)
        moves = (slope.unflatten(0, (BATCH, 3)) != 0).any(dim=2)
        assert bool(moves[:, [0, 2]].all())
        assert not bool(moves[:, 1].any())
