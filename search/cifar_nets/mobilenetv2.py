"""MobileNetV2 (Sandler et al. 2018) for CIFAR, half as wide, as the distillation literature trains it.

It differs from the paper's in four things that the literature settled on: widths are halved without rounding
to eights, the stage of 24 channels keeps its size, the first block is expanded (by 1) like the others, and
the activation is ReLU. The last stage of a 32x32 image works on 2x2 maps.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from search.cifar_nets.cifar_net import CifarNet, Part, convolution, register

# (expansion, channels at full width, blocks, stride of the first) of the paper's table 2.
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
FEATURES = 1280


class InvertedResidual(nn.Module):
    """A thin map is widened, filtered channel by channel, and projected to a thin one without activation."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.widen = _unit(inputs, inner, 1)
        self.filter = _unit(inner, inner, 3, stride=stride, groups=inner)
        self.project = nn.Sequential(convolution(inner, outputs, 1), nn.BatchNorm2d(outputs))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.project(self.filter(self.widen(x)))
        return x + inner if self.has_shortcut else inner


class CifarMobileNetV2(CifarNet):
    """Four stages, each of the rows that share a size; `width` multiplies all but the last convolution's."""

    def __init__(self, *, width: float, in_chans: int = 3, **kwargs: Any) -> None:
        inputs = int(32 * width)
        stem = _unit(in_chans, inputs, 3, stride=2)
        parts: list[Part] = []
        blocks: list[nn.Module] = []
        reduction = 2
        for expansion, channels, count, stride in ROWS:
            if stride == 2:
                parts.append(Part(nn.Sequential(*blocks), inputs, reduction))
                blocks, reduction = [], 2 * reduction
            for index in range(count):
                outputs = int(channels * width)
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, stride=step, expansion=expansion))
                inputs = outputs
        parts.append(Part(nn.Sequential(*blocks), inputs, reduction))
        tail = _unit(inputs, FEATURES, 1)
        super().__init__(stem, parts, tail=tail, features=FEATURES, in_chans=in_chans, **kwargs)


def _unit(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs, kernel, stride=stride, groups=groups),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


register("mobilenetv2_050_cifar", CifarMobileNetV2, stages=4, width=0.5)
