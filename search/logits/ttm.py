"""Transformed teacher matching: a power of the teacher's probabilities, and no temperature on the student."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Need
from search.registry import Kind, register


@register(
    Kind.LOGIT_LOSS,
    "ttm",
    source="Zheng and Yang 2024, arXiv 2402.11148",
    card=Card(
        systems=("ttm",),
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher",),
        differences="The power is written 1 / tau_t; the same function.",
    ),
)
class TransformedTeacherMatching(nn.Module):
    """mean of KL(p_t^gamma renormalised || p_s), gamma = 1 / tau_t: KD with a temperature on one side only.

    Without a factor for the temperature: the student's gradient does not shrink with it.
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
        return divergence(log_teacher, log_softened(student_logits)).mean()
