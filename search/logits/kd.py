"""Knowledge distillation: the student's softened distribution is pulled to the teacher's."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.divergences import detached_factor, divergence, log_softened
from search.method_card import Card, Need
from search.registry import Kind, register


@register(
    Kind.LOGIT_LOSS,
    "kd",
    source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531",
    card=Card(
        systems=("kd",),
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        differences="Two temperatures: the factor is tau_t tau_s, which is T^2 where they are one.",
    ),
)
class KnowledgeDistillation(nn.Module):
    """KL divergence between the teacher's and the student's softened distributions.

    mean over the batch of KL(softmax(z_t / tau_t) || softmax(z_s / tau_s)), times tau_t * tau_s
    (`detached_factor`).
    """

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
        log_teacher = log_softened(teacher_logits.detach(), teacher_temperature)
        log_student = log_softened(student_logits, student_temperature)
        factor = detached_factor(teacher_temperature, student_temperature)
        return divergence(log_teacher, log_student).mean() * factor
