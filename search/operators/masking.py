"""Hiding a part of both maps, drawn anew at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register


class MaskConfig(MethodConfig):
    """Settings of the random mask."""

    ratio: float = searched(
        0.65, low=0.1, high=0.9, ge=0.0, le=0.99, description="The share of places that is masked, by chance."
    )


@register(
    Kind.OPERATOR,
    "random_mask",
    source="DetKDS, Li et al. 2024, released code's mask",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        config=MaskConfig,
        differences="One mask for both maps; the released code draws one for each. Of maps of one place the "
        "channels are masked.",
    ),
)
def random_mask(student_map: Tensor, teacher_map: Tensor, *, config: MaskConfig) -> tuple[Tensor, Tensor]:
    """Zero at places drawn by chance, in all channels, the same ones of both maps; else as it was.

    Drawn from torch's generators, which a step seeds. What is left keeps its size. Of maps of one place
    channels are drawn, and whole images where the maps have different channels.
    """
    kept = torch.rand(_shape(student_map, teacher_map), device=student_map.device) >= config.ratio
    return student_map * kept.to(student_map.dtype), teacher_map * kept.to(teacher_map.dtype)


def _shape(student_map: Tensor, teacher_map: Tensor) -> tuple[int, int, int, int]:
    images, channels, height, width = student_map.shape
    is_vector = height * width == 1 and teacher_map.shape[1] == channels
    return images, channels if is_vector else 1, height, width
