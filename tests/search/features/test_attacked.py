"""Low temperature distillation: its formula, its labels, and the attack on the student."""

from __future__ import annotations

import pytest
import torch
from pydantic import JsonValue
from scipy import special
from torch import Tensor

from search.features import Seen
from search.features.ltd import LowTemperature, attack, cross_entropies
from tests.search.features.embeddings_by_hand import Array, kl, noise
from tests.search.features.seen import CLASSES, built, images, model, pair, seen

BATCH = 8


def loss_of(**config: JsonValue) -> LowTemperature:
    loss = built("ltd", pair(), config)
    assert isinstance(loss, LowTemperature)
    return loss


def p(logits: Tensor, temperature: float = 1.0) -> Array:
    softened: Array = special.softmax(logits.detach().numpy() / temperature, axis=1)
    return softened


def cross_entropy(labels: Array, logits: Tensor) -> float:
    rows = -(labels * special.log_softmax(logits.detach().numpy(), axis=1)).sum(axis=1)
    return float(rows.mean())


def attacked_logits(batch: Seen) -> Tensor:
    assert batch.views is not None
    return batch.views.logits


@pytest.mark.system("ltd")
class TestLowTemperature:
    def test_formula(self) -> None:
        loss = loss_of(temperature=3.0)
        batch = seen(pair(), loss)
        labels = p(batch.teacher.logits, 3.0)
        assert float(loss(batch)) == pytest.approx(cross_entropy(labels, attacked_logits(batch)), rel=1e-12)
        trades = loss_of(form="trades", trades_weight=2.5, temperature=3.0)
        batch = seen(pair(), trades)
        apart = kl(p(batch.student.logits), p(attacked_logits(batch))).mean()
        expected = cross_entropy(labels, batch.student.logits) + 2.5 * apart
        assert float(trades(batch)) == pytest.approx(expected, rel=1e-12)

    def test_a_temperature_near_zero_gives_the_teachers_choice(self) -> None:
        logits = noise(BATCH, CLASSES)
        labels = loss_of(temperature=0.01).labels(logits)
        chosen = torch.nn.functional.one_hot(logits.argmax(dim=1), CLASSES).double()
        torch.testing.assert_close(labels, chosen, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("form", ["direct", "trades"])
    @pytest.mark.parametrize("levels", [1.0, 8.0])
    def test_no_pixel_is_changed_by_more_than_the_radius_and_all_stay_in_the_range(
        self, levels: float, form: str
    ) -> None:
        loss = loss_of(radius_levels=levels, form=form, steps=5)
        views = seen(pair(), loss).extra.views
        assert views is not None
        assert views.shape == (BATCH, 1, 1, 32, 32)
        changes = (views[:, 0] - images()[:BATCH]).abs()
        assert float(changes.max()) == pytest.approx(levels / 255, abs=1e-12)
        assert 0 <= float(views.min()) <= float(views.max()) <= 1

    def test_the_loss_is_higher_on_attacked_images_than_on_plain_and_on_noisy_ones(self) -> None:
        of = pair()
        loss = loss_of(steps=3)
        batch = seen(of, loss)
        labels = loss.labels(batch.teacher.logits).numpy()
        student = model(of.student.name)
        plain = cross_entropy(labels, student(images()[:BATCH]))
        noisy = images()[:BATCH] + 8 / 255 * noise(BATCH, 1, 32, 32).sign()
        attacked = cross_entropy(labels, attacked_logits(batch))
        assert attacked > plain
        assert attacked > cross_entropy(labels, student(noisy.clamp(0, 1)))
        more = seen(of, loss_of(steps=10))
        assert cross_entropy(labels, attacked_logits(more)) > attacked

    def test_trades_attacks_the_students_own_answer(self) -> None:
        of = pair()
        student = model(of.student.name)
        apart = {}
        for form in ("direct", "trades"):
            batch = seen(of, loss_of(form=form, steps=10))
            apart[form] = kl(p(student(images()[:BATCH])), p(attacked_logits(batch))).mean()
        assert apart["trades"] > 0
        assert apart["trades"] > apart["direct"]

    def test_a_step_goes_along_the_sign_of_the_gradient(self) -> None:
        """Of a linear student of two classes, which is the same everywhere."""
        weights, given = noise(2, 48, seed=1), 0.5 + 0.1 * noise(BATCH, 3, 4, 4).clamp(-3, 3)
        labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * (BATCH // 2), dtype=torch.float64)
        found = attack(given, labels, ask=lambda x: x.flatten(1) @ weights.T, radius=0.05, step=0.1, steps=1)
        away = weights[1] - weights[0]
        signs = torch.where(labels[:, 1:] == 0, away, -away).sign().reshape(given.shape)
        torch.testing.assert_close(found, given + 0.05 * signs, rtol=0, atol=1e-12)

    def test_the_attack_is_of_the_seed_and_leaves_no_gradient(self) -> None:
        loss = loss_of()
        one, again = (seen(pair(), loss).extra.views for _ in range(2))
        assert one is not None
        assert again is not None
        assert torch.equal(one, again)
        assert not one.requires_grad
        assert all(value.grad is None for value in model(pair().student.name).parameters())

    def test_the_student_learns_on_attacked_images_alone_unless_by_trades(self) -> None:
        for form, learns in (("direct", False), ("trades", True)):
            loss = loss_of(form=form)
            batch = seen(pair(), loss, learning=True)
            loss(batch).backward()  # type: ignore[no-untyped-call]
            assert (batch.student.logits.grad is not None) == learns
            assert attacked_logits(batch).grad is not None

    def test_cross_entropy_is_that_of_each_image(self) -> None:
        labels, logits = torch.softmax(noise(BATCH, CLASSES), dim=1), noise(BATCH, CLASSES, seed=1)
        found = cross_entropies(labels, torch.log_softmax(logits, dim=1))
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        torch.testing.assert_close(found, expected)
