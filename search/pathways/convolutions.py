"""The parts that DistPro's connectors share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from search.recipe import Stage

MAX_WIDTH = 512


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Bias-free, with DistPro's start: normal of standard deviation sqrt(2 / (kernel^2 * outputs))."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(layer.weight, std=(2 / (kernel**2 * outputs)) ** 0.5)
    return layer


def width_between(student: Stage, teacher: Stage) -> int:
    """Channels between the first and the last convolution."""
    return min(MAX_WIDTH, student.channels, teacher.channels)


class Gate(nn.Module):
    """x * conv1x1(x): DistPro's "self-attention". One channel and no sigmoid, as released."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = convolution(width, 1, 1)

    def forward(self, feature_map: Tensor) -> Tensor:
        gated: Tensor = feature_map * self.convolution(feature_map)
        return gated


def nearest(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """The map at another size, every place a copy of the nearest one, as DistPro resizes."""
    if feature_map.shape[-2:] == size:
        return feature_map
    return functional.interpolate(feature_map, size=size, mode="nearest")
