"""Faithful distillation without labels: the student's embedding becomes the teacher's, at its own width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from search.features.contract import FeatureLossModule, Lesson, Lessons, Pair, Seen
from search.features.relations import centred, cosine_similarities
from search.method_card import Card, Evidence, MethodConfig, Need
from search.models.embedding import EMBEDDING
from search.pathways.derivatives import mean_square
from search.pathways.directions import SILENT, directions
from search.registry import Kind, register

STEPS, LEARNING_RATE, IMAGES = 300, 3e-3, 256
"""Of learning a head: steps of Adam, and images in each."""


class FaithfulConfig(MethodConfig):
    """Settings of faithful distillation."""

    head: Literal["pca", "random", "learned", "procrustes"] = Field(
        default="pca",
        description="The teacher's frozen head: its principal directions, random ones, learned to keep "
        "cosines, or turned towards the student at every epoch.",
    )
    distance: Literal["mse", "cosine"] = Field(
        default="mse", description="Between the student's embedding and the head's output."
    )


@register(
    Kind.FEATURE_LOSS,
    "tintem",
    source="Mannix et al. 2024, arXiv 2411.15239",
    card=Card(
        systems=("tintem",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.EMBEDDING}),
        differences="The head is linear and, unless learned, semi-orthogonal in closed form. The squared "
        "error is divided by the mean square of the head's outputs. A student whose embedding ends in a ReLU "
        "cannot reach the negative ones of its targets.",
        config=FaithfulConfig,
    ),
)
class FaithfulDistillation(FeatureLossModule):
    """The student's embedding against that of the teacher through a frozen head that keeps distances.

    The head is W (z - mean) with W (Ds, Dt): W W^T = I where it narrows, W^T W = I where it widens. The
    student has no head. No label is used.
    """

    student_taps = teacher_taps = (EMBEDDING,)
    needs_lessons = True
    weight: Tensor
    mean: Tensor
    power: Tensor

    def __init__(self, pair: Pair, *, config: FaithfulConfig) -> None:
        super().__init__()
        student, teacher = pair.embeddings()
        self.config = config
        self.register_buffer("weight", torch.zeros(student, teacher))
        self.register_buffer("mean", torch.zeros(teacher))
        self.register_buffer("power", torch.ones(()))  # mean square of the head's outputs
        if config.head == "procrustes":
            self.lessons_every_epochs = 1

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Make the head; a Procrustes one anew for the student of the moment."""
        given = embeddings(lessons.teacher)
        teacher = centred(given)
        weight = self._head(teacher, lessons, torch.Generator().manual_seed(seed))
        power = (teacher @ weight.T).square().mean()
        self.keep("weight", weight)
        self.keep("mean", given.mean(dim=0))
        self.keep("power", power if power > SILENT else torch.ones(()))

    def _head(self, teacher: Tensor, lessons: Lessons, generator: torch.Generator) -> Tensor:
        """(Ds, Dt) in float64, of centred embeddings (N, Dt)."""
        if self.config.head == "pca":
            return principal(teacher, len(self.weight))
        if self.config.head == "procrustes":
            return turned(centred(embeddings(lessons.student)), teacher)
        start = semi_orthogonal(len(self.weight), teacher.shape[1], generator)
        return start if self.config.head == "random" else learned(start, teacher, generator)

    def head(self, embedding: Tensor) -> Tensor:
        """(B, Ds) of the teacher's embedding (B, Dt)."""
        return (embedding - self.mean) @ self.weight.T

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student, target = seen.student.embedding, self.head(seen.teacher.embedding.detach())
        if self.config.distance == "mse":
            return mean_square(student - target) / self.power
        return 1 - (directions(student) * directions(target)).sum(dim=1).mean()


def embeddings(say: Callable[[Sequence[int]], Iterator[Lesson]]) -> Tensor:
    """(N, D) of all training images, in float64 on the CPU."""
    found = torch.cat([outputs.embedding.detach().cpu() for outputs, _, _ in say((EMBEDDING,))])
    return found.nan_to_num().double()


def principal(teacher: Tensor, width: int) -> Tensor:
    """The directions (width, Dt) of most variance first; rows of zeros below where there are too few."""
    found = torch.linalg.eigh(teacher.T @ teacher).eigenvectors.flip(1).T[:width]
    missing = found.new_zeros(width - len(found), found.shape[1])
    return torch.cat([found, missing])


def turned(student: Tensor, teacher: Tensor) -> Tensor:
    """The semi-orthogonal W (Ds, Dt) with the largest trace(S^T Z W^T)."""
    left, _, right = torch.linalg.svd(student.T @ teacher, full_matrices=False)
    turn: Tensor = left @ right
    return turn


def semi_orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random (rows, columns) in float64: its rows are orthonormal or, where there are more, its columns."""
    size = (max(rows, columns), min(rows, columns))
    found: Tensor = torch.linalg.qr(torch.randn(size, generator=generator, dtype=torch.float64)).Q
    return found if rows >= columns else found.T


def learned(start: Tensor, teacher: Tensor, generator: torch.Generator) -> Tensor:
    """From that start by Adam: pairs of images keep their cosine, and W stays nearly semi-orthogonal."""
    with torch.enable_grad():
        weight = start.float().requires_grad_()
        optimizer = torch.optim.Adam([weight], lr=LEARNING_RATE)
        for _ in range(STEPS):
            rows = torch.randperm(len(teacher), generator=generator)[:IMAGES]
            optimizer.zero_grad()
            unfaithfulness(weight, teacher[rows].float()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weight.detach().double()


def unfaithfulness(weight: Tensor, embedding: Tensor) -> Tensor:
    """How far pairs' cosines are from those before the head, plus ||W W^T - I||^2 (W^T W where it widens)."""
    changed = cosine_similarities(embedding @ weight.T) - cosine_similarities(embedding)
    narrowing = weight if weight.shape[0] <= weight.shape[1] else weight.T
    excess = narrowing @ narrowing.T - torch.eye(len(narrowing), dtype=weight.dtype)
    return changed.square().mean() + excess.square().sum()
