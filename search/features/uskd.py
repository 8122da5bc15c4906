"""Universal self-distillation: soft labels that the student makes of its own logits and of a weak head's."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.features.contract import FeatureLossModule, Pair, Seen
from search.logits.divergences import log_softened, of_target, without_target
from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register

SMOOTHING = 0.1
"""Of the weak head's labels."""


class UniversalConfig(MethodConfig):
    """Settings of universal self-distillation."""

    rest_weight: float = searched(
        0.1, low=0.02, high=0.5, ge=0.0, le=1e6, description="Of the other classes (beta)."
    )
    weak_weight: float = searched(
        0.005, low=0.001, high=0.1, ge=0.0, le=1e6, description="Of the weak head's labels (mu)."
    )


@register(
    Kind.FEATURE_LOSS,
    "uskd",
    source="Yang et al. 2023, arXiv 2303.13005 (number from memory)",
    card=Card(
        systems=("uskd",),
        teaches_logits=True,
        needs=frozenset({Need.STAGE_MAPS, Need.LABELS}),
        trains=True,
        differences="The weak head is a linear map of the averaged map of the stage before the last. The "
        "target's term has weight 1 (alpha). No teacher takes part.",
        config=UniversalConfig,
    ),
)
class UniversalSelfDistillation(FeatureLossModule):
    """Cross-entropy with soft labels: the target's by how sure the student is, the others' by their rank.

    An image on which the student is surer than on the others counts for more. The other classes, ranked by
    what the student and a weak head on an earlier stage say together, get labels after Zipf's law.
    """

    def __init__(self, pair: Pair, *, config: UniversalConfig) -> None:
        super().__init__()
        pair.student.last("student")
        stage = pair.student.stages[max(0, len(pair.student.stages) - 2)]
        self.student_taps = (stage.index,)
        self.config = config
        self.weak_head = nn.Linear(stage.channels, pair.classes)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        logits, targets = seen.student.logits, seen.targets
        weak = self.weak_head(seen.student.maps[self.student_taps[0]].mean(dim=(2, 3)))
        log_target = of_target(log_softened(logits), targets)
        target = -(target_labels(log_target) * log_target).mean()
        log_rest = log_softened(without_target(logits, targets))
        rest = -(rest_labels(logits, weak, targets) * log_rest).sum(dim=1).mean()
        learned = F.cross_entropy(weak, targets, label_smoothing=SMOOTHING)
        return target + self.config.rest_weight * rest + self.config.weak_weight * learned


def target_labels(log_target: Tensor) -> Tensor:
    """(B,), of the target's log-probability: 1 on average, more where the student is surer; no gradient."""
    sure = log_target.detach().exp().square()
    return sure + 1 - sure.mean()


def rest_labels(logits: Tensor, weak: Tensor, targets: Tensor) -> Tensor:
    """(B, K - 1): one over a class's rank by both heads' summed probabilities, in all 1; no gradient."""
    both = sum_of_shares(logits.detach(), weak.detach(), targets)
    order = both.argsort(dim=1, descending=True, stable=True)
    by_rank = 1 / (order.argsort(dim=1) + 1).to(both)
    return by_rank / by_rank.sum(dim=1, keepdim=True)


def sum_of_shares(logits: Tensor, weak: Tensor, targets: Tensor) -> Tensor:
    """(B, K - 1): both heads' probabilities of the classes that are not the target, if it is none of it."""
    shares = [log_softened(without_target(each, targets)).exp() for each in (logits, weak)]
    return torch.stack(shares).sum(dim=0)
