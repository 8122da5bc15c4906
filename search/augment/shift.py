"""Small shifts, for images that must not be mirrored: digits, characters."""

from __future__ import annotations

from torch import Tensor

from search.augment.hashing import offsets
from search.augment.sampling import reach, translate
from search.registry import Kind, register


@register(Kind.AUGMENTATION, "shift", source="common practice for digits")
def shift(images: Tensor, words: Tensor) -> Tensor:
    """Random shifts by up to a sixteenth of the side (2 pixels of 32) each way; edge pixels are repeated."""
    down, right = (offsets(words, draw=draw, reach=reach(images, 16)) for draw in (0, 1))
    return translate(images, down=down, right=right, flip=None, edge=True)
