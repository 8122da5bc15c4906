"""Relational distillation: how far apart images are, and at what angles they see each other."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen
from search.features.relations import off_diagonal, squared_distances
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING
from search.pathways.directions import directions
from search.registry import Kind, register

ANGLE_IMAGES = 64
"""Of larger batches the first so many: angles between all triples take the cube of the images."""


class RelationalConfig(MethodConfig):
    """Settings of relational distillation."""

    distance_weight: float = searched(
        25.0, low=1.0, high=100.0, ge=0.0, le=1e6, description="Of distances between pairs."
    )
    angle_weight: float = searched(
        50.0, low=1.0, high=200.0, ge=0.0, le=1e6, description="Of the angles of triples."
    )


@register(
    Kind.FEATURE_LOSS,
    "rkd",
    source="Park et al. 2019, arXiv 1904.05068",
    card=Card(
        systems=("rkd",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.EMBEDDING}),
        zero_at_equality=True,
        differences=f"Angles are those of the first {ANGLE_IMAGES} images of a batch.",
        config=RelationalConfig,
    ),
)
class RelationalDistillation(FeatureLossModule):
    """Smooth-L1 between both models' normalised pairwise distances, and between the cosines of triples.

    Distances are divided by their mean over all pairs, so turning, moving or scaling an embedding changes
    nothing. Widths may differ.
    """

    student_taps = teacher_taps = (EMBEDDING,)

    def __init__(self, pair: Pair, *, config: RelationalConfig) -> None:
        super().__init__()
        pair.embeddings()
        self.config = config

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student, teacher = seen.student.embedding, seen.teacher.embedding.detach()
        distances = F.smooth_l1_loss(normalised_distances(student), normalised_distances(teacher))
        few = slice(ANGLE_IMAGES)
        angles = F.smooth_l1_loss(cosines(student[few]), cosines(teacher[few]))
        return self.config.distance_weight * distances + self.config.angle_weight * angles


def normalised_distances(embedding: Tensor) -> Tensor:
    """(B, B): distances over their mean of all pairs; zero on the diagonal."""
    apart = off_diagonal(len(embedding), embedding)
    distances = (squared_distances(embedding) + (1 - apart)).sqrt() * apart
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / mean.clamp(min=1e-12)


def cosines(embedding: Tensor) -> Tensor:
    """(B, B, B): at image i, the cosine of the angle between images j and k; zero where j or k is i."""
    towards = directions(embedding[None, :, :] - embedding[:, None, :])
    return towards @ towards.transpose(1, 2)
