"""The parts that DistPro's connectors share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from search.method_card import MethodConfig, searched
from search.recipe import Stage

MAX_WIDTH = 512


class WidthConfig(MethodConfig):
    """Settings of transforms of several layers."""

    width_ratio: float = searched(
        1.0,
        low=0.25,
        high=2.0,
        ge=0.01,
        le=16.0,
        description="Channels between the layers, as a part of min(512, Ct, Cs).",
    )


USUAL_WIDTH = WidthConfig()


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Bias-free, with DistPro's start: normal of standard deviation sqrt(2 / (kernel^2 * outputs))."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(layer.weight, std=(2 / (kernel**2 * outputs)) ** 0.5)
    return layer


def width_between(student: Stage, teacher: Stage, config: WidthConfig = USUAL_WIDTH) -> int:
    """Channels between the first and the last convolution."""
    return max(1, round(config.width_ratio * min(MAX_WIDTH, student.channels, teacher.channels)))


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
