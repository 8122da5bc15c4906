"""No augmentation."""

from __future__ import annotations

from torch import Tensor

from search.registry import Kind, register


@register(Kind.AUGMENTATION, "none", source="no augmentation")
def none(images: Tensor, words: Tensor) -> Tensor:
    """The images as they are."""
    return images
