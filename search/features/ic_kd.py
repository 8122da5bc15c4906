"""In-context retrieval: what the teacher says of the training images nearest to each image."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from search.features.contract import FeatureLossModule, Lessons, Pair, Seen
from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING
from search.pathways.directions import directions
from search.registry import Kind, register

FAR = -1e4
"""In the place of the cosine of an image that may not be retrieved."""


class RetrievalConfig(MethodConfig):
    """Settings of in-context retrieval."""

    positive_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the divergence from those of the same class."
    )
    negative_weight: float = searched(
        2.0,  # this part is then 1 at most, with the margin's default
        low=0.1,
        high=10.0,
        ge=0.0,
        le=1e6,
        description="Of likeness to those of other classes.",
    )
    positives: int = Field(default=8, ge=1, le=4096, description="Retrieved, of the same class.")
    negatives: int = Field(default=8, ge=1, le=4096, description="Retrieved, of other classes.")
    temperature: float = Field(default=4.0, ge=0.1, le=100.0, description="Of the divergence.")
    sharpness: float = Field(
        default=0.1, ge=0.01, le=100.0, description="Temperature of the cosines that weigh the positives."
    )
    margin: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Cosine from which a negative pushes away."
    )


@register(
    Kind.FEATURE_LOSS,
    "ic_kd",
    source="In-context Sample Retrieval for Knowledge Distillation 2025, arXiv 2501.07040",
    card=Card(
        systems=("ic_kd",),
        teaches_logits=True,
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.EMBEDDING, Need.TEACHER_LOGITS, Need.LABELS, Need.INDICES}),
        differences="Offline: the bank holds what the teacher says of all training images as they are, once. "
        "Negatives push by the cosine of probabilities at temperature 1, above a margin. An image without "
        "others of its class is taught by its negatives only.",
        config=RetrievalConfig,
    ),
)
class InContextRetrieval(FeatureLossModule):
    """KL from the teacher's mean logits of near images of the same class; away from near ones of others.

    Images are near by the cosine of the teacher's embeddings, and never retrieve themselves.
    """

    teacher_taps = (EMBEDDING,)
    needs_lessons = True
    embeddings: Tensor
    logits: Tensor
    labels: Tensor

    def __init__(self, pair: Pair, *, config: RetrievalConfig) -> None:
        super().__init__()
        self.config, self.images = config, pair.images
        self.register_buffer("embeddings", torch.zeros(pair.images, pair.teacher.width("teacher")))
        self.register_buffer("logits", torch.zeros(pair.images, pair.classes))
        self.register_buffer("labels", torch.zeros(pair.images, dtype=torch.long))

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Fill the bank."""
        given = [
            (directions(said.embedding), said.logits, targets, indices)
            for said, targets, indices in lessons.teacher((EMBEDDING,))
        ]
        *values, places = (torch.cat(each) for each in zip(*given, strict=True))
        for name, value in zip(("embeddings", "logits", "labels"), values, strict=True):
            bank = self.get_buffer(name)
            self.keep(name, bank.index_copy(0, places.to(bank.device), value.detach().to(bank)))

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        positives, negatives = self.retrieved(seen)
        positive = self.towards(seen.student.logits, *positives)
        negative = self.away(seen.student.logits, *negatives)
        return self.config.positive_weight * positive + self.config.negative_weight * negative

    def retrieved(self, seen: Seen) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Of the same class and of others: cosines, `FAR` where there are too few, and places, all (B, k)."""
        cosines = directions(seen.teacher.embedding.detach()) @ self.embeddings.T
        same = seen.targets[:, None] == self.labels
        itself = seen.indices[:, None] == torch.arange(self.images, device=same.device)
        positives = self._nearest(cosines, same & ~itself, self.config.positives)
        return positives, self._nearest(cosines, ~same & ~itself, self.config.negatives)

    def _nearest(self, cosines: Tensor, allowed: Tensor, most: int) -> tuple[Tensor, Tensor]:
        found = cosines.masked_fill(~allowed, FAR).topk(min(most, self.images), dim=1)
        return found.values, found.indices

    def target(self, cosines: Tensor, places: Tensor) -> Tensor:
        """(B, K): mean logits of those retrieved, weighed by their cosines."""
        weights = torch.softmax(cosines / self.config.sharpness, dim=1)
        return (weights[:, :, None] * self.logits[places]).sum(dim=1)

    def towards(self, logits: Tensor, cosines: Tensor, places: Tensor) -> Tensor:
        """T^2 KL from the target, 0-dim; an image without positives adds nothing."""
        temperature = self.config.temperature
        target = log_softened(self.target(cosines, places), temperature)
        rows = divergence(target, log_softened(logits, temperature))
        return temperature**2 * (rows * is_found(cosines)[:, 0]).mean()

    def away(self, logits: Tensor, cosines: Tensor, places: Tensor) -> Tensor:
        """Mean over those retrieved of the probabilities' cosine above the margin, 0-dim."""
        own = unit(torch.softmax(logits, dim=1))
        theirs = unit(torch.softmax(self.logits[places], dim=2))
        above = ((own[:, None, :] * theirs).sum(dim=2) - self.config.margin).relu()
        found = is_found(cosines)
        return ((above * found).sum(dim=1) / found.sum(dim=1).clamp(min=1)).mean()


def is_found(cosines: Tensor) -> Tensor:
    """1 where an image was retrieved, and 0."""
    return (cosines > FAR / 2).to(cosines)


def unit(probabilities: Tensor) -> Tensor:
    """(..., K) at length 1."""
    return probabilities / probabilities.square().sum(dim=-1, keepdim=True).sqrt()
