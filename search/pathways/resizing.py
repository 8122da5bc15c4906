"""Bringing a map to another spatial size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from search.pathways.derivatives import cell_means


def resize(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, C, H, W) at another size: averaged over cells where it is larger, else bilinear.

    Averaging over equal cells is used where the sizes divide: unlike adaptive pooling its gradient is
    deterministic on GPUs too.
    """
    height, width = feature_map.shape[-2:]
    if (height, width) == size:
        return feature_map
    if height % size[0] == 0 and width % size[1] == 0:
        return cell_means(feature_map, height // size[0], width // size[1])
    if is_shrinking(feature_map, size):
        return functional.adaptive_avg_pool2d(feature_map, size)
    return functional.interpolate(feature_map, size=size, mode="bilinear", align_corners=False)


def is_shrinking(feature_map: Tensor, size: tuple[int, int]) -> bool:
    """Whether that size is no larger than the map's."""
    return feature_map.shape[-2] >= size[0] and feature_map.shape[-1] >= size[1]


def at_smaller_size(affine: Callable[[Tensor], Tensor], feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """The map, mapped place by place and brought to another size, in the order that costs less.

    An affine map of the channels commutes with averaging and with interpolation, whose weights add up to 1:
    this changes the cost and not the value.
    """
    if is_shrinking(feature_map, size):
        return affine(resize(feature_map, size))
    return resize(affine(feature_map), size)
