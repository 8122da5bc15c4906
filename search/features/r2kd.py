"""R2KD: relations of values and of ranks, to the teacher and to a pruned copy of it."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from search.features.contract import Before, Extra, FeatureLossModule, Pair, Seen, UnfitError
from search.logits.correlation_distance import rank_distance, value_distance
from search.logits.divergences import log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.models.pruned import NoWeightsError, PrunedWeights
from search.registry import Kind, register


class TwoTeachersConfig(MethodConfig):
    """Settings of R2KD."""

    teacher_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the distance to the teacher (a)."
    )
    pruned_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the distance to the pruned teacher (b)."
    )
    pruned_share: float = searched(
        0.3,
        low=0.1,
        high=0.5,
        ge=0.0,
        le=0.99,
        description="Of the teacher's weights, the smallest, that its pruned copy lacks (rho).",
    )
    rank_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the ranks beside the values."
    )
    rank_softness: float = searched(
        0.1,
        low=0.02,
        high=1.0,
        gt=0.0,
        le=100.0,
        description="Logits' difference, in standard deviations of the image's logits, over which one rank "
        "passes into the next (delta).",
    )
    temperature: float = Field(default=4.0, ge=0.1, le=100.0, description="Of the probabilities.")


@register(
    Kind.FEATURE_LOSS,
    "r2kd",
    source="R2KD 2024, arXiv 2311.13934",
    card=Card(
        systems=("r2kd",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS, Need.TEACHER_AGAIN}),
        teaches_logits=True,
        differences="Weights, temperature, the softness of ranks and the share pruned were not read: they "
        "are ours. The second teacher is the first without the smallest weights of all its linear and "
        "convolutional layers, not trained again, BatchNorm's statistics included; it takes another pass "
        "per step. Strong augmentation is left to the job.",
        config=TwoTeachersConfig,
    ),
)
class TwoTeachers(FeatureLossModule):
    """1 - Pearson of probabilities, plus 1 - Pearson of soft ranks, to the teacher and to its pruned copy.

    Each distance lies in [0, 2]. The first is unchanged where an image's probabilities are scaled and
    shifted, the second where its logits are; as the softness goes to 0 it becomes 1 - Spearman's correlation.
    """

    needs_extra = True

    def __init__(self, pair: Pair, *, config: TwoTeachersConfig) -> None:
        super().__init__()
        self.config = config
        if pair.teacher.model is None:
            raise UnfitError(
                f"the teacher {pair.teacher.name} is not at hand; use the logit loss correlation_distance"
            )
        try:
            self.pruned = PrunedWeights(pair.teacher.model, config.pruned_share)
        except NoWeightsError as error:
            raise UnfitError(f"{error}; use the logit loss correlation_distance") from error

    def extra(self, before: Before) -> Extra:
        """What the pruned teacher says of the batch: logits (B, K)."""
        said = before.ask_teacher(before.images, (), parameters=self.pruned())
        return Extra(tensors={"pruned": said.logits})

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        to_teacher = self.distance(seen.student.logits, seen.teacher.logits.detach())
        to_pruned = self.distance(seen.student.logits, seen.extra.tensors["pruned"].detach())
        return self.config.teacher_weight * to_teacher + self.config.pruned_weight * to_pruned

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """By values and by ranks, of logits (B, K); 0-dim."""
        temperature = self.config.temperature
        by_value = value_distance(
            log_softened(student, temperature).exp(), log_softened(teacher, temperature).exp()
        )
        by_rank = rank_distance(student, teacher, self.config.rank_softness)
        return by_value + self.config.rank_weight * by_rank
