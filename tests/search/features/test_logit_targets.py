"""Losses that make targets of their own, or maps anew: by formulas, and by what they are known for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from search.features import (
    ModelOutputs,
    Seen,
)
from search.features.masked_generative import MaskedGeneration, mask_of
from search.features.ml_skd import MultilevelSelfDistillation, self_taught, taught
from search.features.ofa import ExitsToLogits, adapted
from search.features.uskd import UniversalSelfDistillation, rest_labels, target_labels
from tests.search.features.maps_by_hand import (
    BATCH,
    CLASSES,
    STUDENT,
    Array,
    batch,
    cross_entropy,
    kl,
    linear,
    made,
    models,
    noise,
    of_module,
    one_by_one,
    one_hot,
    p,
    three_by_three,
)


@pytest.mark.system("masked_generative")
class TestMaskedGeneration:
    def test_formula(self) -> None:
        student, teacher = ((4, 8), (8, 4)), ((5, 8), (7, 4))
        loss, seen = (
            made("masked_generative", models(student, teacher), mask_ratio=0.4),
            batch(student, teacher),
        )
        assert isinstance(loss, MaskedGeneration)
        torch.manual_seed(3)
        kept = (torch.rand(BATCH, 1, 4, 4) >= 0.4).double().numpy()
        masked = one_by_one(loss.align, of_module(seen.student.maps[1])) * kept
        made_of_it = three_by_three(loss.generate[2], np.maximum(three_by_three(loss.generate[0], masked), 0))
        expected = ((made_of_it - of_module(seen.teacher.maps[1])) ** 2).mean()
        torch.manual_seed(3)
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
    @pytest.mark.parametrize("shape", [(64, 3, 16, 16), (64, 256, 1, 1)], ids=["places", "channels"])
    def test_the_share_masked_is_as_asked(self, ratio: float, shape: tuple[int, int, int, int]) -> None:
        torch.manual_seed(0)
        mask = mask_of(torch.ones(shape), ratio)
        assert {*mask.flatten().tolist()} == {0.0, 1.0}
        assert float(1 - mask.mean()) == pytest.approx(ratio, abs=0.02)
        assert mask.shape == (shape if shape[-1] == 1 else (64, 1, 16, 16))

    def test_at_zero_nothing_is_masked(self) -> None:
        assert bool((mask_of(torch.ones(8, 3, 32, 32), 0.0) == 1).all())
        loss, seen = made("masked_generative", mask_ratio=0.0), batch()
        assert float(loss(seen).detach()) == float(loss(seen).detach())

    def test_masks_change_from_step_to_step_and_come_again_with_the_seed(self) -> None:
        loss, seen, found = made("masked_generative"), batch(), []
        for seed in (0, 1, 0):
            torch.manual_seed(seed)
            found.append(float(loss(seen).detach()))
        assert found[0] == found[2] != found[1]


@pytest.mark.system("ofa")
class TestExits:
    def normalised(self, maps: Array) -> Array:
        """Each image's map as a whole, then a ReLU."""
        mean, variance = maps.mean(axis=(1, 2, 3), keepdims=True), maps.var(axis=(1, 2, 3), keepdims=True)
        rectified: Array = np.maximum((maps - mean) / np.sqrt(variance + 1e-5), 0)
        return rectified

    def halved(self, layers: nn.Module, maps: Array) -> Array:
        assert isinstance(layers, nn.Sequential)
        by_channel = layers[0]
        assert isinstance(by_channel, nn.Conv2d)
        assert by_channel.bias is not None
        framed = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
        mapped = np.einsum("ckl,bchwkl->bchw", of_module(by_channel.weight)[:, 0], windows)
        mapped = mapped + of_module(by_channel.bias)[:, None, None]
        return self.normalised(one_by_one(layers[1], mapped))

    def logits(self, loss: ExitsToLogits, seen: Seen) -> list[Array]:
        """Of a student of two stages."""
        first, last = loss.exits
        assert isinstance(first, nn.Sequential)
        assert isinstance(last, nn.Sequential)
        shallow = self.halved(first, of_module(seen.student.maps[0]))
        deep = self.normalised(one_by_one(last[0], of_module(seen.student.maps[1])))
        return [linear(first[-1], shallow.mean(axis=(2, 3))), linear(last[-1], deep.mean(axis=(2, 3)))]

    @pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
    def test_formula(self, exponent: float) -> None:
        shapes = ((4, 5), (6, 3))
        loss, seen = made("ofa", models(shapes), exponent=exponent), batch(shapes)
        assert isinstance(loss, ExitsToLogits)
        labels = one_hot(seen.targets)
        target = (p(of_module(seen.teacher.logits)) + labels) ** exponent - labels
        least = cross_entropy(np.log(target), target)
        expected = np.mean([cross_entropy(each, target) for each in self.logits(loss, seen)]) - least
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-10)

    def test_with_exponent_one_it_is_the_divergence_from_the_teacher(self) -> None:
        shapes = ((4, 5), (6, 3))
        loss, seen = made("ofa", models(shapes)), batch(shapes)
        assert isinstance(loss, ExitsToLogits)
        teacher = p(of_module(seen.teacher.logits))
        torch.testing.assert_close(
            adapted(seen.teacher.logits, seen.targets, 1.0), torch.from_numpy(teacher), rtol=1e-12, atol=1e-12
        )
        expected = np.mean([kl(teacher, p(each)) for each in self.logits(loss, seen)])
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-10)

    def test_above_one_the_target_counts_for_more_and_the_others_for_less(self) -> None:
        logits, targets = noise(BATCH, CLASSES), torch.arange(BATCH) % CLASSES
        plain, more = (adapted(logits, targets, exponent) for exponent in (1.0, 1.5))
        is_target = torch.from_numpy(one_hot(targets)).bool()
        assert bool((more[is_target] > plain[is_target]).all())
        assert bool((more[~is_target] < plain[~is_target]).all())

    def test_an_exit_gives_logits_from_maps_of_any_size_at_no_more_than_the_last_stages_width(self) -> None:
        loss = made("ofa", models(((4, 8), (6, 4), (10, 2))))
        assert isinstance(loss, ExitsToLogits)
        widths = [leave.get_submodule(str(len(leave) - 1)).in_features for leave in loss.exits]  # type: ignore[arg-type]
        assert widths == [10, 10, 10]
        for side in (1, 2, 7, 8):
            assert loss.exits[0](noise(3, 4, side, side)).shape == (3, CLASSES)


