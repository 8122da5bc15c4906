"""Losses on stage maps: by independent formulas, and by what they are known for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import JsonValue
from scipy import special
from torch import Tensor, nn
from torchdistill.losses import mid_level

from search.features import (
    FeatureLossModule,
    Lesson,
    ModelOutputs,
    Pair,
    Seen,
    Side,
    build_feature_loss,
)
from search.features.masked_generative import MaskedGeneration, mask_of
from search.features.ml_skd import MultilevelSelfDistillation, self_taught, taught
from search.features.nst import discrepancy
from search.features.ofa import ExitsToLogits, adapted
from search.features.ofd import FeatureOverhaul, partial_distance
from search.features.reviewkd import KnowledgeReview, Mix
from search.features.uskd import UniversalSelfDistillation, rest_labels, target_labels
from search.features.vid import VariationalInformation
from search.pathways.hcl import hierarchical_context
from search.recipe import Stage
from tests.search.features.seen import IMAGES, built, pair

Array = npt.NDArray[np.float64]
BATCH, CLASSES = 6, 4
Shape = tuple[int, int]
"""Channels and side."""
STUDENT: Sequence[Shape] = ((4, 8), (6, 4), (8, 2))
TEACHER: Sequence[Shape] = ((5, 4), (8, 4), (7, 1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def side(shapes: Sequence[Shape], name: str) -> Side:
    deepest = max(len(shapes) - 1, 1)
    stages = [
        Stage(index=place, channels=channels, reduction=16 / length, depth=place / deepest)
        for place, (channels, length) in enumerate(shapes)
    ]
    return Side(stages, None, name)


def models(student: Sequence[Shape] = STUDENT, teacher: Sequence[Shape] = TEACHER) -> Pair:
    """A pair of models of which only the stages are known."""
    return Pair(side(student, "student"), side(teacher, "teacher"), classes=CLASSES, images=IMAGES)


def made(name: str, of: Pair | None = None, **config: JsonValue) -> FeatureLossModule:
    return build_feature_loss(name, config, pair=of or models()).double()


def saying(shapes: Sequence[Shape], *, seed: int, images: int = BATCH) -> ModelOutputs:
    maps = {
        place: noise(images, channels, length, length, seed=seed + place)
        for place, (channels, length) in enumerate(shapes)
    }
    return ModelOutputs(2 * noise(images, CLASSES, seed=seed + 50), maps)


def batch(student: Sequence[Shape] = STUDENT, teacher: Sequence[Shape] = TEACHER, *, seed: int = 0) -> Seen:
    rows = torch.arange(BATCH)
    return Seen(saying(student, seed=seed), saying(teacher, seed=seed + 100), rows * 3 % CLASSES, rows)


def learning(outputs: ModelOutputs) -> ModelOutputs:
    return ModelOutputs(
        outputs.logits.requires_grad_(), {tap: each.requires_grad_() for tap, each in outputs.maps.items()}
    )


def of_module(value: Tensor) -> Array:
    found: Array = value.detach().numpy()
    return found


def one_by_one(layer: nn.Module, maps: Array) -> Array:
    """A 1x1 convolution (B, C, H, W), by its weights."""
    assert isinstance(layer, nn.Conv2d)
    mapped: Array = np.einsum("oi,bihw->bohw", of_module(layer.weight)[:, :, 0, 0], maps)
    return mapped if layer.bias is None else mapped + of_module(layer.bias)[:, None, None]


def three_by_three(layer: nn.Module, maps: Array) -> Array:
    """A 3x3 convolution (B, C, H, W) with zeros around, by its weights."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    framed = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(2, 3))
    mapped: Array = np.einsum("oikl,bihwkl->bohw", of_module(layer.weight), windows)
    return mapped + of_module(layer.bias)[:, None, None]


def linear(layer: nn.Module, values: Array) -> Array:
    """Of values (B, C), by its weights."""
    assert isinstance(layer, nn.Linear)
    mapped: Array = values @ of_module(layer.weight).T + of_module(layer.bias)
    return mapped


def p(logits: Array, temperature: float = 1.0) -> Array:
    softened: Array = special.softmax(logits / temperature, axis=1)
    return softened


def kl(target: Array, other: Array) -> float:
    """The mean over rows."""
    return float(special.rel_entr(target, other).sum(axis=1).mean())


def cross_entropy(logits: Array, labels: Array) -> float:
    """The mean over rows, with label distributions (B, K)."""
    return float(-(labels * special.log_softmax(logits, axis=1)).sum(axis=1).mean())


def one_hot(targets: Tensor) -> Array:
    labels: Array = np.eye(CLASSES)[targets.numpy()]
    return labels


