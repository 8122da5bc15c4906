"""The standard augmentation of CIFAR."""

from __future__ import annotations

from torch import Tensor

from search.augment.hashing import integers, offsets
from search.augment.sampling import reach, translate
from search.registry import Kind, register


@register(Kind.AUGMENTATION, "crop_flip", source="Lee et al. 2014, arXiv 1409.5185; He et al. 2015")
def crop_flip(images: Tensor, words: Tensor) -> Tensor:
    """Random crop from zero padding of an eighth of the side (4 pixels of 32), mirrored half the time."""
    down, right = (offsets(words, draw=draw, reach=reach(images, 8)) for draw in (0, 1))
    flip = integers(words, draw=2, high=2).bool()
    return translate(images, down=down, right=right, flip=flip, edge=False)
