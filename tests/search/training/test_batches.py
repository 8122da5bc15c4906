"""Batches: pure functions of (seed, step), and the same with the teacher's kept outputs as without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.registry import Kind, load_everything, methods
from search.spec import Training
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import TeacherPass
from search.training.batches import Batches, Teaching
from tests.search.synthetic import blobs
from tests.search.training.runs import model

load_everything()
POLICIES = [method.name for method in methods(Kind.AUGMENTATION)]
IMAGES, META = blobs(50, seed=1, channels=3), blobs(32, seed=2, channels=3)


def batches(training: Training, *, seed: int = 3, **more: object) -> Batches:
    return Batches(
        IMAGES,
        META,
        training,
        seed=seed,
        augmentation_seed=7,
        device=torch.device("cpu"),
        dtype=torch.float32,
        classes=10,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_kept_outputs_of_the_teacher_are_its_own(policy: str, tmp_path: Path) -> None:
    """Logits and maps, in every view, whatever policy."""
    teacher = model("test_resnet", seed=1, channels=3).eval()
    training = Training(batch_size=16, augmentation=policy, views=2)
    kept = TeacherCache(tmp_path, TeacherPass(teacher, IMAGES, policy, seed=7), stages=(1, 3), views=2)
    with_cache = batches(training, teacher=teacher, teacher_outputs=kept)
    direct = batches(training, teacher=teacher)
    for step in (0, direct.steps_per_epoch, 2 * direct.steps_per_epoch + 1):
        found, expected = (made.at(step, Teaching((1, 3), logits=True)) for made in (with_cache, direct))
        assert torch.equal(found.images, expected.images)
        assert found.teacher_logits is not None
        assert expected.teacher_logits is not None
        assert torch.allclose(found.teacher_logits, expected.teacher_logits, atol=1e-5)
        for stage in (1, 3):  # maps are kept in float16
            assert torch.allclose(
                found.teacher_maps[stage], expected.teacher_maps[stage], rtol=2e-3, atol=1e-4
            )


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_is_a_function_of_seed_and_step(policy: str) -> None:
    training = Training(batch_size=16, augmentation=policy, views=2)
    one, other = batches(training), batches(training)
    for step in (7, 0, 3, 7):
        assert torch.equal(one.at(step, Teaching()).images, other.at(step, Teaching()).images)
        assert torch.equal(one.meta_at(step, 8)[0], other.meta_at(step, 8)[0])
    assert not torch.equal(one.at(0, Teaching()).images, batches(training, seed=4).at(0, Teaching()).images)


def test_an_epoch_takes_every_image_once_and_leaves_out_the_last_incomplete_batch() -> None:
    made = batches(Training(batch_size=16, augmentation="none"))
    assert made.steps_per_epoch == 3
    for epoch in range(2):
        steps = range(3 * epoch, 3 * epoch + 3)
        seen = torch.cat([made._chosen(step)[0] for step in steps])
        assert len(seen.unique()) == 48


def test_views_take_turns_by_epoch() -> None:
    made = batches(Training(batch_size=16, views=2))
    assert [made._chosen(step)[1] for step in range(12)] == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3


def test_a_part_has_its_own_images_targets_and_teacher() -> None:
    teacher = model("test_resnet", seed=1, channels=3).eval()
    training = Training(batch_size=16, accumulate_parts=4)
    batch = batches(training, teacher=teacher).at(0, Teaching((2,), logits=True))
    parts = batch.parts(4)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    with torch.no_grad():
        logits, maps = teacher.forward_taps(parts[2].images, [2])
    assert parts[2].teacher_logits is not None
    assert torch.allclose(parts[2].teacher_logits, logits, atol=1e-5)
    assert torch.allclose(parts[2].teacher_maps[2], maps[2], atol=1e-5)