def averaged(maps: Array, side: int) -> Array:
    """Over equal cells, down to a side that divides."""
    images, channels, length, _ = maps.shape
    cells = maps.reshape(images, channels, side, length // side, side, length // side)
    means: Array = cells.mean(axis=(3, 5))
    return means


@pytest.mark.system("vid")
class TestVariational:
    def loss(self) -> VariationalInformation:
        found = made("vid")
        assert isinstance(found, VariationalInformation)
        return found

    def means(self, loss: VariationalInformation, seen: Seen) -> list[Array]:
        found = []
        for place, layers in enumerate(loss.means):
            assert isinstance(layers, nn.Sequential)
            values = averaged(of_module(seen.student.maps[place]), TEACHER[place][1])
            for layer in (layers[0], layers[2]):
                values = np.maximum(one_by_one(layer, values), 0)
            found.append(one_by_one(layers[4], values))
        return found

    def test_formula(self) -> None:
        loss, seen = self.loss(), batch()
        with torch.no_grad():
            for place, raw in enumerate(loss.raw_variances):
                raw.add_(noise(len(raw), seed=place))
        expected = []
        for place, mean in enumerate(self.means(loss, seen)):
            variance = np.log1p(np.exp(of_module(loss.raw_variances[place])))[:, None, None] + 1e-5
            teacher = of_module(seen.teacher.maps[place])
            expected.append((0.5 * ((mean - teacher) ** 2 / variance + np.log(variance))).mean())
        assert float(loss(seen).detach()) == pytest.approx(np.mean(expected), rel=1e-12)

    def test_the_same_as_torchdistills(self) -> None:
        loss, seen = self.loss(), batch()
        names = [str(place) for place in range(len(TEACHER))]
        where = {
            name: {"student": {"io": "output", "path": name}, "teacher": {"io": "output", "path": name}}
            for name in names
        }
        variances = [each[:, None, None] for each in loss.variances()]
        predicted = zip([torch.from_numpy(each) for each in self.means(loss, seen)], variances, strict=True)
        peer = mid_level.VIDLoss(where)(
            {name: {"output": each} for name, each in zip(names, predicted, strict=True)},
            {name: {"output": seen.teacher.maps[int(name)]} for name in names},
        )
        assert float(loss(seen).detach()) == pytest.approx(float(peer.detach()) / len(names), rel=1e-5)

    def test_variances_start_at_five_and_are_learned(self) -> None:
        loss = self.loss()
        for variance in loss.variances():
            assert variance.detach().numpy() == pytest.approx(5.0, rel=1e-6)
        learned = {id(parameter) for parameter in loss.parameters()}
        assert all(isinstance(raw, nn.Parameter) and id(raw) in learned for raw in loss.raw_variances)
        loss(batch()).backward()
        assert all(raw.grad is not None and bool((raw.grad != 0).all()) for raw in loss.raw_variances)

    def test_it_may_be_negative(self) -> None:
        loss, seen = self.loss(), batch()
        with torch.no_grad():
            for raw in loss.raw_variances:
                raw.fill_(-5.0)
            for parameter in loss.means.parameters():
                parameter.zero_()
        for each in seen.teacher.maps.values():
            each.zero_()
        assert float(loss(seen).detach()) < -2


@pytest.mark.system("nst")
class TestNeuronSelectivity:
    def kernel(self, one: Array, other: Array) -> float:
        """Of one image's patterns (C, P) and (D, P)."""
        return float(np.mean([[(a @ b) ** 2 for b in other] for a in one]))

    def patterns(self, maps: Tensor, side: int) -> Array:
        values = averaged(of_module(maps), side)
        flat = values.reshape(*values.shape[:2], -1)
        scaled: Array = flat / np.linalg.norm(flat, axis=2, keepdims=True)
        return scaled

    def test_formula(self) -> None:
        shapes: tuple[Sequence[Shape], Sequence[Shape]] = ((4, 8), (6, 4)), ((5, 4), (9, 4))
        seen = batch(*shapes)
        by_stage = []
        for place in range(2):
            one, other = (self.patterns(each.maps[place], 4) for each in (seen.student, seen.teacher))
            by_image = [
                self.kernel(t, t) + self.kernel(s, s) - 2 * self.kernel(s, t)
                for s, t in zip(one, other, strict=True)
            ]
            by_stage.append(np.mean(by_image))
        assert float(made("nst", models(*shapes))(seen)) == pytest.approx(np.mean(by_stage), rel=1e-10)

    def test_the_order_and_the_scale_of_channels_are_nothing_to_it(self) -> None:
        student, teacher = noise(3, 6, 4, 4), noise(3, 6, 4, 4, seed=1)
        order, scale = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0, 0.7])
        assert float(discrepancy(teacher[:, order], teacher)) == pytest.approx(0, abs=1e-15)
        apart = float(discrepancy(student, teacher))
        assert apart > 0.01
        scaled = student * scale[:, None, None]
        assert float(discrepancy(scaled, teacher)) == pytest.approx(apart, rel=1e-10)

    def test_a_channel_twice_over_is_the_same_set_of_patterns(self) -> None:
        maps = noise(3, 6, 4, 4)
        assert float(discrepancy(torch.cat([maps, maps], dim=1), maps)) == pytest.approx(0, abs=1e-15)

    def test_silent_channels_are_no_trouble(self) -> None:
        maps = noise(3, 6, 4, 4)
        silent = (maps * torch.tensor([1.0, 0, 0, 1, 1, 0])[:, None, None]).requires_grad_()
        discrepancy(silent, maps).backward()  # type: ignore[no-untyped-call]
        assert silent.grad is not None
        assert float(silent.grad.abs().max()) < 10


