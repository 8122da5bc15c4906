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
    return _over_length(vectors, least=shortest**2 * _squared_lengths(vectors).detach().mean())


def centred_directions(vectors: Tensor) -> Tensor:
    """Vectors (..., D) less their means, divided by their lengths; zero where all are constant.

    Those that hardly vary, beside how long the vectors are with their means, are divided by a hundredth of
    that length: what is left of a constant vector is rounding. Values over a batch are often so, and their
    slopes are exact there too.
    """
    vectors = scaled(vectors)
    least = SHORTEST**2 * _squared_lengths(vectors).mean()
    return _over_length(vectors - vectors.mean(dim=-1, keepdim=True), least=least)


def apart(one: Tensor, other: Tensor) -> Tensor:
    """(...): 1 - cos between directions (..., D); 0 between silent ones, a half where one of both is."""
    return (one - other).square().sum(dim=-1) / 2


def _squared_lengths(vectors: Tensor) -> Tensor:
    return vectors.square().sum(dim=-1, keepdim=True)


def _over_length(vectors: Tensor, *, least: Tensor) -> Tensor:
    kept = torch.maximum(_squared_lengths(vectors), least)
    return vectors / torch.where(kept > 0, kept, torch.ones_like(kept)).sqrt()
