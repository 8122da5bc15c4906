"""Weighted transformed teacher matching: images of which the teacher is unsure count more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Evidence, Need
from search.registry import Kind, register


@register(
    Kind.LOGIT_LOSS,
    "wttm",
    source="Zheng and Yang 2024, arXiv 2402.11148",
    card=Card(
        systems=("ttm",),
        evidence=Evidence.MEMORY,
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher",),
        differences="The power is written 1 / tau_t. The weight has no gradient to a learned temperature: it "
        "would lower the loss by making every image count less.",
    ),
)
class WeightedTransformedTeacherMatching(nn.Module):
    """mean of w KL(p_t^gamma renormalised || p_s), gamma = 1 / tau_t, w = the power's sum over the classes.

    w is 1 for a teacher that is certain, and K^(1 - gamma) for one that knows nothing.
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
        weight = torch.logsumexp(log_softened(teacher_logits) / teacher_temperature.detach(), dim=1).exp()
        return (weight * divergence(log_teacher, log_softened(student_logits))).mean()
