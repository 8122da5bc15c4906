"""RandAugment: two operations per image out of fourteen, at one strength.

The ranges are those of torchvision's RandAugment at magnitude 9 of 30, whose own class draws one number per
call from the global generator, so that a batch would get the same operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    equalize,
    normalize_min_max,
    posterize,
    sharpness,
    solarize,
)
from kornia.geometry.transform import rotate, shear, translate
from torch import Tensor

from search.augment.crop_flip import crop_flip
from search.augment.hashing import integers
from search.augment.sampling import as_bytes, as_unit
from search.registry import Kind, register

ROUNDS = 2
STRENGTH = 9 / 30
SHEAR = 0.3 * STRENGTH
TRANSLATION = 150 / 331 * STRENGTH
DEGREES = 30.0 * STRENGTH
BLEND = 0.9 * STRENGTH
BITS = 8 - round(4 * STRENGTH)
THRESHOLD = 1.0 - STRENGTH

Operation = Callable[[Tensor, Tensor], Tensor]
"""Of images float (B, C, H, W) in [0, 1] and a sign (B,), -1 or 1, per image."""


@register(Kind.AUGMENTATION, "rand_augment", source="Cubuk et al. 2019, arXiv 1909.13719")
def rand_augment(images: Tensor, words: Tensor) -> Tensor:
    """`crop_flip`, then two of fourteen operations on shape and colour, drawn for each image."""
    return as_bytes(two_operations(as_unit(crop_flip(images, words)), words))


def two_operations(images: Tensor, words: Tensor) -> Tensor:
    """Those of `rand_augment` alone: of images float (B, C, H, W) in [0, 1], as `as_unit` makes them."""
    for round_number in range(ROUNDS):
        chosen = integers(words, draw=3 + 2 * round_number, high=len(OPERATIONS))
        signs = 2.0 * integers(words, draw=4 + 2 * round_number, high=2).to(images) - 1.0
        images = _applied(images, chosen, signs)
    return images


def _applied(images: Tensor, chosen: Tensor, signs: Tensor) -> Tensor:
    """Each operation on the images that have chosen it."""
    result, chosen = images.clone(), chosen.cpu()  # one wait for the device, not one for each operation
    for number, operation in enumerate(OPERATIONS.values()):
        rows = (chosen == number).nonzero().squeeze(1)
        if len(rows):
            rows = rows.to(images.device)
            result[rows] = operation(images[rows], signs[rows]).clamp(0.0, 1.0)
    return result


def _along(first: Tensor, axis: int) -> Tensor:
    """Amounts (B,) along x (axis 0) or y (axis 1), none along the other: (B, 2)."""
    return torch.stack([first if axis == along else torch.zeros_like(first) for along in (0, 1)], dim=1)


def _pixels(side: int, signs: Tensor) -> Tensor:
    return round(TRANSLATION * side) * signs


def _saturation(images: Tensor, signs: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images
    changed: Tensor = adjust_saturation_with_gray_subtraction(images, 1.0 + BLEND * signs)
    return changed


def _autocontrast(images: Tensor, signs: Tensor) -> Tensor:
    """A channel of one value stays as it is."""
    is_flat = images.amax((2, 3), keepdim=True) == images.amin((2, 3), keepdim=True)
    return torch.where(is_flat, images, normalize_min_max(images))


OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, signs: images,
    "shear_x": lambda images, signs: shear(images, _along(SHEAR * signs, 0)),
    "shear_y": lambda images, signs: shear(images, _along(SHEAR * signs, 1)),
    "translate_x": lambda images, signs: translate(images, _along(_pixels(images.shape[-1], signs), 0)),
    "translate_y": lambda images, signs: translate(images, _along(_pixels(images.shape[-2], signs), 1)),
    "rotate": lambda images, signs: rotate(images, DEGREES * signs),
    "brightness": lambda images, signs: adjust_brightness_accumulative(images, 1.0 + BLEND * signs),
    "saturation": _saturation,
    "contrast": lambda images, signs: adjust_contrast_with_mean_subtraction(images, 1.0 + BLEND * signs),
    "sharpness": lambda images, signs: sharpness(images, 1.0 + BLEND * signs),
    "posterize": lambda images, signs: posterize(images, BITS),
    "solarize": lambda images, signs: solarize(images, THRESHOLD),
    "autocontrast": _autocontrast,
    "equalize": lambda images, signs: equalize(images),
}
