"""Augmentation as a pure function of (seed, image index, view), per batch and on the images' device.

So a run resumes bitwise, and a teacher's output for a view can be computed once and kept. One policy per
file, registered under Kind.AUGMENTATION.

Contract: a function `policy(images, words)` from images uint8 (B, C, H, W) and a word int64 (B,) per image to
images of the same shape and type. All that is random about an image comes from its own word
(`search.augment.hashing`), whatever batch it is in; neither the input nor the global random state is touched.
Draws 0 to 2 of a word are `crop_flip`'s. Images with another number of channels than three are served too:
what needs colours leaves them as they are.
"""

from __future__ import annotations

from torch import Tensor

from search import registry
from search.augment.hashing import stream
from search.registry import Kind, import_siblings

import_siblings(__name__, list(__path__))


def views(images: Tensor, *, indices: Tensor, seed: int, view: int, policy: str) -> Tensor:
    """The images' augmented versions: uint8 (B, C, H, W) in, the same shape and type out.

    `indices` int64 (B,) are the images' numbers in their split. A pure function of (seed, index, view) and
    the image: batch order and batch size do not matter. Raises UnknownMethodError for an unknown policy.
    """
    transform = registry.get(Kind.AUGMENTATION, policy).factory
    if policy == "none":
        return images
    augmented: Tensor = transform(images, stream(indices.to(images.device), seed=seed, view=view))
    return augmented


__all__ = ["views"]
