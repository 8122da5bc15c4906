"""mixup and CutMix: pure functions of (seed, view, index), with the papers' distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torch import Tensor

from search.spec import Training
from search.training.batches import Batches, Teaching
from search.training.mixing import Mixing, soft_targets
from tests.search.synthetic import blobs
from tests.search.training.runs import model

MIXUP, CUTMIX, BOTH = Mixing(0.4, 0.0), Mixing(0.0, 1.0), Mixing(0.4, 1.0)
INDICES = torch.arange(4000)


def words_of(mixing: Mixing, *, seed: int = 1, view: int = 2) -> Tensor:
    return mixing.words(INDICES, seed=seed, view=view)


def batches(training: Training, *, seed: int = 3, augmentation_seed: int = 0, **more: object) -> Batches:
    return Batches(
        blobs(64, seed=1, channels=3),
        blobs(32, seed=2, channels=3),
        training,
        seed=seed,
        augmentation_seed=augmentation_seed,
        device=torch.device("cpu"),
        dtype=torch.float32,
        classes=10,
        **more,  # type: ignore[arg-type]
    )


def ones_and_zeros(count: int) -> tuple[Tensor, Tensor]:
    """Mixed with these, an image shows its own share."""
    return torch.ones(count, 3, 32, 32), torch.zeros(count, 3, 32, 32)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_shares_are_beta_distributed(alpha: float) -> None:
    mixing = Mixing(alpha, 0.0)
    own, other = torch.ones(4000, 1, 1, 1), torch.zeros(4000, 1, 1, 1)
    mixed, share = mixing.mixed(own, other, words_of(mixing))
    assert torch.allclose(mixed.flatten(), share)
    assert kstest(share.double().numpy(), beta(alpha, alpha).cdf).pvalue > 1e-4


def test_a_mixed_image_is_the_blend_of_two_and_its_label_too() -> None:
    words = words_of(MIXUP)[:8]
    own, other = torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)
    mixed, share = MIXUP.mixed(own, other, words)
    expected = share[:, None, None, None] * own + (1 - share[:, None, None, None]) * other
    assert torch.allclose(mixed, expected, atol=1e-6)
    targets = soft_targets(torch.tensor([3] * 8), torch.tensor([3, 1] * 4), share, classes=5)
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert torch.allclose(targets[1::2, 3], share[1::2])
    assert torch.allclose(targets[::2, 3], torch.ones(4))


def test_a_cut_image_has_one_box_of_the_other_and_the_label_counts_its_pixels() -> None:
    mixed, share = CUTMIX.mixed(*ones_and_zeros(512), words_of(CUTMIX)[:512])
    assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(mixed.mean((1, 2, 3)), share, atol=1e-6)
    for image in mixed[:, 0]:
        rows, columns = (image == 0).any(1).nonzero(), (image == 0).any(0).nonzero()
        if len(rows):
            box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert box.max() == 0
    # Boxes are cut off at the border: what is left of the image is more than 1 - area on average.
    assert 0.5 < share.mean() < 0.75
    assert share.min() < 0.2


def test_where_both_are_on_each_image_gets_one_at_even_odds() -> None:
    mixed, share = BOTH.mixed(*ones_and_zeros(4000), words_of(BOTH))
    is_cut = ((mixed == 0) | (mixed == 1)).flatten(1).all(dim=1)
    is_blended = (mixed == share[:, None, None, None]).flatten(1).all(dim=1)
    assert (is_cut | is_blended).all()
    assert 0.47 < is_cut.float().mean() < 0.55
    assert Mixing.of(Training()) is None
    assert Mixing.of(Training(mixup_alpha=0.4, cutmix_alpha=1.0)) == BOTH


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH])
@pytest.mark.parametrize("other", [{"seed": 2}, {"view": 3}])
def test_seed_and_view_matter_and_the_batch_does_not(mixing: Mixing, other: dict[str, int]) -> None:
    words = words_of(mixing)[:40]
    own, others = torch.rand(40, 1, 8, 8), torch.rand(40, 1, 8, 8)
    whole, share = mixing.mixed(own, others, words)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled, shares = mixing.mixed(own[order], others[order], words[order])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(shares, share[order])
    single, _ = mixing.mixed(own[:1], others[:1], words[:1])
    assert torch.equal(single, whole[:1])
    assert not torch.equal(mixing.mixed(own, others, words_of(mixing, **other)[:40])[0], whole)
    assert not torch.equal(
        mixing.partners(words, images=50_000), mixing.partners(words_of(mixing, **other)[:40], images=50_000)
    )


def test_partners_are_any_of_the_training_images() -> None:
    counts = np.bincount(MIXUP.partners(words_of(MIXUP), images=10).numpy(), minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # 99.99% of a chi-square of 9 degrees of freedom


class TestBatches:
    TRAINING = Training(batch_size=16, mixup_alpha=0.4, cutmix_alpha=1.0, augmentation="crop_flip")

    def test_a_mixed_image_does_not_depend_on_its_batch(self) -> None:
        """Another order of the images, and another batch size, give each image the same version."""
        found: list[dict[bytes, Tensor]] = []
        for seed, size in ((3, 16), (4, 32)):
            made = batches(self.TRAINING.model_copy(update={"batch_size": size}), seed=seed)
            seen: dict[bytes, Tensor] = {}
            for step in range(made.steps_per_epoch):
                batch = made.at(step, Teaching())
                for image, target in zip(batch.images, batch.targets, strict=True):
                    seen[image.numpy().tobytes()] = target
            found.append(seen)
        assert found[0].keys() == found[1].keys()
        assert len(found[0]) == 64
        assert all(torch.equal(target, found[1][key]) for key, target in found[0].items())

    def test_targets_are_probabilities_and_the_teacher_sees_the_mixed_images(self) -> None:
        teacher = model("test_resnet", seed=1, channels=3).eval()
        kept = NeverRead()
        batch = batches(self.TRAINING, teacher=teacher, teacher_outputs=kept).at(0, Teaching(logits=True))
        assert batch.targets.shape == (16, 10)
        assert torch.allclose(batch.targets.sum(1), torch.ones(16))
        assert int((batch.targets.amax(1) < 1).sum()) > 0
        with torch.no_grad():
            expected = teacher(batch.images)
        assert batch.teacher_logits is not None
        assert torch.allclose(batch.teacher_logits, expected, atol=1e-5)

    def test_the_meta_batch_is_never_mixed(self) -> None:
        plain = self.TRAINING.model_copy(update={"mixup_alpha": 0.0, "cutmix_alpha": 0.0})
        mixed, unmixed = (batches(training).meta_at(5, 8) for training in (self.TRAINING, plain))
        assert torch.equal(mixed[0], unmixed[0])
        assert torch.equal(mixed[1], unmixed[1])
        assert mixed[1].dtype == torch.int64


class NeverRead:
    """Kept outputs that must be passed by: they say nothing of mixed images."""

    stages = (0, 1, 2, 3)

    def read(self, indices: Tensor, view: int, stages: object) -> tuple[Tensor, dict[int, Tensor]]:
        raise AssertionError("the cache was read for mixed images")
