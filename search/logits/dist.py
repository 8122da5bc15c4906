"""DIST: the student keeps the teacher's relations between classes and between images, not its values."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.divergences import correlation, detached_factor, log_softened
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.registry import Kind, register


class DistConfig(MethodConfig):
    """The two relations' weights."""

    between_classes_weight: float = searched(
        1.0, low=0.25, high=4.0, ge=0, description="Of an image's relation between classes (beta)."
    )
    between_images_weight: float = searched(
        1.0, low=0.25, high=4.0, ge=0, description="Of a class's relation between images (gamma)."
    )


@register(
    Kind.LOGIT_LOSS,
    "dist",
    source="Huang et al. 2022, arXiv 2205.10536",
    card=Card(
        systems=("dist",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        config=DistConfig,
    ),
)
class DistillationFromStronger(nn.Module):
    """1 - Pearson's correlation of the probabilities, over classes and over the batch, times tau_t * tau_s.

    Unchanged where a row of probabilities is scaled and shifted. The relation between images depends on what
    is in the batch.
    """

    def __init__(self, config: DistConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        teacher_temperature: Tensor,
        student_temperature: Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-dim."""
        teacher = log_softened(teacher_logits.detach(), teacher_temperature).exp()
        student = log_softened(student_logits, student_temperature).exp()
        between_classes = 1 - correlation(student, teacher).mean()
        between_images = 1 - correlation(student.t(), teacher.t()).mean()
        loss = self.config.between_classes_weight * between_classes
        loss = loss + self.config.between_images_weight * between_images
        return loss * detached_factor(teacher_temperature, student_temperature)
