"""Cached teacher outputs: logits to the bit, maps to the rounding, whoever asks and wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search.augment import views
from search.data import ImageSet, as_float
from search.models import TappedModel
from search.models.tapped import Taps
from search.teacher_cache import TeacherCache
from search.teacher_cache.files import OutputFiles
from search.teacher_cache.teacher_pass import TeacherPass, stages_that_fit
from tests.search.cached_teacher import COUNT, EVERY, cache, computed, images, stored, teacher

LAST, BEFORE = 4, 3


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """The passes of teachers over whole views: view and stages."""
    made: list[tuple[int, tuple[int, ...]]] = []
    over_view = TeacherPass.over_view

    def counted(self: TeacherPass, view: int, stages: Any, keep: Any) -> None:
        made.append((view, tuple(stages)))
        over_view(self, view, stages, keep)

    monkeypatch.setattr(TeacherPass, "over_view", counted)
    return made


class TestLogits:
    def test_they_are_the_computed_ones_to_the_bit(self, tmp_path: Path) -> None:
        expected = computed(3)[0]
        own = cache(tmp_path, stages=[LAST])
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
        assert torch.equal(own.logits(order[:64], view=3), expected[order[:64]])
        assert torch.equal(cache(tmp_path).logits(order, view=3), expected[order])

    def test_they_are_the_teachers_answers_to_the_augmented_images(self, tmp_path: Path) -> None:
        indices = torch.tensor([5, 250, 17])
        seen = views(images().images[indices], indices=indices, seed=7, view=1, policy="shift")
        model = teacher().eval()
        with torch.no_grad():
            expected = model(as_float(seen))
        assert torch.allclose(cache(tmp_path).logits(indices, view=1), expected, atol=1e-5)

    def test_each_view_is_another(self, tmp_path: Path) -> None:
        own = cache(tmp_path)
        assert not torch.equal(own.logits(EVERY, view=0), own.logits(EVERY, view=1))
        assert len(stored(tmp_path)) == 2

    def test_without_augmentation_all_views_are_one(self, tmp_path: Path) -> None:
        own = cache(tmp_path, policy="none")
        assert torch.equal(own.logits(EVERY, view=0), own.logits(EVERY, view=5))
        assert len(stored(tmp_path)) == 1

    def test_the_teacher_is_left_as_it_was(self, tmp_path: Path) -> None:
        model = teacher().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        cache(tmp_path, teacher=model).logits(torch.arange(4), view=0)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_what_is_given_out_can_be_changed_without_harm(self, tmp_path: Path) -> None:
        own, some = cache(tmp_path), torch.arange(4)
        first = own.logits(some, view=0)
        kept = first.clone()
        first.zero_()
        assert torch.equal(own.logits(some, view=0), kept)


class Scaled(nn.Module):
    """A model whose maps are so many times larger; its logits are its own."""

    def __init__(self, model: TappedModel, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor
        self.name, self.preprocessing = model.name, model.preprocessing

    def forward_taps(
        self, seen: torch.Tensor, stages: Any, *, taps: Taps
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        logits, maps = self.model.forward_taps(seen, stages, taps=taps)
        return logits, {stage: self.factor * value for stage, value in maps.items()}


class TestMaps:
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_they_are_the_teachers_own_to_the_rounding(self, tmp_path: Path, channels_last: bool) -> None:
        own = cache(tmp_path, stages=[BEFORE, LAST], channels_last=channels_last)
        assert own.stages == (BEFORE, LAST)
        logits, expected = computed(2, (BEFORE, LAST), channels_last=channels_last)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))[:100]
        found, maps = own.read(order, 2, [BEFORE, LAST])
        assert torch.equal(found, logits[order])
        for stage in (BEFORE, LAST):
            exact = expected[stage][order]
            assert maps[stage].dtype == torch.float32
            assert ((maps[stage] - exact).abs() <= (2**-11 * exact.abs()).clamp(min=2**-25)).all()
            assert not torch.equal(maps[stage], exact)

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_they_lie_in_memory_as_the_students_do(self, tmp_path: Path, channels_last: bool) -> None:
        own = cache(tmp_path, stages=[BEFORE], channels_last=channels_last)
        maps = own.read(EVERY[:7], 0, [BEFORE])[1]
        assert maps[BEFORE].is_contiguous(memory_format=torch.channels_last) is channels_last
        assert maps[BEFORE].is_contiguous() is not channels_last

    @pytest.mark.parametrize("factor", [1e6, 1e-8])
    def test_values_beyond_float16_are_kept_in_float32(self, tmp_path: Path, factor: float) -> None:
        scaled: Any = Scaled(teacher(), factor)
        own = cache(tmp_path, teacher=scaled, stages=[LAST])
        expected = factor * computed(0, (LAST,))[1][LAST]
        assert torch.equal(own.read(EVERY, 0, [LAST])[1][LAST], expected)

    def test_a_stage_whose_values_are_all_zero_is_kept(self, tmp_path: Path) -> None:
        silent: Any = Scaled(teacher(), 0.0)
        own = cache(tmp_path, teacher=silent, stages=[LAST])
        assert not own.read(EVERY, 0, [LAST])[1][LAST].any()

    def test_one_pass_computes_a_views_logits_and_maps(self, tmp_path: Path, passes: list[Any]) -> None:
        own = cache(tmp_path, stages=[BEFORE, LAST])
        for indices in torch.split(EVERY, 64):
            own.logits(indices, view=1)
            own.read(indices, 1, [LAST])
            own.read(indices, 1, [BEFORE, LAST])
        assert passes == [(1, (BEFORE, LAST))]
        cache(tmp_path).logits(EVERY, view=1)
        cache(tmp_path, stages=[LAST]).read(EVERY, 1, [LAST])
        assert len(passes) == 1

    def test_only_what_is_missing_is_computed_later(self, tmp_path: Path, passes: list[Any]) -> None:
        cache(tmp_path).logits(EVERY, view=0)
        before = [path.stat().st_mtime_ns for path in (tmp_path / "teacher_outputs").glob("*/*logits*")]
        cache(tmp_path, stages=[LAST]).read(EVERY, 0, [LAST])
        cache(tmp_path, stages=[BEFORE, LAST]).read(EVERY, 0, [BEFORE, LAST])
        assert passes == [(0, ()), (0, (LAST,)), (0, (BEFORE,))]
        assert before == [
            path.stat().st_mtime_ns for path in (tmp_path / "teacher_outputs").glob("*/*logits*")
        ]

    def test_maps_before_the_activation_are_other_files(self, tmp_path: Path, passes: list[Any]) -> None:
        after = cache(tmp_path, stages=[LAST]).read(EVERY, 0, [LAST])
        before = cache(tmp_path, stages=[LAST], taps="pre_activation").read(EVERY, 0, [LAST])
        assert torch.equal(before[0], after[0])
        assert (before[1][LAST] < 0).any()
        assert torch.equal(before[1][LAST].relu(), after[1][LAST])
        assert len(stored(tmp_path)) == 3
        assert passes == [(0, (LAST,)), (0, (LAST,))]


class TestLimit:
    def bytes_of(self, stage: int) -> int:
        return 2 * computed(0, (stage,))[1][stage].numel()

    def test_stages_are_kept_while_they_fit_the_smallest_first(self, tmp_path: Path) -> None:
        sizes = {stage: self.bytes_of(stage) for stage in (1, 3, 4)}
        assert sizes[1] > sizes[3] > sizes[4]

        def kept(limit: int, views: int = 1) -> tuple[int, ...]:
            return cache(tmp_path, stages=[4, 1, 3], limit_bytes=limit, views=views).stages

        assert kept(sum(sizes.values())) == (1, 3, 4)
        assert kept(sum(sizes.values()) - 1) == (3, 4)
        assert kept(sizes[4], views=2) == ()
        assert kept(2 * sizes[4], views=2) == (4,)

    def test_without_augmentation_there_is_one_view(self, tmp_path: Path) -> None:
        own = cache(tmp_path, stages=[LAST], limit_bytes=self.bytes_of(LAST), views=8, policy="none")
        assert own.stages == (LAST,)

    def test_a_larger_stage_is_not_kept_in_place_of_a_smaller(self) -> None:
        assert stages_that_fit({0: 8, 1: 4, 2: 4, 3: 1}, limit_bytes=6) == (2, 3)
        assert stages_that_fit({0: 8}, limit_bytes=7) == ()


class TestKey:
    def changed_images(self) -> ImageSet:
        changed = images()
        changed.images[17, 0, 3, 3] ^= 1
        return changed

    @pytest.mark.parametrize(
        "what", ["teacher", "images", "policy", "seed", "precision", "channels_last", "threads"]
    )
    def test_whatever_decides_the_outputs_decides_the_files(self, tmp_path: Path, what: str) -> None:
        changes: dict[str, Any] = {
            "teacher": {"teacher": teacher(seed=1)},
            "images": {"images": self.changed_images()},
            "policy": {"policy": "crop_flip"},
            "seed": {"seed": 8},
            "precision": {"precision": "bfloat16"},
            "channels_last": {"channels_last": True},
        }
        first = cache(tmp_path)
        second = cache(tmp_path, **changes.get(what, {}))
        key = replace(second.key, threads=99) if what == "threads" else second.key
        assert key.digest() != first.key.digest()

    def test_the_same_parts_give_the_same_files(self, tmp_path: Path) -> None:
        assert cache(tmp_path).key == cache(tmp_path, stages=[LAST], views=3).key


def _full_disk(*_: object) -> Iterator[None]:
    raise OSError(28, "No space left on device")


class TestWithoutRoom:
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_the_view_is_computed_into_memory_to_the_same_bits(
        self,
        channels_last: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        passes: list[Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        roomy = cache(tmp_path / "room", stages=[LAST], channels_last=channels_last)
        expected = [roomy.read(EVERY, view, [LAST]) for view in (0, 1)]
        passes.clear()
        monkeypatch.setattr("search.teacher_cache.files._append", _full_disk)
        own = cache(tmp_path / "full", stages=[LAST], channels_last=channels_last)
        for view in (0, 1):
            for indices in torch.split(EVERY, 100):
                logits, maps = own.read(indices, view, [LAST])
                assert torch.equal(logits, expected[view][0][indices])
                assert torch.equal(maps[LAST], expected[view][1][LAST][indices])
        assert passes == [(0, (LAST,))] * 2 + [(1, (LAST,))] * 2  # written in vain, then into memory
        assert "No space left" in caplog.text
        assert stored(tmp_path / "full") == []

    def test_only_the_newest_view_stays_in_memory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[Any]
    ) -> None:
        monkeypatch.setattr(OutputFiles, "writing", _full_disk)
        own = cache(tmp_path)
        for view in (0, 1, 1, 0):
            own.logits(EVERY, view)
        assert passes == [(0, ()), (1, ()), (0, ())]

    def test_a_place_where_nothing_can_be_written_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "teacher_outputs").write_text("a file, not a directory")
        assert torch.equal(cache(tmp_path).logits(EVERY, view=0), computed(0)[0])


def test_the_seconds_of_opening_views_are_counted(tmp_path: Path) -> None:
    own = cache(tmp_path, stages=[LAST])
    assert own.seconds == 0
    own.logits(EVERY, view=0)
    built = own.seconds
    assert built > 0
    own.logits(EVERY, view=0)
    assert own.seconds == built
    later: TeacherCache = cache(tmp_path, stages=[LAST])
    later.logits(EVERY, view=0)
    assert later.seconds < built
