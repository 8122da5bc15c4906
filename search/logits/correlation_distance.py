"""R2KD's correlation distance: the student keeps the teacher's values up to scale, and its ranking."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.logits.divergences import correlation, detached_factor, log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.registry import Kind, register

LEAST_DEVIATION = 1e-2


class CorrelationConfig(MethodConfig):
    """Weights of the parts, and how soft ranks are."""

    value_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0, description="Of the correlation of the probabilities."
    )
    rank_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0, description="Of the correlation of the ranks."
    )
    rank_softness: float = searched(
        0.1,
        low=0.02,
        high=1.0,
        gt=0,
        description="Logits' difference, in standard deviations of the image's "
        "logits, over which one rank passes into the next (delta).",
    )


@register(
    Kind.LOGIT_LOSS,
    "correlation_distance",
    source="R2KD 2024, arXiv 2311.13934",
    card=Card(
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        config=CorrelationConfig,
        differences="Weights, temperature and the softness of ranks were not read: they are ours. R2KD's "
        "pruned teacher is left out; the feature loss `r2kd` has it.",
    ),
)
class CorrelationDistance(nn.Module):
    """(1 - Pearson of probabilities) * tau_t * tau_s + (1 - Pearson of soft ranks), each a mean over images.

    The first is unchanged where an image's probabilities are scaled and shifted, the second where its logits
    are; as the softness goes to 0 it becomes 1 - Spearman's correlation, unchanged by any rising function.
    Both lie in [0, 2] before their factors.
    """

    def __init__(self, config: CorrelationConfig) -> None:
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
        teacher_logits = teacher_logits.detach()
        by_value = value_distance(
            log_softened(student_logits, student_temperature).exp(),
            log_softened(teacher_logits, teacher_temperature).exp(),
        )
        by_rank = rank_distance(student_logits, teacher_logits, self.config.rank_softness)
        factor = detached_factor(teacher_temperature, student_temperature)
        return self.config.value_weight * factor * by_value + self.config.rank_weight * by_rank


def value_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - Pearson's correlation of probabilities (B, K), the mean over images; 0-dim, in [0, 2]."""
    return (1 - correlation(one, other)).mean()


def rank_distance(one: Tensor, other: Tensor, softness: float) -> Tensor:
    """1 - Pearson's correlation of soft ranks of logits (B, K), the mean over images; 0-dim, in [0, 2]."""
    return (1 - correlation(soft_ranks(one, softness), soft_ranks(other, softness))).mean()


def soft_ranks(logits: Tensor, softness: float) -> Tensor:
    """1 + the sum of sigmoid((z_i - z_j) / (softness * deviation)) over the other classes j, (B, K).

    The deviation is that of the image's logits, so that a scaled row has the same ranks; at least 0.01, so
    that the ranks of a constant row are all the same. Takes memory for B * K * K numbers.
    """
    variance = logits.var(dim=1, correction=0).clamp(min=LEAST_DEVIATION**2)
    differences = (logits[:, :, None] - logits[:, None, :]) / (softness * variance.sqrt())[:, None, None]
    return 0.5 + torch.sigmoid(differences).sum(dim=2)
