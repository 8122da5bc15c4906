"""ShuffleNet V1 (Zhang et al. 2018) for CIFAR: 3 groups, full width, as the distillation literature has it.

The stem is a 1x1 convolution without stride or pooling, so that the three stages of a 32x32 image work on
16x16, 8x8 and 4x4 maps. Unlike in the paper a ReLU follows the 3x3 convolution too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from search.cifar_nets.cifar_net import CifarNet, Part, convolution, register

STEM_WIDTH = 24
WIDTHS = (240, 480, 960)
BLOCKS = (4, 8, 4)
GROUPS = 3


class ChannelShuffle(nn.Module):
    """Channel c of group g becomes channel g of group c, so that the next groups see all of these."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        grouped = x.reshape(count, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(x.shape)


class ShuffleBlock(nn.Module):
    """Grouped 1x1, shuffle, 3x3 per channel, grouped 1x1; added to x, or at stride 2 put beside pooled x."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, groups: int) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        inner = own // 4
        # The first block of all reads the stem, too thin to be divided.
        first = 1 if inputs == STEM_WIDTH else groups
        self.inner = nn.Sequential(
            convolution(inputs, inner, 1, groups=first),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            ChannelShuffle(first),
            convolution(inner, inner, 3, stride=stride, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            convolution(inner, own, 1, groups=groups),
            nn.BatchNorm2d(own),
        )
        self.pool = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        joined = inner + x if self.pool is None else torch.cat([inner, self.pool(x)], dim=1)
        output: Tensor = self.act(joined)
        return output


class CifarShuffleNetV1(CifarNet):
    """Three stages of shuffle blocks behind a 1x1 stem."""

    def __init__(
        self, *, widths: tuple[int, int, int], blocks: tuple[int, int, int], groups: int, **kwargs: Any
    ) -> None:
        stem = nn.Sequential(
            convolution(kwargs.get("in_chans", 3), STEM_WIDTH, 1), nn.BatchNorm2d(STEM_WIDTH), nn.ReLU()
        )
        stages = [
            Part(_stage(inputs, outputs, blocks=count, groups=groups), outputs, reduction)
            for (inputs, outputs), count, reduction in zip(
                pairwise((STEM_WIDTH, *widths)), blocks, (2, 4, 8), strict=True
            )
        ]
        super().__init__(stem, stages, **kwargs)


def _stage(inputs: int, outputs: int, *, blocks: int, groups: int) -> nn.Sequential:
    rest = (ShuffleBlock(outputs, outputs, stride=1, groups=groups) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleBlock(inputs, outputs, stride=2, groups=groups), *rest)


register("shufflenetv1_cifar", CifarShuffleNetV1, widths=WIDTHS, blocks=BLOCKS, groups=GROUPS)
