"""ShuffleNet V2 (Ma et al. 2018) at full width for CIFAR, as the distillation literature trains it.

The stem is a 1x1 convolution without stride or pooling, so that the three stages of a 32x32 image work on
16x16, 8x8 and 4x4 maps; a 1x1 convolution to 1024 channels stands before the pooling.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from search.cifar_nets.cifar_net import CifarNet, Part, convolution, register
from search.cifar_nets.shufflenetv1 import ChannelShuffle

STEM_WIDTH = 24
WIDTHS = (116, 232, 464)
BLOCKS = (4, 8, 4)
FEATURES = 1024


class SplitBlock(nn.Module):
    """Half of the channels pass untouched, the other half through three convolutions; then both are mixed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.inner = nn.Sequential(
            *_pointwise(half, half), *_depthwise(half, stride=1), *_pointwise(half, half)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        mixed: Tensor = self.shuffle(torch.cat([kept, self.inner(changed)], dim=1))
        return mixed


class DownBlock(nn.Module):
    """Both branches read all channels at stride 2, and each gives half of the new ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.short = nn.Sequential(*_depthwise(inputs, stride=2), *_pointwise(inputs, half))
        self.inner = nn.Sequential(
            *_pointwise(inputs, half), *_depthwise(half, stride=2), *_pointwise(half, half)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.shuffle(torch.cat([self.short(x), self.inner(x)], dim=1))
        return mixed


class CifarShuffleNetV2(CifarNet):
    """Three stages, each a DownBlock and SplitBlocks, behind a 1x1 stem."""

    def __init__(
        self, *, widths: tuple[int, int, int], blocks: tuple[int, int, int], in_chans: int = 3, **kwargs: Any
    ) -> None:
        stages = [
            Part(
                nn.Sequential(DownBlock(inputs, outputs), *(SplitBlock(outputs) for _ in range(count - 1))),
                outputs,
                reduction,
            )
            for (inputs, outputs), count, reduction in zip(
                pairwise((STEM_WIDTH, *widths)), blocks, (2, 4, 8), strict=True
            )
        ]
        super().__init__(
            nn.Sequential(*_pointwise(in_chans, STEM_WIDTH)),
            stages,
            tail=nn.Sequential(*_pointwise(widths[-1], FEATURES)),
            features=FEATURES,
            in_chans=in_chans,
            **kwargs,
        )


def _pointwise(inputs: int, outputs: int) -> list[nn.Module]:
    return [convolution(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _depthwise(channels: int, *, stride: int) -> list[nn.Module]:
    """A filter per channel, and BatchNorm without activation."""
    return [convolution(channels, channels, 3, stride=stride, groups=channels), nn.BatchNorm2d(channels)]


register("shufflenetv2_cifar", CifarShuffleNetV2, widths=WIDTHS, blocks=BLOCKS)
