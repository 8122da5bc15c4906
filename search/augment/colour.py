"""Crop, flip, and changes of brightness, contrast and saturation."""

from __future__ import annotations

from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
)
from torch import Tensor

from search.augment.crop_flip import crop_flip
from search.augment.hashing import uniform
from search.augment.sampling import as_bytes, as_unit
from search.registry import Kind, register

STRENGTH = 0.4
"""Factors are drawn from 1 - STRENGTH to 1 + STRENGTH, as is usual on ImageNet."""


@register(Kind.AUGMENTATION, "colour", source="Krizhevsky et al. 2012; the usual colour jitter of 0.4")
def colour(images: Tensor, words: Tensor) -> Tensor:
    """`crop_flip`, then brightness, contrast and (of RGB images) saturation times 0.6 to 1.4."""
    brightness, contrast, saturation = (_factors(words, draw=draw) for draw in (3, 4, 5))
    changed = as_unit(crop_flip(images, words))
    changed = adjust_brightness_accumulative(changed, brightness)
    changed = adjust_contrast_with_mean_subtraction(changed, contrast)
    if images.shape[1] == 3:
        changed = adjust_saturation_with_gray_subtraction(changed, saturation)
    return as_bytes(changed)


def _factors(words: Tensor, *, draw: int) -> Tensor:
    return 1.0 + STRENGTH * (2.0 * uniform(words, draw=draw) - 1.0)
