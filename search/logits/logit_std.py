"""Logit standardisation: the student need not copy how large the teacher's logits are, only their shape."""

from __future__ import annotations

from torch import Tensor, nn

from search.logits.wrapping import WrappingConfig, inside
from search.method_card import Card, Need
from search.registry import Kind, register

LEAST_DEVIATION = 1e-2
"""Of an image's logits, below which they are divided by this. Heads that start at zero (timm's ViTs) give
constant logits, whose standardisation would multiply the first gradient by 1e7."""


@register(
    Kind.LOGIT_LOSS,
    "logit_std",
    source="Sun et al. 2024, arXiv 2403.01427",
    card=Card(
        systems=("logit_std",),
        needs=frozenset({Need.TEACHER_LOGITS}),
        temperatures=("teacher", "student"),
        zero_at_equality=True,
        config=WrappingConfig,
        differences="Any logit loss can be inside. Deviations below 0.01 count as 0.01, where the paper's "
        "code adds 1e-7 to all.",
    ),
)
class LogitStandardisation(nn.Module):
    """A logit loss (`of`, by default kd) on logits that are standardised, image by image.

    z -> (z - mean over classes) / standard deviation over classes, of student and teacher: the
    temperature of each image then is its standard deviation times the process's. Unchanged where an image's
    logits are scaled by a positive number and shifted.
    """

    def __init__(self, config: WrappingConfig) -> None:
        super().__init__()
        self.loss = inside(config, wrapper="logit_std")

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
        loss: Tensor = self.loss(
            standardised(student_logits),
            standardised(teacher_logits.detach()),
            teacher_temperature=teacher_temperature,
            student_temperature=student_temperature,
            targets=targets,
        )
        return loss


def standardised(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1 (of a sample: over K - 1); less where it is all but
    constant."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / max(1, logits.shape[1] - 1)
    return centred / variance.clamp(min=LEAST_DEVIATION**2).sqrt()
