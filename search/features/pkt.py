"""Probabilistic knowledge transfer: whom each image of a batch lies near, as a distribution."""

from __future__ import annotations

from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen
from search.features.relations import cosine_similarities
from search.method_card import LEAST_BATCH, Card, Need
from search.models.embedding import EMBEDDING
from search.registry import Kind, register

LEAST = 1e-7
"""Added to probabilities: a logarithm has no bound at zero."""


@register(
    Kind.FEATURE_LOSS,
    "pkt",
    source="Passalis and Tefas 2018, arXiv 1803.10837",
    card=Card(
        systems=("pkt",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.EMBEDDING}),
        zero_at_equality=True,
        differences="The divergence is a mean over all pairs of images, as in released code. Embeddings much "
        "shorter than the others of a batch count as shorter than 1.",
    ),
)
class ProbabilisticTransfer(FeatureLossModule):
    """KL between both models' distributions of an image's neighbours in the batch, by their cosines.

    An embedding's length changes nothing. Widths may differ.
    """

    student_taps = teacher_taps = (EMBEDDING,)

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        pair.embeddings()

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student = neighbours(seen.student.embedding)
        teacher = neighbours(seen.teacher.embedding.detach())
        return (teacher * ((teacher + LEAST).log() - (student + LEAST).log())).mean()


def neighbours(embedding: Tensor) -> Tensor:
    """(B, B): rows of probabilities in proportion to (1 + cosine) / 2."""
    near = ((cosine_similarities(embedding) + 1) / 2).clamp(min=0)
    return near / near.sum(dim=1, keepdim=True)
