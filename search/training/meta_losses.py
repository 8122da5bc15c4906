"""What judges a process on meta images: their labels, or the teacher's logits or embeddings.

All are differentiable in the student's parameters. The teacher says what it says of the very images that the
student sees, and gets no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.features.relations import cosine_similarities
from search.label_free import MetaLossName
from search.logits.divergences import divergence, log_softened
from search.models import TappedModel
from search.models.embedding import EMBEDDING
from search.models.part import embedding_tap
from search.pathways.derivatives import mean_square
from search.problems import SearchProblem
from search.training.precision import Precision, forward_taps

Outputs = tuple[Tensor, Mapping[int, Tensor]]
"""Logits (B, K), and what was tapped (B, D, 1, 1)."""


@dataclass(frozen=True)
class MetaLoss:
    """One way to judge: what it taps of both models, and the loss, 0-dim, of their outputs and the labels."""

    taps: Sequence[int]
    asks_teacher: bool
    of: Callable[[Outputs, Outputs, Tensor], Tensor]


def by_labels(student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(student[0], targets)


def by_logits(student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
    """KL(teacher || student) at T = 1, the mean over the images."""
    return divergence(log_softened(teacher[0]), log_softened(student[0])).mean()


def by_embeddings(student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
    """How far two embeddings, which may differ in width, are from setting the images in the same places."""
    return similarity_difference(student[1][EMBEDDING].flatten(1), teacher[1][EMBEDDING].flatten(1))


def similarity_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of the cosines of all pairs of images, 0-dim, of embeddings (B, D)."""
    pairs = max(1, len(student) * (len(student) - 1))
    difference = cosine_similarities(student) - cosine_similarities(teacher)
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return mean_square(difference * apart) * (difference.numel() / pairs)


META_LOSSES: Mapping[MetaLossName, MetaLoss] = {
    "cross_entropy": MetaLoss((), asks_teacher=False, of=by_labels),
    "teacher_logits": MetaLoss((), asks_teacher=True, of=by_logits),
    "teacher_embeddings": MetaLoss((EMBEDDING,), asks_teacher=True, of=by_embeddings),
}


class MetaBatchLoss:
    """The meta loss of a student that trains with this teacher."""

    def __init__(
        self, name: MetaLossName, *, student: TappedModel, teacher: TappedModel | None, precision: Precision
    ) -> None:
        self._chosen, self._student, self._precision = META_LOSSES[name], student, precision
        self._teacher = teacher if self._chosen.asks_teacher else None
        if self._chosen.asks_teacher and teacher is None:
            raise SearchProblem(f"the meta loss {name} needs a teacher", code="teacher_missing")
        for model in filter(None, (student, self._teacher)) if self._chosen.taps else ():
            require_embedding(model)

    def of(self, images: Tensor, targets: Tensor) -> Tensor:
        """0-dim, of images (B, C, H, W) as the student gets them; the student's buffers are left as they are.

        Pairs are those among these images.
        """
        # A student with a head of its own is judged by what that head sees.
        tap = embedding_tap(self._student)
        taps = [tap] if self._chosen.taps else []
        logits, maps = forward_taps(self._student, images, taps, precision=self._precision, keep_buffers=True)
        seen = {EMBEDDING: maps[tap].mean(dim=(2, 3), keepdim=True)} if taps else {}
        return self._chosen.of((logits, seen), self._taught(images), targets)

    def _taught(self, images: Tensor) -> Outputs:
        if self._teacher is None:
            return images.new_zeros(0), {}
        with torch.no_grad():
            return forward_taps(self._teacher, images, self._chosen.taps, precision=self._precision)


def require_embedding(model: TappedModel) -> None:
    """Raise SearchProblem `embedding_missing` for a model whose embedding is not found."""
    if model.embedding_width is None:
        raise SearchProblem(
            f"the embedding of {model.name} is not found, by which this job judges: give every choice of "
            "search.space.logit_losses a loss, or set search.process.meta_loss to `teacher_logits`, or "
            "choose another model",
            code="embedding_missing",
        )
