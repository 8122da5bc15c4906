"""Lessons of outputs at hand, and formulas in numpy, for tests of losses that look at all images first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search.features import (
    Lesson,
    ModelOutputs,
    Pair,
    Seen,
    Side,
)
from search.models.embedding import EMBEDDING
from tests.search.features.seen import (
    CLASSES,
    IMAGES,
)

Array = npt.NDArray[np.float64]
HEADS = ("pca", "random", "learned", "procrustes")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def widths(student: int, teacher: int) -> Pair:
    """A pair of models of which only the embeddings' widths are known."""
    return Pair(Side([], student, "student"), Side([], teacher, "teacher"), classes=CLASSES, images=IMAGES)


@dataclass(frozen=True)
class Given:
    """Lessons of outputs at hand, in batches of seven."""

    outputs: Mapping[str, ModelOutputs]

    def teacher(self, taps: Sequence[int]) -> Iterator[Lesson]:
        yield from self._of("teacher", taps)

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        yield from self._of("student", taps)

    def _of(self, which: str, taps: Sequence[int]) -> Iterator[Lesson]:
        all_of = self.outputs[which]
        for rows in torch.split(torch.arange(len(all_of.logits)), 7):
            maps = {tap: all_of.maps[tap][rows] for tap in taps}
            yield ModelOutputs(all_of.logits[rows], maps), rows % CLASSES, rows


def saying(embedding: Tensor) -> ModelOutputs:
    return ModelOutputs(noise(len(embedding), CLASSES, seed=8), {EMBEDDING: embedding[:, :, None, None]})


def step(student: ModelOutputs, teacher: ModelOutputs) -> Seen:
    rows = torch.arange(len(student.logits))
    return Seen(student, teacher, rows % CLASSES, rows)
