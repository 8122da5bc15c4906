"""Embedding graph alignment: how images correlate within and between both models' embeddings."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from search.features.contract import FeatureLossModule, Pair, Seen
from search.features.lengths import lengths
from search.features.relations import correlations
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING
from search.registry import Kind, register


class GraphConfig(MethodConfig):
    """Settings of embedding graph alignment."""

    node_weight: float = searched(
        0.8, low=0.05, high=5.0, ge=0.0, le=1e6, description="Of correlations between the models."
    )
    edge_weight: float = searched(
        0.24, low=0.02, high=2.0, ge=0.0, le=1e6, description="Of correlations within each model."
    )
    width: int = Field(default=256, ge=2, le=65_536, description="Of the joint space.")


@register(
    Kind.FEATURE_LOSS,
    "ega",
    source="Embedding Graph Alignment, Ma et al. 2022, arXiv 2211.13264",
    card=Card(
        systems=("ega",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.EMBEDDING, Need.LABELS}),
        trains=True,
        differences="The teacher's linear map and its classifier train by cross-entropy as in the paper, but "
        "under the student's optimiser, not under one of their own. Of mixed images they learn the class "
        "that has most.",
        config=GraphConfig,
    ),
)
class GraphAlignment(FeatureLossModule):
    """Differences between both models' correlations of images, and of those between the models from identity.

    Both embeddings are mapped to one width by linear maps, and images correlate over its values. An image is
    to correlate with itself across the models, and with no other image.
    """

    student_taps = teacher_taps = (EMBEDDING,)

    def __init__(self, pair: Pair, *, config: GraphConfig) -> None:
        super().__init__()
        student, teacher = pair.embeddings()
        self.config = config
        self.student_map = nn.Linear(student, config.width)
        self.teacher_map = nn.Linear(teacher, config.width)
        self.classifier = nn.Linear(config.width, pair.classes)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student = self.student_map(seen.student.embedding)
        teacher = self.teacher_map(seen.teacher.embedding.detach())
        loss = self.aligned(student, teacher.detach())
        taught = functional.cross_entropy(self.classifier(teacher), seen.targets)
        return loss + (taught - taught.detach())

    def aligned(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, 0-dim, of both (B, width)."""
        nodes = node_difference(student, teacher)
        return self.config.node_weight * nodes + self.config.edge_weight * edge_difference(student, teacher)


def node_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Frobenius norm, 0-dim, of the correlations between the models less the identity."""
    between = correlations(teacher, student)
    return lengths((between - torch.eye(len(between)).to(between)).flatten())


def edge_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Frobenius norm, 0-dim, of the models' own correlations less each other."""
    return lengths((correlations(teacher, teacher) - correlations(student, student)).flatten())
