"""Vectors as directions: divided by their length, and tame where they have none."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 0.01
"""As a part of all vectors' root mean squared length."""
SILENT = 1e-30


def scaled(values: Tensor) -> Tensor:
    """Values over the largest absolute one, so that their squares neither vanish nor overflow.

    The largest is taken as a constant: for what ignores scale, its derivative is zero anyway.
    """
    peak = values.detach().abs().amax()
    return values / torch.where(peak > SILENT, peak, torch.ones_like(peak))


def directions(vectors: Tensor, *, shortest: float = SHORTEST) -> Tensor:
    """Vectors (..., D) divided by their lengths; zero where all are.

    Those much shorter than the others are divided by a part `shortest` of the others' length instead: the
    gradient of a direction grows as one over the length, without end, and maps after a ReLU have silent
    places and images.
    """
    vectors = scaled(vectors)
    squared = vectors.square().sum(dim=-1, keepdim=True)
    kept = torch.maximum(squared, shortest**2 * squared.detach().mean())
    return vectors / torch.where(kept > 0, kept, torch.ones_like(kept)).sqrt()
