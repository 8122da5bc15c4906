"""Self-distillation from features of several levels: the student's stages together teach each of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.features.contract import FeatureLossModule, Pair, Seen
from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.registry import Kind, register


class LevelsConfig(MethodConfig):
    """Settings of multilevel self-distillation."""

    temperature: float = searched(
        3.0, low=1.0, high=8.0, gt=0.0, le=100.0, description="Of the fused features' probabilities."
    )


@register(
    Kind.FEATURE_LOSS,
    "ml_skd",
    source="Lin and Li 2021, arXiv 2112.13642",
    card=Card(
        systems=("ml_skd",),
        teaches_logits=True,
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.STAGE_MAPS, Need.LABELS}),
        trains=True,
        differences="Classifiers and projections are linear maps of averaged stage maps. The fused features "
        "are a weighted sum whose learned weights add up to 1. No teacher takes part.",
        config=LevelsConfig,
    ),
)
class MultilevelSelfDistillation(FeatureLossModule):
    """All stages' averaged maps, fused, give logits that teach those of each stage and the student's own.

    Classifiers on the stages and on the fused features learn the labels too. Teaching does not change the
    fused features.
    """

    def __init__(self, pair: Pair, *, config: LevelsConfig) -> None:
        super().__init__()
        stages, width = pair.student.stages, pair.student.last("student").channels
        self.student_taps = [stage.index for stage in stages]
        self.temperature = config.temperature
        self.classifiers = nn.ModuleList(nn.Linear(stage.channels, pair.classes) for stage in stages)
        self.projections = nn.ModuleList(nn.Linear(stage.channels, width) for stage in stages)
        self.raw_weights = nn.Parameter(torch.zeros(len(stages)))
        self.head = nn.Linear(width, pair.classes)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        pooled = [seen.student.maps[tap].mean(dim=(2, 3)) for tap in self.student_taps]
        levels = [classify(each) for classify, each in zip(self.classifiers, pooled, strict=True)]
        return self_taught(self.fused(pooled), levels, seen.student.logits, seen.targets, self.temperature)

    def fused(self, pooled: list[Tensor]) -> Tensor:
        """Logits (B, K) of all stages' averaged maps (B, C) together."""
        projected = torch.stack(
            [project(each) for project, each in zip(self.projections, pooled, strict=True)]
        )
        weights = self.raw_weights.softmax(dim=0).to(projected)
        logits: Tensor = self.head((weights[:, None, None] * projected).sum(dim=0))
        return logits


def self_taught(
    fused: Tensor, levels: list[Tensor], student: Tensor, targets: Tensor, temperature: float
) -> Tensor:
    """0-dim, of logits (B, K): cross-entropy of all but the student's, and what the fused ones teach."""
    learned = torch.stack([F.cross_entropy(each, targets) for each in [fused, *levels]]).sum()
    return learned + taught(fused, [*levels, student], temperature)


def taught(fused: Tensor, others: list[Tensor], temperature: float) -> Tensor:
    """0-dim: T^2 KL(fused || other), summed over the others; the fused logits get no gradient."""
    target = log_softened(fused.detach(), temperature)
    losses = [divergence(target, log_softened(each, temperature)).mean() for each in others]
    return temperature**2 * torch.stack(losses).sum()
