"""Wide ResNets for CIFAR (Zagoruyko and Komodakis 2016): `wrn_D_K_cifar` is D layers deep, K times as wide.

Three stages of (D - 4) / 6 pre-activation blocks, 16K, 32K and 64K channels wide; BatchNorm and ReLU behind
the last. A stage's map is a sum that no activation has touched: it is its own pre-activation. No dropout.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from search.cifar_nets.cifar_net import CifarNet, Part, convolution, register

STEM_WIDTH = 16
STRIDES = (1, 2, 2)


class PreActivationBlock(nn.Module):
    """shortcut + conv(relu(bn(conv(relu(bn(x)))))); where shapes differ a 1x1 convolution of relu(bn(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = convolution(inputs, outputs, 3, stride=stride)
        self.bn2, self.act2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = convolution(outputs, outputs, 3)
        is_same = stride == 1 and inputs == outputs
        self.shortcut = None if is_same else convolution(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act1(self.bn1(x))
        inner: Tensor = self.conv2(self.act2(self.bn2(self.conv1(activated))))
        return inner + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(CifarNet):
    """Three stages of pre-activation blocks, for D = `depth` and K = `widening`."""

    def __init__(self, *, depth: int, widening: int, in_chans: int = 3, **kwargs: Any) -> None:
        if depth % 6 != 4:
            raise ValueError(f"depth ({depth}) must be 6n + 4")
        widths = (STEM_WIDTH, 16 * widening, 32 * widening, 64 * widening)
        stages = [
            Part(_stage(inputs, outputs, blocks=(depth - 4) // 6, stride=stride), outputs, reduction)
            for (inputs, outputs), stride, reduction in zip(pairwise(widths), STRIDES, (1, 2, 4), strict=True)
        ]
        super().__init__(
            nn.Sequential(convolution(in_chans, STEM_WIDTH, 3)),
            stages,
            tail=nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU()),
            in_chans=in_chans,
            **kwargs,
        )


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    rest = (PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(PreActivationBlock(inputs, outputs, stride), *rest)


for depth, widening in ((16, 1), (16, 2), (40, 1), (40, 2)):
    register(f"wrn_{depth}_{widening}_cifar", WideResNet, depth=depth, widening=widening)
