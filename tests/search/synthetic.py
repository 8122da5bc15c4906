"""Small seeded images for tests of the numerics, where real data would only be slower."""

from __future__ import annotations

import torch

from search.data import ImageSet


def blobs(count: int, *, seed: int, classes: int = 10, size: int = 32, channels: int = 1) -> ImageSet:
    """Images uint8 (N, C, S, S): one bright square whose place tells the class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 120, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    side = size // 4
    for index, label in enumerate(labels.tolist()):
        row, column = divmod(label, 4)
        images[index, :, row * side : (row + 1) * side, column * side : (column + 1) * side] += 120
    return ImageSet(images=images, labels=labels)
