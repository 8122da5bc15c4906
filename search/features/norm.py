"""NORM: many copies of the teacher's last map inside a linear layer that folds away."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen, UnfitError
from search.method_card import Card, MethodConfig, Need, Owned
from search.models.part import PART, GroupedExpansion
from search.pathways.derivatives import mean_square
from search.pathways.resizing import resize
from search.registry import Kind, register


class NormConfig(MethodConfig):
    """Settings of NORM."""

    groups: int = Field(
        default=4, ge=1, le=64, description="Copies of the teacher's channels that the student makes."
    )


@register(
    Kind.FEATURE_LOSS,
    "norm",
    source="Liu et al. 2023, ICLR, N-to-One Representation Matching",
    card=Card(
        systems=("norm",),
        needs=frozenset({Need.STAGE_MAPS, Need.CLASSIFIER}),
        owns=frozenset({Owned.LAST_MAP}),
        differences="Logits are not normalised before cross-entropy and KD. The weight's schedule is the "
        "process's. Where the student's classifier sees something else than the mean of its last map (a norm "
        "or a class token lies between), the layer stands before the classifier and expands the embedding.",
        config=NormConfig,
    ),
)
class ManyToOneMatching(FeatureLossModule):
    """Mean squared error of each group of the student's expanded last map to the teacher's, summed.

    The student's last map goes through a 1x1 convolution to `groups` times the teacher's channels and one
    back, each with BatchNorm, and is added to what comes out: `search.models.part.GroupedExpansion`, which
    the exported student has folded into its classifier. A larger map of the teacher is max-pooled to the
    student's size; to a smaller one the student's is averaged. Only students whose classifier is linear: into
    others the layer does not fold.
    """

    def __init__(self, pair: Pair, *, config: NormConfig) -> None:
        super().__init__()
        teacher = pair.teacher.last("teacher")
        width = folding_width(pair)
        self.groups = config.groups
        reads_embedding = not pair.student.pools_last_map
        self.without_owning(
            GroupedExpansion(width, teacher.channels, groups=config.groups, reads_embedding=reads_embedding)
        )
        self.student_taps, self.teacher_taps = (PART,), (teacher.index,)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        shown = seen.student.maps[PART]
        teacher = seen.teacher.maps[self.teacher_taps[0]].detach()
        return grouped_error(shown, teacher, groups=self.groups)


def grouped_error(shown: Tensor, teacher: Tensor, *, groups: int) -> Tensor:
    """0-dim: the mean squared error of each group of channels of (B, N * C, h, w) to (B, C, H, W), summed."""
    if teacher.shape[2] > shown.shape[2] or teacher.shape[3] > shown.shape[3]:
        size = (min(shown.shape[2], teacher.shape[2]), min(shown.shape[3], teacher.shape[3]))
        teacher = F.adaptive_max_pool2d(teacher, size)
    shown = resize(shown, (teacher.shape[2], teacher.shape[3]))
    return groups * mean_square(shown - teacher.repeat(1, groups, 1, 1))


def folding_width(pair: Pair) -> int:
    """Of the embedding that the student's classifier is linear in. Raises UnfitError."""
    pair.student.last("student")
    if pair.student.head is None:
        raise UnfitError(
            f"the classifier of the student {pair.student.name} is not linear in its embedding: NORM's layer "
            "does not fold into it; choose another loss or another student"
        )
    return pair.student.head.weight.shape[1]
