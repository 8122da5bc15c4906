"""Decoupled knowledge distillation: how sure the teacher is, apart from what it says of the other classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.logits.divergences import (
    detached_factor,
    divergence,
    log_softened,
    of_target,
    without_target,
)
from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register


class DecoupledConfig(MethodConfig):
    """The two parts' weights."""

    target_weight: float = searched(
        1.0, low=0.25, high=4.0, ge=0, description="Of the target class against the rest (alpha)."
    )
    rest_weight: float = searched(
        8.0, low=0.5, high=16.0, ge=0, description="Of the other classes among themselves (beta)."
    )


@register(
    Kind.LOGIT_LOSS,
    "dkd",
    source="Zhao et al. 2022, arXiv 2203.08679",
    card=Card(
        systems=("dkd",),
        needs=frozenset({Need.TEACHER_LOGITS, Need.LABELS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        config=DecoupledConfig,
        differences="No warm-up over 20 epochs: the process's schedule takes its place.",
    ),
)
class DecoupledDistillation(nn.Module):
    """alpha KL of (target, rest) + beta KL of the other classes renormalised, times tau_t * tau_s.

    KL = target part + (1 - p_t of the target) rest part: KD weighs the rest by how unsure the teacher is, and
    here by beta. The rest's log-probability is a logsumexp over the other logits, so that it stays finite
    where the target's rounds to 1.
    """

    def __init__(self, config: DecoupledConfig) -> None:
        super().__init__()
        self.config = config

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
        teacher, student = teacher_logits.detach() / teacher_temperature, student_logits / student_temperature
        target = divergence(target_or_rest(teacher, targets), target_or_rest(student, targets)).mean()
        rest = divergence(
            log_softened(without_target(teacher, targets)), log_softened(without_target(student, targets))
        ).mean()
        loss = self.config.target_weight * target + self.config.rest_weight * rest
        return loss * detached_factor(teacher_temperature, student_temperature)


def target_or_rest(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities (B, 2) of the target class and of all others together."""
    rest = without_target(logits, targets).logsumexp(dim=1)
    return log_softened(torch.stack([of_target(logits, targets), rest], dim=1))
