"""EmbedDistill: the student's embedding in the teacher's place, before the teacher's own classifier."""

from __future__ import annotations

from math import sqrt

from torch import Tensor, nn
from torch.nn import functional

from search.features.contract import FeatureLossModule, Pair, Seen, UnfitError
from search.features.lengths import lengths
from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING, classifier_of
from search.registry import Kind, register


class EmbedConfig(MethodConfig):
    """Settings of EmbedDistill."""

    embedding_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of distances between embeddings."
    )
    score_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the divergence of the scores."
    )


@register(
    Kind.FEATURE_LOSS,
    "embed_distill",
    source="EmbedDistill, Kim et al. 2023, arXiv 2301.12005",
    card=Card(
        systems=("embeddistill",),
        evidence=Evidence.MEMORY,
        needs=frozenset({Need.EMBEDDING, Need.TEACHER_LOGITS, Need.CLASSIFIER}),
        trains=True,
        zero_at_equality=True,
        differences="Images are the queries and the rows of the teacher's classifier the documents, whose "
        "encoder is thus the teacher's, frozen. No generated queries. The student is mapped even where "
        "widths are equal, by what is the identity at first. Distances are divided by the root of the width.",
        config=EmbedConfig,
    ),
)
class EmbedDistill(FeatureLossModule):
    """Distance of the student's mapped embedding from the teacher's, and KL of what scores both are given.

    The teacher's classifier, frozen, gives the scores of both.
    """

    student_taps = teacher_taps = (EMBEDDING,)
    weight: Tensor
    bias: Tensor

    def __init__(self, pair: Pair, *, config: EmbedConfig) -> None:
        super().__init__()
        student, self.width = pair.embeddings()
        self.config = config
        self.map = nn.Linear(student, self.width)
        if student == self.width:
            nn.init.eye_(self.map.weight)
            nn.init.zeros_(self.map.bias)
        weight, bias = documents(pair)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        query, teacher = self.map(seen.student.embedding), seen.teacher.embedding.detach()
        apart = lengths(teacher - query).mean() / sqrt(self.width)
        target = log_softened(seen.teacher.logits.detach())
        scores = divergence(target, log_softened(self.scores(query))).mean()
        return self.config.embedding_weight * apart + self.config.score_weight * scores

    def scores(self, query: Tensor) -> Tensor:
        """(B, K) of an embedding (B, Dt), by the teacher's classifier."""
        scores: Tensor = functional.linear(query, self.weight, self.bias)
        return scores


def documents(pair: Pair) -> tuple[Tensor, Tensor]:
    """Weight (K, Dt) and bias (K,) of the teacher's classifier, copied. Raises UnfitError."""
    model = pair.teacher.model
    found = None if model is None else classifier_of(model.network)
    shape = (pair.classes, pair.teacher.width("teacher"))
    if not isinstance(found, nn.Linear | nn.Conv2d) or found.weight.flatten(1).shape != shape:
        raise UnfitError(
            f"the classifier of the teacher {pair.teacher.name} is not one linear map from its embedding to "
            f"the {pair.classes} classes; choose a teacher that ends in one, or a loss on embeddings alone"
        )
    weight = found.weight.detach().flatten(1).clone()
    return weight, weight.new_zeros(pair.classes) if found.bias is None else found.bias.detach().clone()
