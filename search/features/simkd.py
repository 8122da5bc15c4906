"""SimKD: the student learns to feed the teacher's own classifier, and keeps it."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen, UnfitError
from search.method_card import Card, MethodConfig, Need, Owned
from search.models.embedding import EMBEDDING
from search.models.head import LinearHead
from search.models.part import PART, SharedClassifier
from search.pathways.derivatives import mean_square
from search.pathways.resizing import resize
from search.recipe import Stage
from search.registry import Kind, register


class SharedConfig(MethodConfig):
    """Settings of losses that serve the teacher's classifier."""

    factor: float = Field(
        default=2.0,
        ge=0.5,
        le=16.0,
        description="The projector's inner width is the teacher's channels divided by it: the larger, the "
        "fewer values are served.",
    )


@register(
    Kind.FEATURE_LOSS,
    "simkd",
    source="Chen et al. 2022, arXiv 2203.14001",
    card=Card(
        systems=("simkd",),
        needs=frozenset({Need.STAGE_MAPS, Need.CLASSIFIER}),
        owns=frozenset({Owned.STUDENT_LOGITS, Owned.LAST_MAP}),
        train_time_only=False,
        differences="Where the teacher's embedding is not the mean of its last map (a norm or a class token "
        "lies between), or stages are tapped before their last activation, the mean of the projected map "
        "learns the embedding itself.",
        config=SharedConfig,
    ),
)
class SharedClassifierLoss(FeatureLossModule):
    """Mean squared error of the student's projected last map to the teacher's, whose classifier it keeps.

    The student's logits are those of the teacher's frozen classifier on the mean of the projected map: no
    loss on logits and no cross-entropy belongs beside it. Projector and classifier are served with the
    student (`search.models.part.SharedClassifier`).
    """

    def __init__(self, pair: Pair, *, config: SharedConfig) -> None:
        super().__init__()
        student, head = student_and_head(pair)
        self.target = target_tap(pair)
        part = SharedClassifier(
            student.channels, head.weight.shape[1], len(head.weight), factor=config.factor
        )
        part.take(head)
        self.without_owning(part)
        self.student_taps, self.teacher_taps = (PART,), (self.target,)

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        return matching_error(seen.student.maps[PART], seen.teacher.maps[self.target].detach())


def matching_error(shown: Tensor, target: Tensor) -> Tensor:
    """0-dim: of the projected map (B, C, h, w), brought to the target's size (B, C, H, W), if that is
    smaller; else the target's to its."""
    height, width = min(shown.shape[2], target.shape[2]), min(shown.shape[3], target.shape[3])
    return mean_square(resize(shown, (height, width)) - resize(target, (height, width)))


def student_and_head(pair: Pair) -> tuple[Stage, LinearHead]:
    """The student's last stage and the teacher's classifier. Raises UnfitError."""
    student, teacher = pair.student.last("student"), pair.teacher
    if teacher.head is None:
        raise UnfitError(
            f"the classifier of the teacher {teacher.name} is not linear in its embedding: the student "
            "cannot take it over; choose another loss or another teacher"
        )
    if len(teacher.head.weight) != pair.classes:
        raise UnfitError(
            f"the teacher {teacher.name} tells {len(teacher.head.weight)} classes apart and the student "
            f"{pair.classes}; a classifier cannot be shared"
        )
    return student, teacher.head


def target_tap(pair: Pair) -> int:
    """The teacher's last stage, where the classifier sees the mean of what is tapped; else the embedding."""
    if pair.taps == "output" and pair.teacher.pools_last_map:
        return pair.teacher.last("teacher").index
    return EMBEDDING
