"""Balance divergence: the reverse divergence beside a logit loss, for what the teacher holds unlikely."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.divergences import divergence, log_softened
from search.logits.wrapping import WrappingConfig, inside
from search.method_card import Card, Evidence, Need, searched
from search.registry import Kind, register


class BalanceConfig(WrappingConfig):
    """The loss inside, and the reverse part."""

    reverse_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0, description="Of the reverse divergence beside the loss inside (beta)."
    )
    reverse_temperature: float = searched(
        2.0,
        low=1.0,
        high=8.0,
        gt=0,
        description="Of both models in the reverse divergence; at most the process's as a rule.",
    )


@register(
    Kind.LOGIT_LOSS,
    "balance_divergence",
    source="Balance Divergence Distillation 2025, arXiv 2501.07804",
    card=Card(
        systems=("balance_divergence",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        config=BalanceConfig,
        differences="The structure is the abstract's; weight and temperature of the reverse part are ours. "
        "Any logit loss can stand where the paper has KD.",
    ),
)
class BalanceDivergence(nn.Module):
    """A logit loss (`of`, by default kd) + beta * T_r^2 * mean of KL(p_s || p_t), both at temperature T_r.

    Where the teacher holds a class unlikely and the student does not, the forward divergence says little; the
    reverse one grows with the logarithm of the ratio.
    """

    def __init__(self, config: BalanceConfig) -> None:
        super().__init__()
        self.config = config
        self.loss = inside(config, wrapper="balance_divergence")

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        teacher_temperature: Tensor,
        student_temperature: Tensor,
        targets: Tensor | None = None,
    ) -> Tensor:
        """The loss, 0-dim; targets (B,) are classes."""
        temperature = self.config.reverse_temperature
        student = log_softened(student_logits, temperature)
        reverse = divergence(student, log_softened(teacher_logits.detach(), temperature)).mean()
        forward: Tensor = self.loss(
            student_logits,
            teacher_logits,
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            targets=targets,
        )
        return forward + self.config.reverse_weight * temperature**2 * reverse
