"""Low temperature distillation: soft labels of an ordinary teacher, kept under attack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from search.features.contract import Before, Extra, FeatureLossModule, Pair, Seen
from search.logits.divergences import divergence, log_softened
from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.registry import Kind, register

LEVELS = 255


class LowTemperatureConfig(MethodConfig):
    """Settings of low temperature distillation."""

    temperature: float = searched(
        2.0,
        low=1.0,
        high=10.0,
        ge=0.01,
        le=100.0,
        description="Of the teacher's probabilities; the student's is 1.",
    )
    radius_levels: float = searched(
        8.0, low=1.0, high=16.0, gt=0.0, le=255.0, description="Largest change of a pixel, in levels of 255."
    )
    step_levels: float = Field(
        default=2.0, gt=0.0, le=255.0, description="Change of a pixel in one step of the attack."
    )
    steps: int = Field(
        default=3, ge=1, le=100, description="Of the attack: a pass of the student there and back each."
    )
    form: Literal["direct", "trades"] = Field(
        default="direct",
        description="direct: the soft labels on attacked images; trades: on the images as they are, and the "
        "student's divergence from these to the attacked.",
    )
    trades_weight: float = Field(
        default=6.0, ge=0.0, le=1e6, description="Of that divergence, in the form trades."
    )


@register(
    Kind.FEATURE_LOSS,
    "ltd",
    source="Low Temperature Distillation, arXiv 2111.02331",
    card=Card(
        systems=("ltd",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS, Need.VIEWS}),
        teaches_logits=True,
        differences="The teacher's temperature was not read; 2 is ours. The attack takes 3 steps, not 10, "
        "against the student in training mode. Attacked images pass by themselves: BatchNorm normalises "
        "them apart, and its running statistics are those of plain images. Adversarial weight perturbation "
        "is left out. The process's own cross-entropy, on plain images and labels, stays beside it.",
        config=LowTemperatureConfig,
    ),
)
class LowTemperature(FeatureLossModule):
    """Cross-entropy of the teacher's probabilities, mildly softened, with the student's on attacked images.

    The teacher sees the images as they are. The attack (PGD, Madry et al. 2018, from a random start) changes
    each pixel by no more than the radius to raise the loss; in the form of TRADES, the student's divergence.
    """

    needs_extra = True

    def __init__(self, pair: Pair, *, config: LowTemperatureConfig) -> None:
        super().__init__()
        self.config = config

    def extra(self, before: Before) -> Extra:
        """The attacked images, one view of each."""
        aim = self.labels(before.teacher.logits)
        if self.config.form == "trades":
            aim = log_softened(before.ask_student(before.images)).exp()
        attacked = attack(
            before.images,
            aim,
            ask=before.ask_student,
            radius=self.config.radius_levels / LEVELS,
            step=self.config.step_levels / LEVELS,
            steps=self.config.steps,
        )
        return Extra(attacked[:, None])

    def labels(self, logits: Tensor) -> Tensor:
        """The teacher's probabilities (B, K)."""
        return log_softened(logits.detach(), self.config.temperature).exp()

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        assert seen.views is not None
        labels = self.labels(seen.teacher.logits)
        plain, attacked = log_softened(seen.student.logits), log_softened(seen.views.logits)
        if self.config.form == "direct":
            return cross_entropies(labels, attacked).mean()
        apart = divergence(plain, attacked).mean()
        return cross_entropies(labels, plain).mean() + self.config.trades_weight * apart


def cross_entropies(labels: Tensor, log_probabilities: Tensor) -> Tensor:
    """(B,), of probabilities (B, K) and log-probabilities."""
    return -(labels * log_probabilities).sum(dim=1)


def attack(
    images: Tensor,
    labels: Tensor,
    *,
    ask: Callable[[Tensor], Tensor],
    radius: float,
    step: float,
    steps: int,
) -> Tensor:
    """Images (B, C, H, W) in [0, 1], none of whose values is further than the radius from what it was, on
    which the logits that `ask` gives have a higher cross-entropy with labels (B, K)."""
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    found = (images + radius * (2 * torch.rand_like(images) - 1)).clamp(lowest, highest)
    for _ in range(steps):
        found = (found + step * rise(found, labels, ask).sign()).clamp(lowest, highest)
    return found


def rise(images: Tensor, labels: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """The cross-entropy's gradient by the images."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        total = cross_entropies(labels, log_softened(ask(leaf))).sum()
        (slope,) = torch.autograd.grad(total, leaf)
    return slope
