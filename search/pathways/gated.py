"""DistPro's connector: convolutions with a spatial gate between them."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from search.recipe import Stage
from search.registry import Kind, register

MAX_WIDTH = 512


@register(Kind.TRANSFORM, "gated", source="DistPro, Deng et al. 2022, arXiv 2204.05547, released code")
class Gated(nn.Module):
    """Conv3x3-BN-ReLU, gate x * conv1x1(x), Conv3x3-BN-ReLU, nearest resize, Conv3x3-BN.

    The width between is min(512, Ct, Cs). The gate has one channel and no sigmoid, as released.
    """

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        width = min(MAX_WIDTH, student.channels, teacher.channels)
        self.enter = nn.Sequential(_convolution(student.channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.gate = _convolution(width, 1, 1)
        self.middle = nn.Sequential(_convolution(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.leave = nn.Sequential(_convolution(width, teacher.channels, 3), nn.BatchNorm2d(teacher.channels))

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt)."""
        entered = self.enter(student_map)
        middle = self.middle(entered * self.gate(entered))
        if middle.shape[-2:] != teacher_shape[1:]:
            middle = functional.interpolate(middle, size=teacher_shape[1:], mode="nearest")
        left: Tensor = self.leave(middle)
        return left


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    """Bias-free, with DistPro's start: normal of standard deviation sqrt(2 / (kernel^2 * outputs))."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=kernel // 2, bias=False)
    nn.init.normal_(convolution.weight, std=(2 / (kernel**2 * outputs)) ** 0.5)
    return convolution
