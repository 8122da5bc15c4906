"""ScaleKD: maps in two views through cross-attention, and the student seen by the teacher's last stage."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen, Side, UnfitError
from search.method_card import Card, MethodConfig, Need, searched
from search.models.tail import NoTailError, Tail
from search.pathways.cross_attention import CrossAttention
from search.pathways.derivatives import mean_square
from search.pathways.directions import SHORTEST, directions, scaled
from search.recipe import Stage
from search.registry import Kind, register

FAINT = 1e-4
"""Of a map less its mean, as a part of the map: below is rounding, which has no direction."""


class ScaleConfig(MethodConfig):
    """Settings of ScaleKD."""

    whole_weight: float = searched(
        0.08, low=0.01, high=1.0, ge=0.0, le=1e6, description="Of the maps as they are."
    )
    pattern_weight: float = searched(
        0.06, low=0.01, high=1.0, ge=0.0, le=1e6, description="Of the maps less each channel's mean."
    )
    perceive_teacher: bool = Field(
        default=True,
        description="Whether the student's last stage but one is also taught by what the rest of the teacher "
        "makes of it; takes another pass of the teacher per step.",
    )


@register(
    Kind.FEATURE_LOSS,
    "scalekd",
    source="Fan et al. 2024, arXiv 2411.06786",
    card=Card(
        systems=("scalekd",),
        needs=frozenset({Need.STAGE_MAPS, Need.TEACHER_TAIL}),
        trains=True,
        differences="The projectors' queries are the student's tokens and places, not learned ones, and have "
        "neither convolution nor feed-forward layer; the last stage's do not start from the stage before. "
        "Both views of what the teacher makes of the student's map share a projector; it is compared behind "
        "the last activation, and has the class tokens of a black image. Distances are means over places. "
        "A map of one place keeps its mean.",
        config=ScaleConfig,
    ),
)
class ScaleDistillation(FeatureLossModule):
    """Squared differences of directions along the channels: of last maps, and of last maps less their mean.

    The student's map is projected by cross-attention, for each view by its own. Its last stage but one is
    projected to the teacher's, goes through the rest of the frozen teacher, and is compared in the same way.
    """

    def __init__(self, pair: Pair, *, config: ScaleConfig) -> None:
        super().__init__()
        self.config = config
        student, teacher = pair.last_stages()
        self.last = student.index, teacher.index
        self.whole, self.pattern = CrossAttention(student, teacher), CrossAttention(student, teacher)
        self.student_taps, self.teacher_taps = [student.index], [teacher.index]
        self.tail: Tail | None = None
        if config.perceive_teacher:
            before, entry = last_but_one(pair.student, "student"), last_but_one(pair.teacher, "teacher")
            self.tail = tail_of(pair.teacher, entry)
            self.entering = CrossAttention(before, entry)
            self.student_taps = [before.index, student.index]

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        student, teacher = seen.student.maps[self.last[0]], seen.teacher.maps[self.last[1]].detach()
        channels, height, width = teacher.shape[1:]
        shape = (channels, height, width)
        loss = self._mimicking(self.whole(student, shape), self.pattern(student, shape), teacher)
        if self.tail is None:
            return loss
        projected = self.entering(seen.student.maps[self.student_taps[0]], self.tail.shape)
        perceived = self.tail(projected)
        return loss + self._mimicking(perceived, perceived, teacher)

    def _mimicking(self, whole: Tensor, pattern: Tensor, teacher: Tensor) -> Tensor:
        """Of the teacher's map, in both views."""
        by_whole = apart(whole_directions(whole), whole_directions(teacher))
        by_pattern = apart(pattern_directions(pattern), pattern_directions(teacher))
        return self.config.whole_weight * by_whole + self.config.pattern_weight * by_pattern


def apart(one: Tensor, other: Tensor) -> Tensor:
    """0-dim: squared differences of directions (B, H, W, C), summed over the channels, mean over places."""
    return mean_square(one - other) * one.shape[-1]


def whole_directions(feature_map: Tensor) -> Tensor:
    """(B, H, W, C): of each place along the channels."""
    return directions(feature_map.movedim(1, -1))


def pattern_directions(feature_map: Tensor) -> Tensor:
    """(B, H, W, C): of the map less its mean; short where that is faint."""
    values = scaled(feature_map)
    rest = without_mean(values).movedim(1, -1)
    squared = rest.square().sum(dim=-1, keepdim=True)
    of_map = values.detach().square().sum(dim=1).mean()
    kept = torch.maximum(squared, SHORTEST**2 * squared.detach().mean())
    kept = torch.maximum(kept, FAINT**2 * of_map)
    return rest / torch.where(kept > 0, kept, torch.ones_like(kept)).sqrt()


def without_mean(feature_map: Tensor) -> Tensor:
    """A map less each channel's mean over its places, as without the DC of its cosine transform."""
    if feature_map.shape[-2:].numel() == 1:
        return feature_map
    return feature_map - feature_map.mean(dim=(2, 3), keepdim=True)


def last_but_one(side: Side, role: str) -> Stage:
    """The stage before the last. Raises UnfitError."""
    if len(side.stages) < 2:
        raise UnfitError(f"the {role} {side.name} has one stage only; switch perceive_teacher off")
    return side.stages[-2]


def tail_of(teacher: Side, entry: Stage) -> Tail:
    """The rest of the teacher behind that stage. Raises UnfitError."""
    if teacher.model is None:
        raise UnfitError(f"the teacher {teacher.name} is not at hand; switch perceive_teacher off")
    try:
        return Tail(teacher.model, entry.index)
    except NoTailError as error:
        raise UnfitError(f"{error}; switch perceive_teacher off") from error
