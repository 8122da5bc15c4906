"""Images that a file holds as one array, brought to one side and number of channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_AT_A_TIME = 1000  # images in floating point together
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow turns colours into greys


def brought_to(images: Tensor, *, size: int, channels: int) -> Tensor:
    """uint8 (N, C, H, W) as uint8 (N, channels, size, size): the middle square, resized by averaging."""
    side = min(images.shape[-2:])
    top, left = (images.shape[-2] - side) // 2, (images.shape[-1] - side) // 2
    middle = images[..., top : top + side, left : left + side]
    if (side, images.shape[1]) == (size, channels):
        return middle.contiguous()
    return torch.cat([_converted(part, size, channels) for part in torch.split(middle, _AT_A_TIME)])


def _converted(images: Tensor, size: int, channels: int) -> Tensor:
    if channels == images.shape[1] and images.shape[-1] == size:
        return images
    values = images.float()
    if images.shape[1] == 3 and channels == 1:
        values = torch.einsum("nchw,c->nhw", values, torch.tensor(_LUMINANCE))[:, None]
    if values.shape[-1] != size:
        values = functional.interpolate(
            values, size=(size, size), mode="bilinear", antialias=size < values.shape[-1]
        )
    return values.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
