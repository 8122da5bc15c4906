"""Losses on stage maps: by independent formulas, and by what they are known for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdistill.losses import mid_level

from search.features import (
    Lesson,
    ModelOutputs,
    Seen,
)
from search.features.nst import discrepancy
from search.features.ofd import FeatureOverhaul, partial_distance
from search.features.reviewkd import KnowledgeReview, Mix
from search.features.vid import VariationalInformation
from search.pathways.hcl import hierarchical_context
from tests.search.features.maps_by_hand import (
    CLASSES,
    STUDENT,
    TEACHER,
    Array,
    Shape,
    averaged,
    batch,
    learning,
    made,
    models,
    noise,
    of_module,
    one_by_one,
    saying,
    three_by_three,
)
from tests.search.features.seen import built, pair


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
