"""How the images of a batch lie to each other."""

from __future__ import annotations

import torch
from torch import Tensor

from search.pathways.directions import directions, scaled

LEAST_SQUARED = 1e-12
"""Of a distance, where the largest value is 1: the root's derivative has no bound at zero."""


def squared_distances(embedding: Tensor) -> Tensor:
    """(B, B) of an embedding (B, D), centred and scaled to a largest value of 1; at least `LEAST_SQUARED`."""
    values = scaled(centred(embedding))
    lengths = values.square().sum(dim=1)
    by_products = lengths[:, None] + lengths[None, :] - 2 * values @ values.T
    return by_products.clamp(min=LEAST_SQUARED)


def cosine_similarities(embedding: Tensor) -> Tensor:
    """(B, B)."""
    along = directions(embedding)
    return along @ along.T


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """(B, B): Pearson's correlation, over their values, of each image in one with each in the other."""
    return directions(centred(one, dim=1)) @ directions(centred(other, dim=1)).T


def centred(values: Tensor, *, dim: int = 0) -> Tensor:
    """Less their mean."""
    return values - values.mean(dim=dim, keepdim=True)


def off_diagonal(size: int, like: Tensor) -> Tensor:
    """(size, size): 1, and 0 on the diagonal."""
    return 1 - torch.eye(size, dtype=like.dtype, device=like.device)
