"""Knowledge distillation: the student's softened distribution is pulled to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.registry import Kind, register


@register(Kind.LOGIT_LOSS, "kd", source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531")
class KnowledgeDistillation(nn.Module):
    """KL divergence between the teacher's and the student's softened distributions.

    mean over the batch of KL(softmax(z_t / tau_t) || softmax(z_s / tau_s)), times tau_t * tau_s: the factor
    keeps the gradient's size as temperatures change. It is detached: a learned temperature would otherwise
    shrink the loss by shrinking the factor, and run to its lower bound.
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
        log_teacher = torch.log_softmax(teacher_logits.detach() / teacher_temperature, dim=1)
        log_student = torch.log_softmax(student_logits / student_temperature, dim=1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean()
        return divergence * (teacher_temperature * student_temperature).detach()
