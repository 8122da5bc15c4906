"""Losses that compare each stage of the student with the teacher's at the same depth."""

from __future__ import annotations

from torch import Tensor

from search.features.contract import FeatureLossModule, Pair, Seen


class StagePairLoss(FeatureLossModule):
    """Base of those that go through the matched stages, shallow ones first."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.matched = pair.matched_stages()
        self.student_taps = sorted({student.index for student, _ in self.matched})
        self.teacher_taps = sorted({teacher.index for _, teacher in self.matched})

    def maps(self, seen: Seen) -> list[tuple[Tensor, Tensor]]:
        """Of each matched pair the student's (B, Cs, Hs, Ws) and the teacher's (B, Ct, Ht, Wt)."""
        return [
            (seen.student.maps[student.index], seen.teacher.maps[teacher.index].detach())
            for student, teacher in self.matched
        ]


def size_of(feature_map: Tensor) -> tuple[int, int]:
    """Height and width."""
    height, width = feature_map.shape[-2:]
    return height, width
