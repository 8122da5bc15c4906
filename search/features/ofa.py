"""One for all: exits of the student's stages, which are taught by the teacher's logits alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.features.contract import FeatureLossModule, Pair, Seen
from search.logits.divergences import log_softened
from search.method_card import Card, MethodConfig, Need, searched
from search.recipe import Stage
from search.registry import Kind, register


class ExitsConfig(MethodConfig):
    """Settings of one for all."""

    exponent: float = searched(
        1.0, low=0.5, high=2.0, gt=0.0, le=10.0, description="Above 1 the target class counts for more."
    )


@register(
    Kind.FEATURE_LOSS,
    "ofa",
    source="Hao et al. 2023, arXiv 2310.19444 (number from memory)",
    card=Card(
        systems=("ofa",),
        needs=frozenset({Need.TEACHER_LOGITS, Need.STAGE_MAPS, Need.LABELS}),
        trains=True,
        differences="One kind of exit for all architectures, the convolutional one, on every stage. It is no "
        "wider than the student's last stage; each of its maps is normalised as a whole instead of by "
        "BatchNorm. The mean over exits, not their sum. The least value that the cross-entropy can have is "
        "taken off; it has no gradient. The term on the student's own logits is left to logit losses.",
        config=ExitsConfig,
    ),
)
class ExitsToLogits(FeatureLossModule):
    """Cross-entropy of the teacher's probabilities, adapted to the target class, with each stage's exit.

    An exit halves the map once for each stage that is still to come, averages it and gives logits, so the
    models' maps need not be alike.
    """

    def __init__(self, pair: Pair, *, config: ExitsConfig) -> None:
        super().__init__()
        stages, last = pair.student.stages, pair.student.last("student")
        self.student_taps = [stage.index for stage in stages]
        self.exponent = config.exponent
        self.exits = nn.ModuleList(
            exit_of(stage, halvings=len(stages) - 1 - place, widest=last.channels, classes=pair.classes)
            for place, stage in enumerate(stages)
        )

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        target = adapted(seen.teacher.logits.detach(), seen.targets, self.exponent)
        losses = [
            excess(target, log_softened(leave(seen.student.maps[tap])))
            for tap, leave in zip(self.student_taps, self.exits, strict=True)
        ]
        return torch.stack(losses).mean()


def adapted(teacher_logits: Tensor, targets: Tensor, exponent: float) -> Tensor:
    """(p + m)^exponent - m, (B, K), of the teacher's probabilities p, with m 1 at the target and 0 else."""
    at_target = F.one_hot(targets, teacher_logits.shape[1]).to(teacher_logits)
    return (log_softened(teacher_logits).exp() + at_target) ** exponent - at_target


def excess(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """0-dim: cross-entropy with weights (B, K) of the classes, over the least there is, of shares like these.

    Where weights add up to 1 it is their divergence.
    """
    shares = target / target.sum(dim=1, keepdim=True)
    least = torch.xlogy(target, shares)
    return (least - target * log_probabilities).sum(dim=1).mean()


def exit_of(stage: Stage, *, halvings: int, widest: int, classes: int) -> nn.Sequential:
    """From a stage's map to logits (B, K); the last stage's has a 1x1 convolution only."""
    layers, width = list[nn.Module](), stage.channels
    for _ in range(halvings):
        wider = min(2 * width, max(width, widest))
        layers += [*halving(width, wider)]
        width = wider
    if not halvings:
        layers += [nn.Conv2d(width, width, 1), nn.GroupNorm(1, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def halving(width: int, wider: int) -> nn.Sequential:
    """A 3x3 convolution of stride 2, channel by channel, then a 1x1 one; a map of one place stays one."""
    return nn.Sequential(
        nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width),
        nn.Conv2d(width, wider, 1),
        nn.GroupNorm(1, wider),
        nn.ReLU(),
    )
