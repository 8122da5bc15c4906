"""Real pairs of models and what they say of a batch, for tests of feature losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from pydantic import JsonValue
from torch import Tensor

from search.features import (
    FeatureLossModule,
    Lesson,
    ModelOutputs,
    Pair,
    Seen,
    build_feature_loss,
    pair_of,
)
from search.models import TappedModel, build_model
from search.models.embedding import EMBEDDING

CLASSES, IMAGES, BATCH, SIZE = 5, 24, 8, 32
PAIRS = {
    "cnn": ("test_resnet", "resnet8_w8"),
    "vit": ("test_vit3", "test_vit"),
    "mixed": ("test_vit3", "test_convnext"),
}
"""Teacher and student."""


@lru_cache
def model(name: str, seed: int = 0) -> TappedModel:
    found = build_model(
        name,
        classes=CLASSES,
        channels=1,
        input_size=SIZE,
        seed=seed,
        data_mean=(0.3,),
        data_std=(0.3,),
    )
    return found.double().eval()


def pair(name: str = "cnn") -> Pair:
    teacher, student = PAIRS[name]
    return pair_of(model(student), model(teacher), images=IMAGES)


def equal_pair(name: str = "resnet8_w8") -> Pair:
    return pair_of(model(name), model(name), images=IMAGES)


@lru_cache
def images() -> Tensor:
    return torch.rand(IMAGES, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@lru_cache
def targets() -> Tensor:
    return torch.arange(IMAGES) * 7 % CLASSES


@lru_cache
def outputs(name: str) -> ModelOutputs:
    """Of all images, with all that can be tapped."""
    found = model(name)
    with torch.no_grad():
        logits, maps = found.forward_taps(images(), [*range(len(found.stages)), EMBEDDING])
    return ModelOutputs(logits, maps)


def rows_of(outputs: ModelOutputs, rows: slice | Tensor) -> ModelOutputs:
    return ModelOutputs(outputs.logits[rows], {tap: value[rows] for tap, value in outputs.maps.items()})


def asked(outputs: ModelOutputs, taps: Sequence[int], *, learning: bool = False) -> ModelOutputs:
    """Copies of what these taps give, and of the logits; to be learned where asked for."""

    def own(value: Tensor) -> Tensor:
        return value.clone().requires_grad_(learning)

    return ModelOutputs(own(outputs.logits), {tap: own(outputs.maps[tap]) for tap in taps})


def seen(of: Pair, loss: FeatureLossModule, *, rows: slice = slice(BATCH), learning: bool = False) -> Seen:
    """The batch of these rows as the loss sees it: no more than it asks for."""
    return Seen(
        asked(rows_of(outputs(of.student.name), rows), loss.student_taps, learning=learning),
        asked(rows_of(outputs(of.teacher.name), rows), loss.teacher_taps),
        targets()[rows],
        torch.arange(IMAGES)[rows],
    )


@dataclass(frozen=True)
class GivenLessons:
    """Lessons of the pair's own outputs, in batches of eight."""

    pair: Pair
    labels: Tensor | None = None

    def teacher(self, taps: Sequence[int]) -> Iterator[Lesson]:
        yield from self._of(self.pair.teacher.name, taps)

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        yield from self._of(self.pair.student.name, taps)

    def _of(self, name: str, taps: Sequence[int]) -> Iterator[Lesson]:
        for indices in torch.split(torch.arange(IMAGES), BATCH):
            labels = targets() if self.labels is None else self.labels
            yield asked(rows_of(outputs(name), indices), taps), labels[indices], indices


def built(
    name: str,
    of: Pair,
    config: Mapping[str, JsonValue] | None = None,
    *,
    seed: int = 0,
    labels: Tensor | None = None,
) -> FeatureLossModule:
    """In float64, and prepared; `labels` (IMAGES,) by default are those of `targets`."""
    loss = build_feature_loss(name, config, pair=of, seed=seed).double()
    if loss.needs_lessons:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loss.prepare(GivenLessons(of, labels), seed=seed)
    return loss


def value(loss: FeatureLossModule, of: Seen, *, seed: int = 0) -> Tensor:
    """The loss with the randomness of a seed; what it keeps from step to step is left as it was."""
    buffers = {name: kept.clone() for name, kept in loss.named_buffers()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found: Tensor = torch.func.functional_call(loss, buffers, (of,))
    return found


def learned_parts(of: Seen) -> list[Tensor]:
    """All that the student gives in it."""
    return [of.student.logits, *of.student.maps.values()]
