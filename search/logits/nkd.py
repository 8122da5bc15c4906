"""Normalised knowledge distillation: the target class's term, and the other classes renormalised."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.divergences import detached_factor, log_softened, of_target, without_target
from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register


class NormalisedConfig(MethodConfig):
    """The weight of the other classes."""

    rest_weight: float = searched(
        1.5, low=0.25, high=6.0, ge=0, description="Of the other classes among themselves (gamma)."
    )


@register(
    Kind.LOGIT_LOSS,
    "nkd",
    source="Yang et al. 2023, arXiv 2303.13005 (number from memory)",
    card=Card(
        systems=("nkd",),
        needs=frozenset({Need.TEACHER_LOGITS, Need.LABELS}),
        temperatures=("teacher", "student"),
        config=NormalisedConfig,
        differences="The paper's T is 1; here the temperatures are the process's.",
    ),
)
class NormalisedDistillation(nn.Module):
    """- p_t log p_s of the target class, minus gamma * tau_t * tau_s * sum of q_t log q_s over the others.

    p at temperature 1, q renormalised over the other classes at the temperatures. Cross-entropies: not 0
    between equals, and the target's term pulls p_s beyond p_t, to 1.
    """

    def __init__(self, config: NormalisedConfig) -> None:
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
        teacher_logits = teacher_logits.detach()
        teacher = of_target(log_softened(teacher_logits), targets).exp()
        target = -(teacher * of_target(log_softened(student_logits), targets)).mean()
        others = log_softened(without_target(teacher_logits, targets), teacher_temperature).exp()
        student = log_softened(without_target(student_logits, targets), student_temperature)
        rest = -(others * student).sum(dim=1).mean()
        factor = detached_factor(teacher_temperature, student_temperature)
        return target + self.config.rest_weight * factor * rest
