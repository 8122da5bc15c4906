"""Attention transfer: where a map is active, whatever its channels."""

from __future__ import annotations

import torch
from torch import Tensor

from search.registry import Kind, register

EPSILON = 1e-12


@register(Kind.DISTANCE, "attention", source="Zagoruyko, Komodakis 2017, arXiv 1612.03928")
def attention_transfer(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of the spatial activity maps; channels need not agree.

    A sample's activity map is the mean over channels of the squared activations, divided by its Euclidean
    norm. A map of one pixel says nothing: its distance is zero.
    """
    return (_activity(student_map) - _activity(teacher_map.detach())).square().mean()


def _activity(feature_map: Tensor) -> Tensor:
    """Activity maps (B, H * W) of norm 1. A silent map stays zero instead of becoming not-a-number."""
    activity = feature_map.square().mean(dim=1).flatten(1)
    # Scaled by the largest value first, so that the epsilon does not depend on the size of the activations.
    peak = activity.detach().amax(dim=1, keepdim=True)
    scaled = activity / torch.where(peak > 0, peak, torch.ones_like(peak))
    return scaled / (scaled.square().sum(dim=1, keepdim=True) + EPSILON).sqrt()
