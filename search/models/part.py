"""What a student is given between its last map and its logits: trained with it, and served with it or folded.

A part belongs to the student. Its parameters are the student's, under `part.`: optimiser, hypergradient,
averages of weights and checkpoints take them along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.models.embedding import EMBEDDING
from search.models.head import LinearHead
from search.models.normalisation import Normalisation

if TYPE_CHECKING:
    from search.models.tapped import TappedModel

PART = -2
"""Asked for beside stages, it is what the part shows of itself, a map (B, C, H, W)."""

Classify = Callable[[Tensor], Tensor]
"""The network's own classifier: embeddings (B, D) to logits (B, K)."""


def embedding_tap(model: TappedModel) -> int:
    """The tap whose mean over places is what the classifier that is served sees."""
    return PART if model.part is not None and model.part.described() else EMBEDDING


class PartOutputs(NamedTuple):
    """Logits (B, K), and the map (B, C, H, W) that losses see."""

    logits: Tensor
    shown: Tensor


class StudentPart(nn.Module, ABC):
    """Base of all parts."""

    reads_embedding: bool = False
    """Whether it is given the embedding (B, D, 1, 1) instead of the last stage's map."""

    @abstractmethod
    def forward(self, given: Tensor, classify: Classify) -> PartOutputs:
        """Of the last stage's map (B, C, H, W)."""

    def folded(self, head: LinearHead) -> LinearHead | None:
        """The classifier that alone does, in evaluation mode, what the part and this one do together; None
        where there is none: then the part is served."""
        return None

    def described(self) -> dict[str, Any]:
        """The arguments with which a part that is served is made again; plain values, none for a part that
        folds."""
        return {}

    @property
    def constant_count(self) -> int:
        """Values that are served and not trained."""
        return 0


class GroupedExpansion(StudentPart):
    """NORM's transform: a 1x1 convolution to `groups` times the teacher's channels, which is shown, and one
    back, each with BatchNorm and neither with an activation, added to the map.

    In evaluation mode both are affine in the channels of a place, and so commute with the mean over places:
    they fold into a linear classifier (Liu et al. 2023).
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, groups: int, reads_embedding: bool = False
    ) -> None:
        super().__init__()
        self.reads_embedding = reads_embedding
        width = groups * teacher_channels
        self.expand = nn.Conv2d(student_channels, width, 1, bias=False)
        self.expanded = Normalisation(width)
        self.contract = nn.Conv2d(width, student_channels, 1, bias=False)
        self.contracted = Normalisation(student_channels)

    def forward(self, given: Tensor, classify: Classify) -> PartOutputs:
        """The classifier sees the mean over places of the map and what was added to it."""
        shown = self.expanded(self.expand(given))
        added = self.contracted(self.contract(shown))
        return PartOutputs(classify((given + added).mean(dim=(2, 3))), shown)

    @torch.no_grad()
    def folded(self, head: LinearHead) -> LinearHead:
        """W' = W (I + A) and b' = b + W c, in float64; A and c are the two convolutions as one affine map."""
        first, first_shift = _affine(self.expand, self.expanded)
        second, second_shift = _affine(self.contract, self.contracted)
        matrix = second @ first
        shift = second @ first_shift + second_shift
        weight, bias = head.weight.double(), head.bias.double()
        whole = weight + weight @ matrix
        return LinearHead(whole.to(head.weight), (bias + weight @ shift).to(head.bias))


def _affine(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Matrix (C_out, C_in) and shift (C_out,) of a 1x1 convolution and BatchNorm in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight.double() / (variance.double() + norm.eps).sqrt()
    matrix = convolution.weight.double().flatten(1) * scale[:, None]
    return matrix, norm.bias.double() - mean.double() * scale


class SharedClassifier(StudentPart):
    """SimKD's head: a projector to the teacher's channels, which is shown, and the teacher's classifier.

    1x1, 3x3 and 1x1 convolutions, each with BatchNorm and ReLU, through a `factor`-th of the teacher's
    channels (Chen et al. 2022). The classifier's weights are kept as they were given.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, student_channels: int, teacher_channels: int, classes: int, *, factor: float = 2.0
    ) -> None:
        super().__init__()
        self.arguments = {
            "student_channels": student_channels,
            "teacher_channels": teacher_channels,
            "classes": classes,
            "factor": factor,
        }
        width = max(1, round(teacher_channels / factor))
        self.projector = nn.Sequential(
            *_convolution(student_channels, width, 1),
            *_convolution(width, width, 3),
            *_convolution(width, teacher_channels, 1),
        )
        self.register_buffer("weight", torch.zeros(classes, teacher_channels))
        self.register_buffer("bias", torch.zeros(classes))

    def take(self, head: LinearHead) -> None:
        """Take over a classifier of equal size."""
        with torch.no_grad():
            self.weight.copy_(head.weight)
            self.bias.copy_(head.bias)

    def forward(self, given: Tensor, classify: Classify) -> PartOutputs:
        """The network's own classifier has no say."""
        shown = self.projector(given)
        return PartOutputs(F.linear(shown.mean(dim=(2, 3)), self.weight, self.bias), shown)

    def described(self) -> dict[str, Any]:
        """Widths, classes and the factor."""
        return dict(self.arguments)

    @property
    def constant_count(self) -> int:
        """The classifier's."""
        return self.weight.numel() + self.bias.numel()


def _convolution(given: int, made: int, size: int) -> list[nn.Module]:
    return [nn.Conv2d(given, made, size, padding=size // 2, bias=False), Normalisation(made), nn.ReLU()]
