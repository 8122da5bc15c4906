"""Masked generative distillation: the teacher's map, made of half of the student's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.features.contract import FeatureLossModule, Pair, Seen
from search.features.stage_pairs import size_of
from search.method_card import Card, MethodConfig, Need, searched
from search.pathways.resizing import at_smaller_size
from search.registry import Kind, register


class MaskedConfig(MethodConfig):
    """Settings of masked generative distillation."""

    mask_ratio: float = searched(
        0.5, low=0.1, high=0.75, ge=0.0, le=0.95, description="Share of places of the student's map masked."
    )


@register(
    Kind.FEATURE_LOSS,
    "masked_generative",
    source="Yang et al. 2022, arXiv 2205.01529",
    card=Card(
        systems=("masked_generative",),
        needs=frozenset({Need.STAGE_MAPS}),
        trains=True,
        differences="The mean over elements, not their sum over the batch size. The student's "
        "map always goes through a 1x1 convolution. Of maps of one place the channels are masked.",
        config=MaskedConfig,
    ),
)
class MaskedGeneration(FeatureLossModule):
    """Squared differences between the teacher's last map and what two convolutions make of a masked one.

    Each place of the student's aligned last map is masked by chance, in all channels at once.
    """

    def __init__(self, pair: Pair, *, config: MaskedConfig) -> None:
        super().__init__()
        student, teacher = pair.last_stages()
        self.student_taps, self.teacher_taps = (student.index,), (teacher.index,)
        self.ratio = config.mask_ratio
        self.align = nn.Conv2d(student.channels, teacher.channels, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher.channels, teacher.channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher.channels, teacher.channels, 3, padding=1),
        )

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        teacher = seen.teacher.maps[self.teacher_taps[0]].detach()
        aligned = at_smaller_size(self.align, seen.student.maps[self.student_taps[0]], size_of(teacher))
        generated = self.generate(aligned * mask_of(aligned, self.ratio))
        apart: Tensor = generated - teacher
        return apart.square().mean()


def mask_of(feature_map: Tensor, ratio: float) -> Tensor:
    """0 with that probability, else 1: (B, 1, H, W) for a map (B, C, H, W), (B, C, 1, 1) for one place."""
    images, channels, height, width = feature_map.shape
    shape = (images, channels, 1, 1) if height * width == 1 else (images, 1, height, width)
    kept: Tensor = torch.rand(shape, device=feature_map.device) >= ratio
    return kept.to(feature_map.dtype)
