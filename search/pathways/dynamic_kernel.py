"""Meta-KD-SR's knowledge representation: both maps through kernels that a meta-learned net chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.method_card import Card, Evidence, Need
from search.pathways.directions import directions
from search.pathways.resizing import at_smaller_size
from search.pathways.two_sided import TwoSided
from search.recipe import Stage
from search.registry import Kind, register

STATISTICS = 4
WIDTH = 16
SIDE = 3
LEAST_SIZE = 1e-6
"""Of a kernel: one that is nearly nothing is divided by this and not by its own size."""


@register(
    Kind.TRANSFORM,
    "dynamic_kernel",
    source="Meta-KD-SR, 2022, arXiv 2207.08356",
    card=Card(
        systems=("meta_kd_sr",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.STAGE_MAPS}),
        trains=True,
        differences="For classification, between maps of any two stages: a 1x1 projection, trained beside "
        "the student, goes first. Kernels are the same at all places of a channel. One small net predicts "
        "them for all channels, from four statistics of each, so that a recipe can hold it. The absolute "
        "values of a kernel add up to 1: else one that sends both maps to zero would leave no loss, and one "
        "that enlarges them would act as a learning rate. The net is moved by the exact hypergradient of "
        "steps that were taken, not of a virtual one. A replay holds it as it was in the end: its course is "
        "not recorded.",
    ),
)
class DynamicKernel(TwoSided):
    """A projection as `projection`, then a 3x3 kernel for each image and channel, on both maps.

    The kernel is predicted from the means of F_s, F_s^2, F_t F_s and (F_t F_s)^2 over the channel's places,
    each image's maps divided by their root mean square: 4 -> 16 by a hyperbolic tangent -> 9, added to the
    identity, and divided by the sum of the nine absolute values, so that it enlarges no map. The net's 233
    numbers are meta parameters. They start such that each kernel is the identity, where the loss is the plain
    distance; between maps of one place they stay there.
    """

    meta_parameters = ("enter_weight", "enter_bias", "leave_weight", "leave_bias")
    enter_weight: Tensor
    enter_bias: Tensor
    leave_weight: Tensor
    leave_bias: Tensor

    def __init__(self, student: Stage, teacher: Stage) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(student.channels, teacher.channels, kernel_size=1, bias=False)
        bound = STATISTICS**-0.5
        self.register_buffer("enter_weight", torch.empty(WIDTH, STATISTICS).uniform_(-bound, bound))
        self.register_buffer("enter_bias", torch.empty(WIDTH).uniform_(-bound, bound))
        self.register_buffer("leave_weight", torch.zeros(SIDE**2, WIDTH))
        self.register_buffer("leave_bias", torch.zeros(SIDE**2))

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        """The map (B, Ct, Ht, Wt) before its kernels, which also need the teacher's."""
        return at_smaller_size(self.convolution, student_map, teacher_shape[1:])

    def both(self, student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides (B, Ct, Ht, Wt), through the same kernels."""
        _, channels, height, width = teacher_map.shape
        projected = self(student_map, (channels, height, width))
        kernels = self.kernels(projected, teacher_map)
        return convolved(projected, kernels), convolved(teacher_map, kernels)

    def kernels(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """(B, C, 9), of two maps (B, C, H, W); nine numbers row by row, whose absolute values add up to 1."""
        found = statistics(student_map, teacher_map)
        hidden = functional.linear(found, self.enter_weight, self.enter_bias).tanh()
        added = functional.linear(hidden, self.leave_weight, self.leave_bias)
        identity = functional.pad(added.new_ones(1), [SIDE**2 // 2] * 2)
        kernels = identity + added
        return kernels / kernels.abs().sum(dim=2, keepdim=True).clamp(min=LEAST_SIZE)


def statistics(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """(B, C, 4): how strong a channel is on the student's side, and how far it agrees with the teacher's.

    Squares enter by log(1 + x): a channel that alone is active has very large ones.
    """
    student, teacher = _at_unit_size(student_map), _at_unit_size(teacher_map)
    product = student * teacher
    means = [
        student.mean(dim=2),
        student.square().mean(dim=2).log1p(),
        product.mean(dim=2),
        product.square().mean(dim=2).log1p(),
    ]
    return torch.stack(means, dim=2)


def _at_unit_size(feature_map: Tensor) -> Tensor:
    """(B, C, H * W): each image's map over its root mean square."""
    flat = feature_map.flatten(1)
    length: float = flat.shape[1] ** 0.5
    return (directions(flat) * length).view(*feature_map.shape[:2], -1)


def convolved(feature_map: Tensor, kernels: Tensor) -> Tensor:
    """A map (B, C, H, W), each channel of each image with its own kernel of (B, C, 9); zeros around it.

    Summed over shifted maps: the second derivative of a convolution of as many groups as there are channels
    and images goes through them one by one.
    """
    height, width = feature_map.shape[-2:]
    padded = functional.pad(feature_map, [SIDE // 2] * 4)
    total = torch.zeros_like(feature_map)
    for place, kernel in enumerate(kernels.unsqueeze(-1).unsqueeze(-1).unbind(dim=2)):
        row, column = divmod(place, SIDE)
        total = total + kernel * padded[:, :, row : row + height, column : column + width]
    return total
