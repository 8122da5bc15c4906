"""Maps cut into square cells."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def in_cells(feature_map: Tensor, side: int, *, fill: float = 0.0) -> Tensor:
    """(B, C, rows, side, columns, side) of a map (B, C, H, W); what sides lack at the lower and right edges
    is filled.
    """
    images, channels, height, width = feature_map.shape
    filled = functional.pad(feature_map, (0, -width % side, 0, -height % side), value=fill)
    return filled.reshape(images, channels, -(-height // side), side, -(-width // side), side)