@pytest.mark.system("ml_skd")
class TestMultilevel:
    def test_formula(self) -> None:
        loss, seen = made("ml_skd", temperature=3.0), batch()
        assert isinstance(loss, MultilevelSelfDistillation)
        with torch.no_grad():
            loss.raw_weights.add_(noise(len(STUDENT)))
        pooled = [of_module(each).mean(axis=(2, 3)) for each in seen.student.maps.values()]
        levels = [linear(layer, each) for layer, each in zip(loss.classifiers, pooled, strict=True)]
        shares = special.softmax(of_module(loss.raw_weights))
        parts = zip(shares, loss.projections, pooled, strict=True)
        fused = linear(
            loss.head, np.sum([share * linear(layer, each) for share, layer, each in parts], axis=0)
        )
        labels = one_hot(seen.targets)
        expected = sum(cross_entropy(each, labels) for each in [fused, *levels])
        others = [*levels, of_module(seen.student.logits)]
        expected += 9 * sum(kl(p(fused, 3.0), p(each, 3.0)) for each in others)
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-12)

    def test_what_teaches_gets_no_gradient_from_teaching(self) -> None:
        fused, level, student = (noise(BATCH, CLASSES, seed=seed).requires_grad_() for seed in range(3))
        taught(fused, [level, student], 3.0).backward()  # type: ignore[no-untyped-call]
        assert fused.grad is None
        assert level.grad is not None
        assert student.grad is not None
        targets = torch.arange(BATCH) % CLASSES
        self_taught(fused, [level], student, targets, 3.0).backward()  # type: ignore[no-untyped-call]
        slope = (torch.softmax(fused.detach(), dim=1) - torch.from_numpy(one_hot(targets))) / BATCH
        torch.testing.assert_close(fused.grad, slope)

    def test_one_level_that_says_what_all_say_learns_nothing_from_itself(self) -> None:
        logits = noise(BATCH, CLASSES)
        assert float(taught(logits, [logits, logits], 3.0)) == 0
        shapes = ((4, 5),)
        loss, seen = made("ml_skd", models(shapes)), batch(shapes)
        assert isinstance(loss, MultilevelSelfDistillation)
        with torch.no_grad():
            loss.projections[0].get_parameter("weight").copy_(torch.eye(4))
            loss.projections[0].get_parameter("bias").zero_()
            loss.head.load_state_dict(loss.classifiers[0].state_dict())
        own = loss.fused([seen.student.maps[0].mean(dim=(2, 3))]).detach()
        found = float(loss(replace(seen, student=ModelOutputs(own, seen.student.maps))).detach())
        assert found == pytest.approx(2 * cross_entropy(of_module(own), one_hot(seen.targets)), rel=1e-12)

    def test_it_asks_nothing_of_a_teacher(self) -> None:
        loss, seen = made("ml_skd"), batch()
        other = replace(seen, teacher=ModelOutputs(seen.teacher.logits * 3, {}))
        assert [*loss.teacher_taps] == []
        assert torch.equal(loss(seen), loss(other))


