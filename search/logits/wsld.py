"""Weighted soft labels: images that the student has learned get less of the teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.logits.divergences import detached_factor, log_softened, of_target
from search.method_card import Card, Need
from search.registry import Kind, register


@register(
    Kind.LOGIT_LOSS,
    "wsld",
    source="Zhou et al. 2021, arXiv 2102.00650",
    card=Card(
        systems=("wsld",),
        needs=frozenset({Need.TEACHER_LOGITS, Need.LABELS}),
        temperatures=("teacher", "student"),
    ),
)
class WeightedSoftLabels(nn.Module):
    """mean of w * cross-entropy with the softened teacher, w = 1 - exp(-CE_s / CE_t), times tau_t * tau_s.

    CE_s and CE_t are both models' cross-entropies with the label at temperature 1; w in (0, 1) has no
    gradient. Not 0 between equals: there w is 1 - 1/e.
    """

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        teacher_temperature: Tensor,
        student_temperature: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """The loss, 0-dim; targets (B,) are classes."""
        teacher_logits = teacher_logits.detach()
        teacher = log_softened(teacher_logits, teacher_temperature).exp()
        soft = -(teacher * log_softened(student_logits, student_temperature)).sum(dim=1)
        weighted = (weights(student_logits, teacher_logits, targets) * soft).mean()
        return weighted * detached_factor(teacher_temperature, student_temperature)


def weights(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """Of each image, (B,), without a gradient; 1 where the teacher is certain and right."""
    student, teacher = (
        -of_target(log_softened(logits.detach()), targets) for logits in (student_logits, teacher_logits)
    )
    ratio = student / teacher.clamp(min=torch.finfo(teacher.dtype).eps)
    return 1 - torch.exp(-ratio)
