"""Lengths of vectors whose derivatives are bounded."""

from __future__ import annotations

from torch import Tensor

LEAST_SQUARED = 1e-12
"""Of a length: the root's derivative has no bound at zero."""


def lengths(vectors: Tensor) -> Tensor:
    """(...) of vectors (..., D); those hardly longer than zero are at zero, without a slope."""
    squared = vectors.square().sum(dim=-1)
    found = (squared > LEAST_SQUARED).to(squared)
    return squared.clamp(min=LEAST_SQUARED).sqrt() * found