@pytest.mark.system("uskd")
class TestUniversalSelf:
    def test_formula(self) -> None:
        loss, seen = made("uskd", rest_weight=0.2, weak_weight=0.03), batch()
        assert isinstance(loss, UniversalSelfDistillation)
        logits, labels = of_module(seen.student.logits), one_hot(seen.targets)
        weak = linear(loss.weak_head, of_module(seen.student.maps[1]).mean(axis=(2, 3)))
        of_target = p(logits)[labels == 1]
        weights = of_target**2 + 1 - (of_target**2).mean()
        rest = []
        for strong, faint, label in zip(logits, weak, labels, strict=True):
            strong, faint = strong[label == 0], faint[label == 0]
            both = special.softmax(strong) + special.softmax(faint)
            ranks = np.array([1 + (both > each).sum() for each in both])
            zipf = (1 / ranks) / (1 / ranks).sum()
            rest.append(-(zipf * special.log_softmax(strong)).sum())
        smooth = 0.9 * labels + 0.1 / CLASSES
        expected = (
            -(weights * np.log(of_target)).mean() + 0.2 * np.mean(rest) + 0.03 * cross_entropy(weak, smooth)
        )
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-12)

    def test_labels_of_the_other_classes_add_up_to_one_and_fall_with_the_rank(self) -> None:
        logits, weak = noise(BATCH, CLASSES), noise(BATCH, CLASSES, seed=1)
        labels = rest_labels(logits, weak, torch.arange(BATCH) % CLASSES)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(BATCH, dtype=torch.float64))
        falling = labels.sort(dim=1, descending=True).values
        torch.testing.assert_close(falling[:, :1] / falling, torch.tensor([[1.0, 2, 3]] * BATCH).double())
        sure = torch.tensor([[9.0, 1, 3, 2]], dtype=torch.float64)
        assert rest_labels(sure, 0 * sure, torch.tensor([0])).argsort(dim=1).tolist() == [[0, 2, 1]]

    def test_the_surer_image_counts_for_more_and_the_mean_weight_is_one(self) -> None:
        log_target = torch.log(torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)).requires_grad_()
        weights = target_labels(log_target)
        assert not weights.requires_grad
        assert float(weights.mean()) == pytest.approx(1, rel=1e-12)
        assert weights[0] > weights[1] > weights[2]

    def test_it_asks_nothing_of_a_teacher(self) -> None:
        loss, seen = made("uskd"), batch()
        other = replace(seen, teacher=ModelOutputs(seen.teacher.logits * 3, {}))
        assert [*loss.teacher_taps] == []
        assert torch.equal(loss(seen), loss(other))
