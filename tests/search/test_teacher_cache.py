"""Cached teacher logits: exactly what computing them gives, computed once per node."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from search.data import ImageSet
from search.models import TappedModel, build_model
from search.teacher_cache import TeacherCache, direct_logits
from tests.search.synthetic import blobs


def teacher(seed: int = 0) -> TappedModel:
    return build_model(
        "test_resnet", classes=10, channels=1, input_size=32, seed=seed, data_mean=(0.3,), data_std=(0.3,)
    )


def images() -> ImageSet:
    return blobs(300, seed=1)


def cache(directory: Path, **changes: Any) -> TeacherCache:
    settings = {"teacher": teacher(), "images": images(), "policy": "shift", "seed": 7, **changes}
    return TeacherCache(directory, **settings)


def stored(directory: Path) -> set[str]:
    return {path.name for path in (directory / "teacher_logits").glob("*.npy")}


def _ask(directory: Path, barrier: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    own = cache(directory)
    built = []
    build = own._build
    own._build = lambda path, view: (built.append(view), build(path, view))[1]  # type: ignore[method-assign]
    barrier.wait(timeout=120)
    answers.put((own.logits(torch.arange(300), view=2).sum().item(), len(built)))


class TestExactness:
    def test_cached_logits_are_the_computed_ones_to_the_bit(self, tmp_path: Path) -> None:
        expected = direct_logits(teacher(), images(), view=3, policy="shift", seed=7)
        own = cache(tmp_path)
        order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
        assert torch.equal(own.logits(order[:64], view=3), expected[order[:64]])
        assert torch.equal(cache(tmp_path).logits(order, view=3), expected[order])

    def test_they_are_the_teachers_answers_to_the_augmented_images(self, tmp_path: Path) -> None:
        from search.augment import views
        from search.data import as_float

        indices = torch.tensor([5, 250, 17])
        seen = views(images().images[indices], indices=indices, seed=7, view=1, policy="shift")
        model = teacher().eval()
        with torch.no_grad():
            expected = model(as_float(seen))
        assert torch.allclose(cache(tmp_path).logits(indices, view=1), expected, atol=1e-5)

    def test_each_view_is_another(self, tmp_path: Path) -> None:
        own, every = cache(tmp_path), torch.arange(300)
        assert not torch.equal(own.logits(every, view=0), own.logits(every, view=1))
        assert len(stored(tmp_path)) == 2

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


class TestKey:
    def changed_images(self) -> ImageSet:
        changed = images()
        changed.images[17, 0, 3, 3] ^= 1
        return changed

    @pytest.mark.parametrize("what", ["teacher", "images", "policy", "seed", "threads"])
    def test_whatever_decides_the_logits_decides_the_file(self, tmp_path: Path, what: str) -> None:
        changes: dict[str, Any] = {
            "teacher": {"teacher": teacher(seed=1)},
            "images": {"images": self.changed_images()},
            "policy": {"policy": "crop_flip"},
            "seed": {"seed": 8},
        }
        first = cache(tmp_path)
        second = cache(tmp_path, **changes.get(what, {}))
        key = replace(second.key, threads=99) if what == "threads" else second.key
        assert key.file_name(0) != first.key.file_name(0)

    def test_the_same_parts_give_the_same_file(self, tmp_path: Path) -> None:
        assert cache(tmp_path).key == cache(tmp_path).key


class TestSharing:
    def test_processes_that_ask_at_once_build_it_once(self, tmp_path: Path) -> None:
        context = multiprocessing.get_context("spawn")
        barrier, answers = context.Barrier(2), context.Queue()
        processes = [context.Process(target=_ask, args=(tmp_path, barrier, answers)) for _ in range(2)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(timeout=60)
        assert sum(built for _, built in found) == 1
        assert len({total for total, _ in found}) == 1
        assert len(stored(tmp_path)) == 1

    def test_what_a_dead_builder_left_is_built_over(self, tmp_path: Path) -> None:
        own = cache(tmp_path)
        left = (tmp_path / "teacher_logits" / own.key.file_name(0)).with_suffix(".building")
        left.parent.mkdir()
        left.write_bytes(b"half a file")
        expected: Tensor = direct_logits(teacher(), images(), view=0, policy="shift", seed=7)
        assert torch.equal(own.logits(torch.arange(300), view=0), expected)
        assert not left.exists()
