"""Channels that mean the same: the teacher's, put in the order of the student's."""

from __future__ import annotations

import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from search.features.contract import FeatureLossModule, Lessons, Pair, Seen
from search.method_card import Card, Evidence, MethodConfig, Need
from search.pathways.resizing import resize
from search.registry import Kind, register

NONE = -1
"""In the place of a teacher's channel."""
LEAST_SPREAD = 0.01
"""Of a channel's standard deviation, as a part of all channels' root mean square."""


class ChannelConfig(MethodConfig):
    """Settings of channel matching."""

    refresh_epochs: int = Field(
        default=10, ge=1, le=100_000, description="Channels are matched anew after so many epochs."
    )


@register(
    Kind.FEATURE_LOSS,
    "kcd",
    source="Han et al. 2021, arXiv 2103.16844",
    card=Card(
        systems=("kcd",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="One-to-one matching by signed correlation on all training images, every few epochs. The "
        "student's channels that are left over, where the teacher has fewer, are not taught.",
        config=ChannelConfig,
    ),
)
class MatchedChannels(FeatureLossModule):
    """Squared differences between the student's channels and those of the teacher that correlate with them.

    At every stage each of the student's channels gets one of the teacher's, no two the same, so that the
    sum of correlations is largest. Differences are in units of the standard deviation of the teacher's
    channel; the larger map is brought to the size of the smaller.
    """

    needs_lessons = True

    def __init__(self, pair: Pair, *, config: ChannelConfig) -> None:
        super().__init__()
        self.lessons_every_epochs = config.refresh_epochs
        self.connected = [(student.index, teacher.index) for student, teacher in pair.matched_stages()]
        self.student_taps = sorted({student for student, _ in self.connected})
        self.teacher_taps = sorted({teacher for _, teacher in self.connected})
        for place, (student, _) in enumerate(pair.matched_stages()):
            self.register_buffer(f"chosen_{place}", torch.full((student.channels,), NONE))
            self.register_buffer(f"spread_{place}", torch.ones(student.channels))

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Match the channels as the student has them now."""
        moments = [Moments() for _ in self.connected]
        both = zip(lessons.student(self.student_taps), lessons.teacher(self.teacher_taps), strict=True)
        for (student, _, _), (teacher, _, _) in both:
            for moment, (one, other) in zip(moments, self.connected, strict=True):
                moment.add(*same_size(student.maps[one], teacher.maps[other]))
        for place, moment in enumerate(moments):
            chosen = matched(moment.correlations())
            self.keep(f"chosen_{place}", chosen)
            self.keep(f"spread_{place}", moment.teacher_spread()[chosen.clamp(min=0)])

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        losses = []
        for place, (one, other) in enumerate(self.connected):
            student, teacher = same_size(seen.student.maps[one], seen.teacher.maps[other].detach())
            chosen, spread = self.get_buffer(f"chosen_{place}"), self.get_buffer(f"spread_{place}")
            apart = (student - teacher[:, chosen.clamp(min=0)]) / spread[:, None, None]
            by_channel = apart.square().mean(dim=(0, 2, 3))
            taught = (chosen != NONE).to(by_channel)
            losses.append((by_channel * taught).sum() / taught.sum().clamp(min=1))
        return torch.stack(losses).mean()


class Moments:
    """Sums over places and images, in float64, of two maps' channels and of their products."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None
        self.products: Tensor | None = None
        self.students = 0

    def add(self, student: Tensor, teacher: Tensor) -> None:
        """Maps (B, Cs, H, W) and (B, Ct, H, W)."""
        values = torch.cat([student, teacher], dim=1).detach().movedim(1, -1).flatten(0, 2).cpu().double()
        sums, products = values.sum(dim=0), values.T @ values
        self.count, self.students = self.count + len(values), student.shape[1]
        self.sums = sums if self.sums is None else self.sums + sums
        self.products = products if self.products is None else self.products + products

    def _covariance(self) -> Tensor:
        assert self.sums is not None
        assert self.products is not None
        mean = self.sums / self.count
        return self.products / self.count - mean[:, None] * mean

    def correlations(self) -> Tensor:
        """(Cs, Ct); 0 where a channel is constant."""
        covariance = self._covariance()
        spread = guarded(covariance.diagonal())
        return (covariance / spread[:, None] / spread)[: self.students, self.students :]

    def teacher_spread(self) -> Tensor:
        """Standard deviations (Ct,), none much smaller than the others."""
        return guarded(self._covariance().diagonal()[self.students :])


def guarded(variances: Tensor) -> Tensor:
    """Their roots, none below a part of the root of their mean; 1 where all are 0."""
    least = LEAST_SPREAD**2 * variances.mean()
    return torch.where(least > 0, torch.maximum(variances, least), torch.ones_like(variances)).sqrt()


def matched(correlations: Tensor) -> Tensor:
    """Of each of the student's channels the teacher's, (Cs,), where (Cs, Ct) add up to the most; else -1."""
    rows, columns = linear_sum_assignment(correlations.nan_to_num().numpy(), maximize=True)
    chosen = torch.full((len(correlations),), NONE)
    chosen[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return chosen


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the smaller height and width."""
    height, width = (min(sides) for sides in zip(student.shape[-2:], teacher.shape[-2:], strict=True))
    return resize(student, (height, width)), resize(teacher, (height, width))
