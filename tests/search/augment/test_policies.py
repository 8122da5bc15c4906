"""Augmented views: pure functions of (seed, image index, view), against slow loops that do the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from search.augment import views
from search.augment.hashing import integers, mix, stream, uniform
from search.registry import Kind, UnknownMethodError, load_everything, methods

WORD = (1 << 64) - 1
load_everything()
POLICIES = [method.name for method in methods(Kind.AUGMENTATION)]
RANDOM = [name for name in POLICIES if name != "none"]


def images_of(count: int = 12, *, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def splitmix64(state: int) -> int:
    """The published algorithm on unsigned integers."""
    state = (state + 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def draws(index: int, *, seed: int, view: int, highs: tuple[int, ...]) -> list[int]:
    word = splitmix64((splitmix64((splitmix64(seed) + index) & WORD) + view) & WORD)
    golden = 0x9E3779B97F4A7C15
    return [(splitmix64((word + draw * golden) & WORD) >> 33) % high for draw, high in enumerate(highs)]


class TestHashing:
    def test_it_is_splitmix64(self) -> None:
        states = [0, 1, 2**31, 2**63 - 1, 123456789012345]
        found = [value & WORD for value in mix(torch.tensor(states)).tolist()]
        assert found == [splitmix64(state) for state in states]
        assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first output for seed 0, as published

    def test_draws_are_uniform(self) -> None:
        words = stream(torch.arange(50_000), seed=3, view=1)
        counts = torch.bincount(integers(words, draw=0, high=5), minlength=5).double()
        expected = 10_000
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < 23.5  # 99.99% of a chi-square of 4 degrees of freedom

    def test_two_draws_of_an_image_are_unrelated(self) -> None:
        words = stream(torch.arange(50_000), seed=3, view=1)
        pairs = integers(words, draw=0, high=5) * 5 + integers(words, draw=1, high=5)
        counts = torch.bincount(pairs, minlength=25).double()
        assert float(((counts - 2000) ** 2 / 2000).sum()) < 61  # 99.99% of 24 degrees of freedom

    def test_uniform_numbers_are_the_same_stream(self) -> None:
        words = stream(torch.arange(50_000), seed=3, view=1)
        numbers = uniform(words, draw=0)
        assert torch.equal(numbers * 2**31, integers(words, draw=0, high=2**31).double())
        counts = torch.histc(numbers, bins=10, min=0, max=1)
        assert float(((counts - 5000) ** 2 / 5000).sum()) < 33.7  # 99.99% of 9 degrees of freedom


class TestEveryPolicy:
    @pytest.fixture(params=POLICIES)
    def policy(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("size", [8, 33])
    def test_shape_and_type_stay(self, policy: str, channels: int, size: int) -> None:
        images = images_of(40, channels=channels, size=size)
        seen = views(images, indices=torch.arange(40), seed=0, view=0, policy=policy)
        assert seen.shape == images.shape
        assert seen.dtype == torch.uint8

    def test_pixels_stay_in_the_whole_range(self, policy: str) -> None:
        images = images_of(40)
        images[:20] = (images[:20] > 127) * 255
        seen = views(images, indices=torch.arange(40), seed=0, view=1, policy=policy).float()
        assert float(seen.mean()) == pytest.approx(float(images.float().mean()), rel=0.35)
        assert float(seen.std()) == pytest.approx(float(images.float().std()), rel=0.35)

    def test_an_image_is_still_itself(self, policy: str) -> None:
        """Its augmented version is nearer to it, on average, than to another image."""
        coarse = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        images = (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") * 255).to(torch.uint8)
        seen = views(images, indices=torch.arange(64), seed=0, view=1, policy=policy)
        own = (seen.float() - images.float()).abs().mean()
        other = (seen.float() - images.roll(1, 0).float()).abs().mean()
        assert own < other

    def test_batch_order_and_batch_size_do_not_matter(self, policy: str) -> None:
        images, indices = images_of(48), torch.arange(100, 148)
        whole = views(images, indices=indices, seed=5, view=3, policy=policy)
        order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
        shuffled = views(images[order], indices=indices[order], seed=5, view=3, policy=policy)
        assert torch.equal(shuffled, whole[order])
        single = [
            views(image[None], indices=index[None], seed=5, view=3, policy=policy)
            for image, index in zip(images, indices, strict=True)
        ]
        assert torch.equal(torch.cat(single), whole)

    def test_neither_the_images_nor_the_random_state_are_touched(self, policy: str) -> None:
        images = images_of()
        before, state = images.clone(), torch.get_rng_state()
        views(images, indices=torch.arange(12), seed=5, view=3, policy=policy)
        assert torch.equal(images, before)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("policy", RANDOM)
@pytest.mark.parametrize("other", [{"seed": 6}, {"view": 4}])
def test_another_seed_or_view_is_another_version(policy: str, other: dict[str, int]) -> None:
    images, indices = images_of(), torch.arange(12)
    first = views(images, indices=indices, policy=policy, **{"seed": 5, "view": 3})
    second = views(images, indices=indices, policy=policy, **{"seed": 5, "view": 3, **other})
    assert not torch.equal(first, second)


def test_none_leaves_the_images_alone() -> None:
    images = images_of()
    assert views(images, indices=torch.arange(12), seed=0, view=9, policy="none") is images


def test_shift_is_an_edge_padded_crop_by_the_published_hash() -> None:
    images, indices = images_of(), torch.arange(12) * 7
    found = views(images, indices=indices, seed=11, view=2, policy="shift").numpy()
    for position, index in enumerate(indices.tolist()):
        down, right = draws(index, seed=11, view=2, highs=(5, 5))
        padded = np.pad(images[position].numpy(), ((0, 0), (2, 2), (2, 2)), mode="edge")
        expected = padded[:, down : down + 32, right : right + 32]
        assert np.array_equal(found[position], expected)


def test_crop_flip_is_a_zero_padded_crop_then_mirrored_by_the_published_hash() -> None:
    images, indices = images_of(), torch.arange(12) * 7
    found = views(images, indices=indices, seed=11, view=2, policy="crop_flip").numpy()
    flips = []
    for position, index in enumerate(indices.tolist()):
        down, right, flip = draws(index, seed=11, view=2, highs=(9, 9, 2))
        flips.append(flip)
        padded = np.pad(images[position].numpy(), ((0, 0), (4, 4), (4, 4)))
        expected = padded[:, down : down + 32, right : right + 32]
        if flip:
            expected = expected[:, :, ::-1]
        assert np.array_equal(found[position], expected)
    assert 0 < sum(flips) < 12


def test_offsets_grow_with_the_image() -> None:
    images = torch.arange(64, dtype=torch.uint8).expand(200, 1, 64, 64)
    seen = views(images, indices=torch.arange(200), seed=0, view=0, policy="shift")
    shifts = seen[:, 0, 0, 32].int() - 32
    assert shifts.min() == -4
    assert shifts.max() == 4


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownMethodError, match="known: colour, crop_flip"):
        views(images_of(), indices=torch.arange(12), seed=0, view=0, policy="rotate")