@dataclass(frozen=True)
class OneBatch:
    """Lessons of these outputs of the teacher."""

    outputs: ModelOutputs

    def teacher(self, taps: Sequence[int]) -> Iterator[Lesson]:
        rows = torch.arange(len(self.outputs.logits))
        for part in torch.split(rows, 4):
            maps = {tap: self.outputs.maps[tap][part] for tap in taps}
            yield ModelOutputs(self.outputs.logits[part], maps), part % CLASSES, part

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        raise NotImplementedError


@pytest.mark.system("ofd")
class TestOverhaul:
    def prepared(self, outputs: ModelOutputs) -> FeatureOverhaul:
        loss = made("ofd")
        assert isinstance(loss, FeatureOverhaul)
        loss.prepare(OneBatch(outputs), seed=0)
        return loss

    def expected(self, student: Array, teacher: Array, margin: Array) -> float:
        """Element by element."""
        total = 0.0
        for image, channel, row, column in np.ndindex(*teacher.shape):
            s, t = (each[image, channel, row, column] for each in (student, teacher))
            m = margin[channel]
            if t > 0 or (m < t <= 0 and s > t):
                total += float((s - t) ** 2)
            elif t <= m and s > m:
                total += float((s - m) ** 2)
        return total / teacher.size

    def test_formula(self) -> None:
        seen = batch()
        loss = self.prepared(seen.teacher)
        total = 0.0
        for place, layers in enumerate(loss.projections):
            assert isinstance(layers, nn.Sequential)
            values = one_by_one(layers[0], of_module(seen.student.maps[place]))
            mean, variance = values.mean(axis=(0, 2, 3)), values.var(axis=(0, 2, 3))
            values = (values - mean[:, None, None]) / np.sqrt(variance + 1e-5)[:, None, None]
            projected = averaged(values, TEACHER[place][1])
            teacher = of_module(seen.teacher.maps[place])
            margin = np.array(
                [each[each < 0].mean() if (each < 0).any() else 0.0 for each in teacher.swapaxes(0, 1)]
            )
            total += self.expected(projected, teacher, margin) / 2 ** (2 - place)
        assert float(loss(seen).detach()) == pytest.approx(total, rel=1e-10)

    def test_margins_are_negative_means_and_zero_where_nothing_is_negative(self) -> None:
        outputs = saying(TEACHER, seed=5, images=10)
        outputs.maps[1][:, 2] = outputs.maps[1][:, 2].abs()
        for place, margin in enumerate(self.prepared(outputs).margins()):
            assert bool((margin <= 0).all())
            assert [*np.flatnonzero(margin == 0)] == ([2] if place == 1 else [])

    def test_margins_of_real_models(self) -> None:
        loss = built("ofd", pair("vit"))
        assert isinstance(loss, FeatureOverhaul)
        assert all(bool((margin <= 0).all()) for margin in loss.margins())
        assert any(bool((margin < 0).any()) for margin in loss.margins())

    def test_what_is_below_the_margin_in_both_costs_nothing(self) -> None:
        margin = torch.tensor([-0.5, -1.0], dtype=torch.float64)
        below = (margin[:, None, None] - noise(3, 2, 4, 4).abs()).requires_grad_()
        teacher = margin[:, None, None] - noise(3, 2, 4, 4, seed=1).abs()
        found = partial_distance(below, teacher, margin)
        found.backward()  # type: ignore[no-untyped-call]
        assert float(found.detach()) == 0
        assert below.grad is not None
        assert not bool(below.grad.any())
        above = partial_distance(torch.zeros_like(teacher), teacher, margin)
        assert float(above) == pytest.approx((0.5**2 + 1.0**2) / 2, rel=1e-12)

    def test_later_stages_weigh_more(self) -> None:
        seen = batch()
        loss = made("ofd")  # all margins 0
        assert isinstance(loss, FeatureOverhaul)
        for project in loss.projections:
            nn.init.zeros_(project[1].bias)  # type: ignore[index]
            nn.init.zeros_(project[1].weight)  # type: ignore[index]
        for place, weight in enumerate((0.25, 0.5, 1.0)):
            maps = {tap: torch.full_like(each, -9.0) for tap, each in seen.teacher.maps.items()}
            maps[place] = torch.full_like(maps[place], 2.0)
            found = loss(replace(seen, teacher=ModelOutputs(seen.teacher.logits, maps)))
            assert float(found.detach()) == pytest.approx(4 * weight, rel=1e-12)

    def test_one_value_per_channel_is_no_trouble(self) -> None:
        single: Sequence[Shape] = ((4, 1),)
        seen = batch(single, single)
        one = ModelOutputs(seen.student.logits[:1], {0: seen.student.maps[0][:1]})
        loss = made("ofd", models(single, single))
        assert torch.isfinite(loss(Seen(one, one, seen.targets[:1], seen.indices[:1])))


