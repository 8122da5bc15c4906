"""Policies that change colours, against torchvision's functions on one image at a time."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.v2.functional as oracle
from torch import Tensor

from search.augment import views
from search.augment.hashing import integers, stream, uniform
from search.augment.rand_augment import OPERATIONS, ROUNDS, STRENGTH

PLUS = torch.ones(1, dtype=torch.float64)


def photographs(count: int, *, channels: int = 3) -> Tensor:
    """Smooth images, uint8."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(4))
    return (torch.nn.functional.interpolate(coarse, 32, mode="bilinear") * 255).to(torch.uint8)


def test_colour_is_torchvisions_brightness_contrast_and_saturation_by_the_images_word() -> None:
    images, indices = photographs(16), torch.arange(16) * 3
    found = views(images, indices=indices, seed=2, view=5, policy="colour")
    cropped = views(images, indices=indices, seed=2, view=5, policy="crop_flip")
    words = stream(indices, seed=2, view=5)
    for row in range(16):
        factors = [0.6 + 0.8 * float(uniform(words[row : row + 1], draw=draw)) for draw in (3, 4, 5)]
        image = cropped[row].double() / 255
        image = oracle.adjust_brightness(image, factors[0])
        image = oracle.adjust_contrast(image, factors[1])
        image = oracle.adjust_saturation(image, factors[2])
        # Their luma weights differ in the fourth digit.
        assert (found[row].double() - image * 255).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 2])
def test_colour_changes_brightness_and_contrast_of_images_without_colours(channels: int) -> None:
    images, indices = photographs(16, channels=channels), torch.arange(16)
    found = views(images, indices=indices, seed=2, view=5, policy="colour")
    cropped = views(images, indices=indices, seed=2, view=5, policy="crop_flip")
    assert (found != cropped).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brightness", lambda image: oracle.adjust_brightness(image, 1 + 0.9 * STRENGTH)),
        ("contrast", lambda image: oracle.adjust_contrast(image, 1 + 0.9 * STRENGTH)),
        ("saturation", lambda image: oracle.adjust_saturation(image, 1 + 0.9 * STRENGTH)),
        ("sharpness", lambda image: oracle.adjust_sharpness(image, 1 + 0.9 * STRENGTH)),
        ("solarize", lambda image: oracle.solarize(image, 1 - STRENGTH)),
        ("posterize", lambda image: oracle.posterize((image * 255).round().to(torch.uint8), 7) / 255),
        ("equalize", lambda image: oracle.equalize((image * 255).round().to(torch.uint8)) / 255),
        ("autocontrast", lambda image: oracle.autocontrast(image)),
        ("identity", lambda image: image),
    ],
)
def test_operations_of_rand_augment_are_torchvisions(name: str, expected: object) -> None:
    image = photographs(1).double() / 255
    found = OPERATIONS[name](image, PLUS).clamp(0, 1)
    assert (found - expected(image)).abs().max() <= 1.01 / 255  # type: ignore[operator]


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
def test_operations_on_shape_move_the_image_both_ways(name: str) -> None:
    image = photographs(1).double() / 255
    one, other = (OPERATIONS[name](image, sign) for sign in (PLUS, -PLUS))
    for found in (one, other):
        assert found.shape == image.shape
        assert (found - image).abs().mean() > 1 / 255
    assert (one - other).abs().mean() > 1 / 255


def test_a_shift_of_rand_augment_is_by_whole_pixels() -> None:
    image = photographs(1).double() / 255
    found = OPERATIONS["translate_x"](image, PLUS)
    assert torch.allclose(found[..., 4:], image[..., :-4])
    assert found[..., :3].abs().max() < 1e-9


def test_every_operation_is_drawn() -> None:
    words = stream(torch.arange(2000), seed=1, view=0)
    for round_number in range(ROUNDS):
        drawn = integers(words, draw=3 + 2 * round_number, high=len(OPERATIONS))
        assert torch.bincount(drawn, minlength=len(OPERATIONS)).min() > 80


def test_a_channel_of_one_value_survives_autocontrast() -> None:
    flat = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert torch.equal(OPERATIONS["autocontrast"](flat, PLUS), flat)
