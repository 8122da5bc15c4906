"""VGG for CIFAR (Simonyan and Zisserman 2015), with BatchNorm and one linear layer, as the literature has it.

Five stages of 3x3 convolutions, 64 to 512 channels wide. Of the paper's five poolings the first three are
kept, each at the start of the next stage, so that the last two stages work on 4x4 maps of a 32x32 image.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from search.cifar_nets.cifar_net import CifarNet, Part, register

WIDTHS = (64, 128, 256, 512, 512)
REDUCTIONS = (1, 2, 4, 8, 8)
# Convolutions per stage; the number in the name counts them and the linear layers (three in the paper).
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class CifarVGG(CifarNet):
    """Stages of so many convolutions (with bias), each followed by BatchNorm and ReLU."""

    def __init__(self, *, convolutions: tuple[int, ...], in_chans: int = 3, **kwargs: Any) -> None:
        reductions = (1, *REDUCTIONS)
        stages = [
            Part(
                _stage(inputs, outputs, count=count, is_pooled=reductions[index + 1] > reductions[index]),
                outputs,
                reductions[index + 1],
            )
            for index, ((inputs, outputs), count) in enumerate(
                zip(pairwise((in_chans, *WIDTHS)), convolutions, strict=True)
            )
        ]
        super().__init__(nn.Identity(), stages, in_chans=in_chans, **kwargs)


def _stage(inputs: int, outputs: int, *, count: int, is_pooled: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if is_pooled else []
    for width in (inputs, *[outputs] * (count - 1)):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


for layers, convolutions in CONVOLUTIONS.items():
    register(f"vgg{layers}_cifar", CifarVGG, stages=5, first_conv="stages.0.0", convolutions=convolutions)