@pytest.mark.system("reviewkd")
class TestKnowledgeReview:
    def distance(self, student: Array, teacher: Array) -> float:
        """Of maps of side 4 or 2, over what it is between independent ones."""
        side, weight = teacher.shape[-1], 1.0
        total, by_chance = ((student - teacher) ** 2).mean(), 1.0
        for level in [level for level in (4, 2, 1) if level < side]:
            weight /= 2
            total += weight * ((averaged(student, level) - averaged(teacher, level)) ** 2).mean()
            by_chance += weight * (level / side) ** 2
        return float(total) / (2 * by_chance)

    def mixed(self, mix: nn.Module, upper: Array, lower: Array) -> Array:
        assert isinstance(mix, Mix)
        attention = 1 / (1 + np.exp(-one_by_one(mix.attention, np.concatenate([upper, lower], axis=1))))
        return upper * attention[:, :1] + lower * attention[:, 1:]

    def test_formula(self) -> None:
        student, teacher = ((4, 4), (6, 4), (8, 4)), ((5, 4), (8, 4), (7, 2))
        loss, seen = made("reviewkd", models(student, teacher)), batch(student, teacher)
        assert isinstance(loss, KnowledgeReview)
        entered = [
            one_by_one(layer, of_module(seen.student.maps[place])) for place, layer in enumerate(loss.enter)
        ]
        middle = self.mixed(loss.mixes[1], entered[1], entered[2])
        fused = [self.mixed(loss.mixes[0], entered[0], middle), middle, entered[2]]
        expected = sum(
            self.distance(
                three_by_three(layer, averaged(fused[place], teacher[place][1])),
                of_module(seen.teacher.maps[place]),
            )
            for place, layer in enumerate(loss.leave)
        )
        assert float(loss(seen).detach()) == pytest.approx(expected, rel=1e-10)

    def test_deeper_stages_reach_the_shallow_comparison_and_not_the_other_way_round(self) -> None:
        loss, outputs = made("reviewkd"), learning(saying(STUDENT, seed=0))
        assert isinstance(loss, KnowledgeReview)
        maps = [*outputs.maps.values()]
        fused = loss.fused(maps)
        assert [each.shape[-1] for each in fused] == [side for _, side in STUDENT]
        for place, each in enumerate(fused):
            found = torch.autograd.grad(each.sum(), maps, allow_unused=True, retain_graph=True)
            assert [slope is not None for slope in found] == [other >= place for other in range(3)]

    def test_the_distance_is_zero_at_equality_and_symmetric(self) -> None:
        one, other = noise(3, 5, 8, 8), noise(3, 5, 8, 8, seed=1)
        assert float(hierarchical_context(one, one)) == 0
        there, back = hierarchical_context(one, other), hierarchical_context(other, one)
        assert float(there) == pytest.approx(float(back), rel=1e-12)
        assert float(there) > 0.5

    def test_the_common_width_is_the_last_stages_up_to_a_limit(self) -> None:
        for channels, width in ((8, 8), (600, 512)):
            loss = made("reviewkd", models(((4, 4), (channels, 2))))
            assert isinstance(loss, KnowledgeReview)
            assert [len(of_module(layer.get_parameter("weight"))) for layer in loss.enter] == [width] * 2


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
