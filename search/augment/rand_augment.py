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
    changed = as_unit(crop_flip(images, words))
    for round_number in range(ROUNDS):
        chosen = integers(words, draw=3 + 2 * round_number, high=len(OPERATIONS))
        signs = 2.0 * integers(words, draw=4 + 2 * round_number, high=2).to(changed) - 1.0
        changed = _applied(changed, chosen, signs)
    return as_bytes(changed)


def _applied(images: Tensor, chosen: Tensor, signs: Tensor) -> Tensor:
    """Each operation on the images that have chosen it."""
    result = images.clone()
    for number, operation in enumerate(OPERATIONS):
        rows = (chosen == number).nonzero().squeeze(1)
        if len(rows):
            result[rows] = operation(images[rows], signs[rows]).clamp(0.0, 1.0)
    return result


def _identity(images: Tensor, signs: Tensor) -> Tensor:
    return images


def _shear_x(images: Tensor, signs: Tensor) -> Tensor:
    return shear(images, torch.stack([SHEAR * signs, torch.zeros_like(signs)], dim=1))


def _shear_y(images: Tensor, signs: Tensor) -> Tensor:
    return shear(images, torch.stack([torch.zeros_like(signs), SHEAR * signs], dim=1))


def _translate_x(images: Tensor, signs: Tensor) -> Tensor:
    pixels = round(TRANSLATION * images.shape[-1]) * signs
    return translate(images, torch.stack([pixels, torch.zeros_like(signs)], dim=1))


def _translate_y(images: Tensor, signs: Tensor) -> Tensor:
    pixels = round(TRANSLATION * images.shape[-2]) * signs
    return translate(images, torch.stack([torch.zeros_like(signs), pixels], dim=1))


def _rotate(images: Tensor, signs: Tensor) -> Tensor:
    return rotate(images, DEGREES * signs)


def _brightness(images: Tensor, signs: Tensor) -> Tensor:
    return adjust_brightness_accumulative(images, 1.0 + BLEND * signs)


def _saturation(images: Tensor, signs: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images
    return adjust_saturation_with_gray_subtraction(images, 1.0 + BLEND * signs)


def _contrast(images: Tensor, signs: Tensor) -> Tensor:
    return adjust_contrast_with_mean_subtraction(images, 1.0 + BLEND * signs)


def _sharpness(images: Tensor, signs: Tensor) -> Tensor:
    return sharpness(images, 1.0 + BLEND * signs)


def _posterize(images: Tensor, signs: Tensor) -> Tensor:
    return posterize(images, BITS)


def _solarize(images: Tensor, signs: Tensor) -> Tensor:
    return solarize(images, THRESHOLD)


def _autocontrast(images: Tensor, signs: Tensor) -> Tensor:
    """A channel of one value stays as it is."""
    is_flat = images.amax((2, 3), keepdim=True) == images.amin((2, 3), keepdim=True)
    return torch.where(is_flat, images, normalize_min_max(images))


def _equalize(images: Tensor, signs: Tensor) -> Tensor:
    return equalize(images)


OPERATIONS: tuple[Operation, ...] = (
    _identity,
    _shear_x,
    _shear_y,
    _translate_x,
    _translate_y,
    _rotate,
    _brightness,
    _saturation,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)
