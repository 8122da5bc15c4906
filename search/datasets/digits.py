"""scikit-learn's handwritten digits: 1,797 real greyscale images of 8x8 pixels, built in."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search.datasets.contents import Contents, Entry, Labelled, register_kind

OWN_SIZE = 32
IMAGES = 1797
# With all images the task is too easy to tell arms apart; small splits leave room above plain training.
DEFAULT_SIZES = {"train": 400, "meta": 200, "validation": 200, "test": 997}


def describe(entry: Entry) -> dict[str, int | None]:
    """What the catalogue says of digits."""
    return {"classes": 10, "channels": 1, "size": OWN_SIZE, "images": IMAGES}


def recognises(directory: Path) -> bool:
    """Never: digits are built in."""
    return False


@register_kind("digits", describe=describe, recognises=recognises, settings=())
def read(entry: Entry, *, size: int | None) -> Contents:
    """The digits, enlarged from 8x8 by bilinear interpolation."""
    images, labels = _enlarged(size or OWN_SIZE)
    return Contents(
        Labelled(images, labels),
        class_names=[str(digit) for digit in range(10)],
        default_sizes=DEFAULT_SIZES,
    )


@lru_cache(maxsize=2)
def _enlarged(size: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits  # half a second to import, so only when digits are asked for

    data = load_digits()
    small = torch.from_numpy(np.asarray(data.images, dtype=np.float32))[:, None] * (255 / 16)
    large = functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8), torch.from_numpy(np.asarray(data.target, dtype=np.int64))
