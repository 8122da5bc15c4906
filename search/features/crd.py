"""Contrastive representation distillation: an image's embedding is known among those of other images."""

from __future__ import annotations

from math import log

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from search.features.contract import FeatureLossModule, Pair, Seen, UnfitError
from search.features.lengths import LEAST_SQUARED
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.models.embedding import EMBEDDING
from search.pathways.directions import directions
from search.registry import Kind, register

WIDTH = 128


class ContrastConfig(MethodConfig):
    """Settings of contrastive distillation."""

    negatives: int = Field(
        default=512, ge=1, le=65_536, description="Other images per image; at most all others."
    )
    temperature: float = searched(0.07, low=0.03, high=0.5, ge=0.01, le=10.0, description="Of the scores.")
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0, description="Of what the banks hold.")


@register(
    Kind.FEATURE_LOSS,
    "crd",
    source="Contrastive Representation Distillation, Tian et al. 2020, arXiv 1910.10699",
    card=Card(
        systems=("crd",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.EMBEDDING, Need.INDICES}),
        trains=True,
        differences="512 negatives, which may be of the same class. They are never the image itself, and may "
        "repeat.",
        config=ContrastConfig,
    ),
)
class ContrastiveDistillation(FeatureLossModule):
    """Noise-contrastive loss of each model's embedding against the other's of this image and of others.

    Both are mapped to 128 values by linear maps and brought to length 1. Those of other images come from
    two banks, one row for each training image: random at first, they follow the maps' outputs.
    """

    student_taps = teacher_taps = (EMBEDDING,)
    log_totals: Tensor
    started: Tensor

    def __init__(self, pair: Pair, *, config: ContrastConfig) -> None:
        super().__init__()
        student, teacher = pair.embeddings()
        if pair.images < 2:
            raise UnfitError(
                "a contrast needs another training image; give at least two, or choose another loss"
            )
        self.config, self.images = config, pair.images
        self.negatives = min(config.negatives, pair.images - 1)
        self.student_map, self.teacher_map = nn.Linear(student, WIDTH), nn.Linear(teacher, WIDTH)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, functional.normalize(torch.randn(pair.images, WIDTH)))
        # Logarithms of what scores are divided by, of the student's and of the teacher's; set once.
        self.register_buffer("log_totals", torch.zeros(2))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student = directions(self.student_map(seen.student.embedding))
        teacher = directions(self.teacher_map(seen.teacher.embedding.detach()))
        drawn = torch.cat([seen.indices[:, None], self.others(seen.indices)], dim=1)
        scores = torch.stack([self.scores(student, "teacher", drawn), self.scores(teacher, "student", drawn)])
        self._start(scores)
        loss = self.contrast(scores)
        self._follow("student", student, seen.indices)
        self._follow("teacher", teacher, seen.indices)
        return loss

    def others(self, indices: Tensor) -> Tensor:
        """(B, negatives): drawn at random from all training images but each row's own."""
        shape = (len(indices), self.negatives)
        drawn = torch.randint(self.images - 1, shape, device=indices.device)
        return drawn + (drawn >= indices[:, None]).long()

    def scores(self, anchors: Tensor, bank: str, drawn: Tensor) -> Tensor:
        """(B, 1 + negatives): inner products over the temperature, of anchors (B, 128) and a bank's rows."""
        rows = self.get_buffer(f"{bank}_bank")[drawn]
        return (rows * anchors[:, None, :]).sum(dim=2) / self.config.temperature

    def contrast(self, scores: Tensor) -> Tensor:
        """The loss, 0-dim, of both models' scores (2, B, 1 + negatives), those of the image itself first."""
        noise = log(self.negatives / self.images)
        log_odds = scores - self.log_totals[:, None, None] - noise
        of_pairs = -functional.logsigmoid(log_odds[..., 0])
        of_others = -functional.logsigmoid(-log_odds[..., 1:]).sum(dim=2)
        return (of_pairs + of_others).mean(dim=1).sum()

    def _start(self, scores: Tensor) -> None:
        """Set the totals at the first step: the mean of a score's exponential, times the training images."""
        values = scores.detach().flatten(1)
        found = torch.logsumexp(values, dim=1) + log(self.images / values.shape[1])
        self.keep("log_totals", torch.where(self.started, self.log_totals, found.to(self.log_totals)))
        self.keep("started", torch.ones_like(self.started))

    def _follow(self, name: str, said: Tensor, indices: Tensor) -> None:
        """Move the bank's rows of these images towards what was said of them (B, 128)."""
        bank, momentum = self.get_buffer(f"{name}_bank"), self.config.momentum
        moved = momentum * bank[indices] + (1 - momentum) * said.detach().to(bank)
        squared = moved.square().sum(dim=1, keepdim=True)
        rows = torch.where(
            squared > LEAST_SQUARED, moved * squared.clamp(min=LEAST_SQUARED).rsqrt(), bank[indices]
        )
        self.keep(f"{name}_bank", bank.index_copy(0, indices, rows))
