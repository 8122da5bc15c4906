"""Correlation congruence: how alike the images of a batch are, by a Gaussian kernel."""

from __future__ import annotations

from math import exp

from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen
from search.features.relations import cosine_similarities
from search.method_card import LEAST_BATCH, Card, Evidence, Need
from search.models.embedding import EMBEDDING
from search.pathways.derivatives import mean_square
from search.registry import Kind, register

GAMMA = 0.4


@register(
    Kind.FEATURE_LOSS,
    "cc",
    source="Correlation Congruence for Knowledge Distillation, Peng et al. 2019, arXiv 1904.01802",
    card=Card(
        systems=("cc",),
        least_batch=LEAST_BATCH,
        evidence=Evidence.MEMORY,
        needs=frozenset({Need.EMBEDDING}),
        zero_at_equality=True,
        differences="No linear embedding in front: the kernels compare images, so widths may differ anyway.",
    ),
)
class CorrelationCongruence(FeatureLossModule):
    """Squared differences between both models' kernels of all pairs of images in a batch.

    The kernel is a Gaussian one of embeddings at length 1, by its Taylor expansion to the second order.
    """

    student_taps = teacher_taps = (EMBEDDING,)

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        pair.embeddings()

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        return mean_square(kernel(seen.student.embedding) - kernel(seen.teacher.embedding.detach()))


def kernel(embedding: Tensor) -> Tensor:
    """(B, B): exp(-gamma |a - b|^2) of directions a and b, expanded around a b = 0."""
    exponent = 2 * GAMMA * cosine_similarities(embedding)
    return exp(-2 * GAMMA) * (1 + exponent + exponent.square() / 2)
