"""Channels matched, and the teacher's tail asked: by formulas, and by what the losses are known for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from scipy import fft
from torch import Tensor
from torch.nn import functional

from search.features import (
    FeatureLossModule,
    ModelOutputs,
    Pair,
    Side,
    build_feature_loss,
)
from search.features.scalekd import (
    ScaleDistillation,
    apart,
    pattern_directions,
    whole_directions,
    without_mean,
)
from search.problems import SearchProblem
from search.recipe import Stage
from tests.search.features.lessons_by_hand import Array, Given, noise, step
from tests.search.features.seen import (
    CLASSES,
    built,
    pair,
    seen,
    value,
)


def shuffled(of: ModelOutputs, orders: Mapping[int, Tensor]) -> ModelOutputs:
    """Channel i of a stage's map is the given channel order[i]."""
    return replace(of, maps={tap: of.maps[tap][:, order] for tap, order in orders.items()})


@pytest.mark.system("kcd")
class TestMatchedChannels:
    def made(self, of: Pair, student: ModelOutputs, teacher: ModelOutputs) -> FeatureLossModule:
        loss = build_feature_loss("kcd", pair=of).double()
        loss.prepare(Given({"student": student, "teacher": teacher}), seed=0)
        return loss

    def noisy(self, channels: Sequence[int], seed: int) -> ModelOutputs:
        maps = {tap: noise(30, width, 4, 4, seed=seed + tap) + 2 for tap, width in enumerate(channels)}
        return ModelOutputs(noise(30, CLASSES), maps)

    def stages(self, student: Sequence[int], teacher: Sequence[int]) -> Pair:
        """Of maps with so many channels at each stage."""

        def side(name: str, channels: Sequence[int]) -> Side:
            depths = np.linspace(0, 1, len(channels))
            stages = [
                Stage(index=index, channels=width, reduction=2.0, depth=float(depth))
                for index, (width, depth) in enumerate(zip(channels, depths, strict=True))
            ]
            return Side(stages, None, name)

        return Pair(side("student", student), side("teacher", teacher), classes=CLASSES, images=30)

    @pytest.mark.parametrize("size", [(6, 6), (4, 9), (9, 4)], ids=str)
    def test_formula(self, size: tuple[int, int]) -> None:
        of = self.stages((size[0],) * 2, (size[1],) * 2)
        student, teacher = self.noisy((size[0],) * 2, 1), self.noisy((size[1],) * 2, 5)
        loss, expected = self.made(of, student, teacher), []
        for tap in range(2):
            one, other = student.maps[tap].numpy(), teacher.maps[tap].numpy()
            rows, columns = (each.swapaxes(0, 1).reshape(each.shape[1], -1) for each in (one, other))
            correlations = np.corrcoef(rows, columns)[: size[0], size[0] :]
            chosen = loss.get_buffer(f"chosen_{tap}").tolist()
            taught = [place for place, channel in enumerate(chosen) if channel >= 0]
            assert len(taught) == len({chosen[place] for place in taught}) == min(size)
            assert sum(correlations[place, chosen[place]] for place in taught) == pytest.approx(
                best_sum(correlations), rel=1e-9
            )
            squares = [
                np.square((rows[place] - columns[chosen[place]]) / columns[chosen[place]].std()).mean()
                for place in taught
            ]
            expected.append(np.mean(squares))
        assert float(loss(step(student, teacher))) == pytest.approx(np.mean(expected), rel=1e-9)

    def test_a_permutation_of_the_student_is_found_and_then_the_loss_is_zero(self) -> None:
        channels = (8, 16, 32)
        of, student = self.stages(channels, channels), self.noisy(channels, 1)
        orders = {
            tap: torch.randperm(width, generator=torch.Generator().manual_seed(tap))
            for tap, width in enumerate(channels)
        }
        teacher = shuffled(student, orders)
        loss = self.made(of, student, teacher)
        assert all(torch.equal(loss.get_buffer(f"chosen_{tap}"), orders[tap].argsort()) for tap in orders)
        assert float(loss(step(student, teacher))) == 0
        assert float(loss(step(student, shuffled(teacher, {0: orders[0], 1: orders[1], 2: orders[2]})))) > 0.5

    def test_an_opposite_channel_is_not_the_same(self) -> None:
        of = self.stages((2,), (2,))
        student = self.noisy((2,), 1)
        first, second = student.maps[0].unbind(1)
        teacher = replace(student, maps={0: torch.stack([-first, first + 3 * second], dim=1)})
        assert self.made(of, student, teacher).get_buffer("chosen_0").tolist() == [1, 0]
        teacher = replace(student, maps={0: torch.stack([-5 * first, first], dim=1)})
        assert self.made(of, student, teacher).get_buffer("chosen_0").tolist() == [1, 0]

    def test_the_larger_map_is_averaged_to_the_size_of_the_smaller(self) -> None:
        of = self.stages((3,), (3,))
        student, teacher = self.noisy((3,), 1), self.noisy((3,), 2)
        small = replace(teacher, maps={0: functional.avg_pool2d(teacher.maps[0], 2)})
        pooled = replace(student, maps={0: functional.avg_pool2d(student.maps[0], 2)})
        found = float(self.made(of, student, small)(step(student, small)))
        assert found == pytest.approx(float(self.made(of, pooled, small)(step(pooled, small))), rel=1e-12)

    def test_channels_are_matched_anew_after_so_many_epochs(self) -> None:
        assert built("kcd", pair(), {"refresh_epochs": 3}).lessons_every_epochs == 3


