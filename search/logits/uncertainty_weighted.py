"""KD in which images of which the teacher is unsure count less: the dual-student paper's weight."""

from __future__ import annotations

import math

from torch import Tensor, nn

from search.logits.divergences import detached_factor, divergence, entropy, log_softened
from search.method_card import Card, Evidence, Need
from search.registry import Kind, register


@register(
    Kind.LOGIT_LOSS,
    "uncertainty_weighted",
    source="Uncertainty-aware dual-student distillation 2025, arXiv 2511.18826",
    card=Card(
        systems=("dual_student",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        differences="The weight's formula was read; that its entropy is at temperature 1 is our reading. The "
        "second student is no part of the loss.",
    ),
)
class UncertaintyWeightedDistillation(nn.Module):
    """mean of w KL(softmax(z_t / tau_t) || softmax(z_s / tau_s)), times tau_t * tau_s.

    w = 1 - H(p_t) / log K with the teacher's entropy H at temperature 1: 1 where it is certain, 0 where it
    knows nothing.
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
        teacher_logits = teacher_logits.detach()
        log_teacher = log_softened(teacher_logits, teacher_temperature)
        divergences = divergence(log_teacher, log_softened(student_logits, student_temperature))
        factor = detached_factor(teacher_temperature, student_temperature)
        return (certainty(teacher_logits) * divergences).mean() * factor


def certainty(logits: Tensor) -> Tensor:
    """1 - entropy / log K of each row, (B,), in [0, 1]."""
    share = entropy(log_softened(logits)) / math.log(max(2, logits.shape[1]))
    return (1 - share).clamp(min=0.0, max=1.0)
