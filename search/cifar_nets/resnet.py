"""ResNets for CIFAR (He et al. 2016, section 4.2): three stages of basic blocks, 6n + 2 layers deep.

Where a block changes width or size its shortcut is a 1x1 convolution with BatchNorm, as in the distillation
literature (the paper's own CIFAR nets pad with zeros). `resnet8x4` and `resnet32x4` are four times as wide
behind a stem of 32 channels. `resnet8_w32` and `resnet8_w8` are a teacher and a student that two CPU cores
can train.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from search.cifar_nets.cifar_net import CifarNet, Part, convolution, register

STRIDES = (1, 2, 2)


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), with a projected shortcut where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, outputs, 3, stride=stride), nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2, self.bn2 = convolution(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.act2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        output: Tensor = self.act2(inner + self.shortcut(x))
        return output


class CifarResNet(CifarNet):
    """Three stages of `blocks` basic blocks, `widths` channels wide, behind a stem of `stem_width`."""

    def __init__(
        self, *, blocks: int, stem_width: int, widths: tuple[int, int, int], in_chans: int = 3, **kwargs: Any
    ) -> None:
        stem = nn.Sequential(convolution(in_chans, stem_width, 3), nn.BatchNorm2d(stem_width), nn.ReLU())
        stages = [
            Part(_stage(inputs, outputs, blocks=blocks, stride=stride), outputs, reduction)
            for (inputs, outputs), stride, reduction in zip(
                pairwise((stem_width, *widths)), STRIDES, (1, 2, 4), strict=True
            )
        ]
        super().__init__(stem, stages, in_chans=in_chans, **kwargs)


def _stage(inputs: int, outputs: int, *, blocks: int, stride: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


for depth in (20, 32, 44, 56, 110):
    register(
        f"resnet{depth}_cifar",
        CifarResNet,
        blocks=(depth - 2) // 6,
        stem_width=16,
        widths=(16, 32, 64),
    )
for depth in (8, 32):
    register(
        f"resnet{depth}x4_cifar",
        CifarResNet,
        blocks=(depth - 2) // 6,
        stem_width=32,
        widths=(64, 128, 256),
    )
for width in (8, 32):
    register(
        f"resnet8_w{width}",
        CifarResNet,
        blocks=1,
        stem_width=width,
        widths=(width, 2 * width, 4 * width),
    )
