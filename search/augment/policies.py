"""The augmentation policies that a job may choose."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from search.augment.hashing import integers, stream
from search.augment.sampling import translate


def none(images: Tensor, words: Tensor) -> Tensor:
    """The images as they are."""
    return images


def shift(images: Tensor, words: Tensor) -> Tensor:
    """Shifted by up to a sixteenth of the side (2 pixels of 32) each way; the edge pixels are repeated."""
    down, right = (_offset(words, draw=draw, reach=_reach(images, 16)) for draw in (0, 1))
    return translate(images, down=down, right=right, flip=None, edge=True)


def crop_flip(images: Tensor, words: Tensor) -> Tensor:
    """Zero-padded by an eighth of the side (4 pixels of 32), cropped at random, mirrored half the time."""
    down, right = (_offset(words, draw=draw, reach=_reach(images, 8)) for draw in (0, 1))
    flip = integers(words, draw=2, high=2).bool()
    return translate(images, down=down, right=right, flip=flip, edge=False)


def _reach(images: Tensor, fraction: int) -> int:
    return max(1, images.shape[-1] // fraction)


def _offset(words: Tensor, *, draw: int, reach: int) -> Tensor:
    return integers(words, draw=draw, high=2 * reach + 1) - reach


POLICIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": none,
    "shift": shift,
    "crop_flip": crop_flip,
}


def views(images: Tensor, *, indices: Tensor, seed: int, view: int, policy: str) -> Tensor:
    """The images' augmented versions: (B, C, H, W) in, the same shape and type out.

    `indices` int64 (B,) are the images' numbers in their split. A pure function of (seed, index, view) and
    the image: batch order and batch size do not matter. Raises KeyError for an unknown policy.
    """
    transform = POLICIES[policy]
    if policy == "none":
        return images
    return transform(images, stream(indices.to(images.device), seed=seed, view=view))
