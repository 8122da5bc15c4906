"""Images read at their own offsets, in one gather, and brought to the unit range and back."""

from __future__ import annotations

import torch
from torch import Tensor

from search.augment.hashing import widest


def translate(images: Tensor, *, down: Tensor, right: Tensor, flip: Tensor | None, edge: bool) -> Tensor:
    """Each image (B, C, H, W) as seen from its own offset; `flip` bool (B,) mirrors it left to right.

    Output pixel (y, x) is input pixel (y + down, x + right). Outside the image lies its edge pixel repeated
    (`edge`), or zero.
    """
    batch, channels, height, width = images.shape
    columns = torch.arange(width, device=images.device).expand(batch, width)
    if flip is not None:
        columns = torch.where(flip[:, None], width - 1 - columns, columns)
    columns = columns + right[:, None]
    rows = torch.arange(height, device=images.device) + down[:, None]
    inside_rows, inside_columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    source = (inside_rows[:, :, None] * width + inside_columns[:, None, :]).reshape(batch, 1, height * width)
    moved = images.reshape(batch, channels, height * width).gather(2, source.expand(-1, channels, -1))
    if not edge:
        inside = (rows == inside_rows)[:, :, None] & (columns == inside_columns)[:, None, :]
        moved = moved * inside.reshape(batch, 1, height * width)
    return moved.reshape(images.shape)


def reach(images: Tensor, fraction: int) -> int:
    """So many pixels are this fraction of the side, at least one."""
    return max(1, images.shape[-1] // fraction)


def as_unit(images: Tensor) -> Tensor:
    """Images uint8 as float64 in [0, 1].

    In float32 the last bits of a mean or a warp depend on how many images there are, and one in some
    hundred thousand pixels would round to another value with the batch.
    """
    # By a tensor, for CUDA multiplies by the inverse of a plain number, and operations that cut to whole
    # levels then cut other pixels than on the CPU.
    wide = images.to(widest(images.device))
    return wide / torch.full((), 255.0, dtype=wide.dtype, device=wide.device)


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded."""
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8)