def best_sum(correlations: Array) -> float:
    """The largest sum of entries, at most one of each row and column, by dynamic programming over columns."""
    values = correlations if correlations.shape[0] <= correlations.shape[1] else correlations.T
    best = {0: 0.0}
    for column in values.T:
        grown = dict(best)
        for taken, total in best.items():
            for row, entry in enumerate(column):
                if not taken >> row & 1:
                    key = taken | 1 << row
                    grown[key] = max(grown.get(key, -np.inf), total + entry)
        best = grown
    return best[(1 << len(values)) - 1]


@pytest.mark.system("scalekd")
class TestScale:
    def loss(self, of: Pair, **config: JsonValue) -> ScaleDistillation:
        loss = built("scalekd", of, config)
        assert isinstance(loss, ScaleDistillation)
        return loss

    @pytest.mark.parametrize("models", ["cnn", "vit", "mixed"])
    def test_formula(self, models: str) -> None:
        of = pair(models)
        loss = self.loss(of, whole_weight=0.3, pattern_weight=0.7)
        batch = seen(of, loss)
        before, last = (batch.student.maps[tap] for tap in loss.student_taps)
        teacher = batch.teacher.maps[loss.teacher_taps[0]]
        shape = (teacher.shape[1], teacher.shape[2], teacher.shape[3])
        assert loss.tail is not None
        with torch.no_grad():
            views = [loss.whole(last, shape), loss.pattern(last, shape)]
            assert all(view.shape == teacher.shape for view in views)
            perceived = loss.tail(loss.entering(before, loss.tail.shape))
            found = float(loss(batch))
        expected = sum(
            0.3 * mimicked(one.numpy(), teacher.numpy())
            + 0.7 * mimicked(without_dc(other.numpy()), without_dc(teacher.numpy()))
            for one, other in (views, (perceived, perceived))
        )
        assert found == pytest.approx(expected, rel=1e-6)

    def test_less_its_mean_a_map_has_no_dc(self) -> None:
        feature_map = noise(2, 3, 5, 7)
        np.testing.assert_allclose(without_mean(feature_map).numpy(), without_dc(feature_map.numpy()))

    def test_identical_maps_are_not_apart_whatever_their_lengths(self) -> None:
        feature_map = noise(2, 3, 5, 7)
        for view in (whole_directions, pattern_directions):
            one, same, opposite = (view(times * feature_map) for times in (1.0, 3.0, -1.0))
            assert float(apart(one, same)) == pytest.approx(0, abs=1e-12)
            assert float(apart(one, opposite)) == pytest.approx(4, rel=1e-9)

    def test_a_pattern_ignores_what_all_places_of_a_channel_share(self) -> None:
        feature_map = noise(2, 3, 5, 7)
        moved = feature_map + noise(3, 1, 1, seed=1)
        assert float(apart(*(pattern_directions(each) for each in (feature_map, moved)))) < 1e-12
        assert float(apart(*(whole_directions(each) for each in (feature_map, moved)))) > 0.1

    def test_a_constant_map_has_no_pattern(self) -> None:
        constant = noise(2, 3, 1, 1).float().expand(-1, -1, 7, 7) * 0.1
        assert float(pattern_directions(constant).abs().max()) < 0.01

    def test_the_teachers_rest_teaches_the_stage_before_the_last(self) -> None:
        of = pair("vit")
        loss = self.loss(of)
        batch = seen(of, loss, learning=True)
        loss(batch).backward()
        assert all(
            bool((each.grad != 0).any()) for each in batch.student.maps.values() if each.grad is not None
        )
        assert batch.student.maps[loss.student_taps[0]].grad is not None
        alone = self.loss(of, perceive_teacher=False)
        assert [*alone.student_taps] == [of.student.stages[-1].index]
        assert float(value(alone, seen(of, alone)).detach()) < float(value(loss, batch).detach())

    def test_one_stage_has_none_before_it(self) -> None:
        of = pair()
        short = replace(of, student=replace(of.student, stages=of.student.stages[-1:]))
        absent = replace(of, teacher=replace(of.teacher, model=None))
        for unfit in (short, absent):
            with pytest.raises(SearchProblem, match="switch perceive_teacher off"):
                build_feature_loss("scalekd", pair=unfit)
            build_feature_loss("scalekd", {"perceive_teacher": False}, pair=unfit)


def mimicked(one: Array, other: Array) -> float:
    along, towards = (
        each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-6) for each in (one, other)
    )
    return float(np.square(along - towards).sum(axis=1).mean())


def without_dc(maps: Array) -> Array:
    """By the cosine transform; a map of one place as it is."""
    if maps.shape[2:] == (1, 1):
        return maps
    waves = fft.dctn(maps, axes=(2, 3), norm="ortho")
    waves[:, :, 0, 0] = 0
    back: Array = fft.idctn(waves, axes=(2, 3), norm="ortho")
    return back
