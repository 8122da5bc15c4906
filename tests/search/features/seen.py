"""Real pairs of models and what they say of a batch, for tests of feature losses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from pydantic import JsonValue
from torch import Tensor

from search.features import (
    Before,
    Extra,
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
from search.models.part import PART
from search.training.precision import forward_taps

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
    return outputs_of(model(name))


def outputs_of(found: TappedModel) -> ModelOutputs:
    """Of all images, with all that can be tapped."""
    part = [] if found.part is None else [PART]
    with torch.no_grad():
        logits, maps = found.forward_taps(images(), [*range(len(found.stages)), EMBEDDING, *part])
    return ModelOutputs(logits, maps)


def student_outputs(of: Pair, loss: FeatureLossModule) -> ModelOutputs:
    """Of all images, with the part that the loss gives the student, where it gives one."""
    if loss.student_part is None:
        return outputs(of.student.name)
    student = copy.deepcopy(model(of.student.name))
    student.attach(copy.deepcopy(loss.student_part))
    return outputs_of(student)


def rows_of(outputs: ModelOutputs, rows: slice | Tensor) -> ModelOutputs:
    return ModelOutputs(outputs.logits[rows], {tap: value[rows] for tap, value in outputs.maps.items()})


def asked(outputs: ModelOutputs, taps: Sequence[int], *, learning: bool = False) -> ModelOutputs:
    """Copies of what these taps give, and of the logits; to be learned where asked for."""

    def own(value: Tensor) -> Tensor:
        return value.clone().requires_grad_(learning)

    return ModelOutputs(own(outputs.logits), {tap: own(outputs.maps[tap]) for tap in taps})


def seen(of: Pair, loss: FeatureLossModule, *, rows: slice = slice(BATCH), learning: bool = False) -> Seen:
    """The batch of these rows as the loss sees it: no more than it asks for."""
    teacher = asked(rows_of(outputs(of.teacher.name), rows), loss.teacher_taps)
    extra = extra_of(of, loss, rows, teacher) if loss.needs_extra else Extra()
    return Seen(
        asked(rows_of(student_outputs(of, loss), rows), loss.student_taps, learning=learning),
        teacher,
        targets()[rows],
        torch.arange(IMAGES)[rows],
        extra,
        None if extra.views is None else views_of(of, loss, extra.views, learning=learning),
    )


def extra_of(of: Pair, loss: FeatureLossModule, rows: slice, teacher: ModelOutputs) -> Extra:
    """What the loss makes of the images of these rows, with the randomness of one seed."""

    def ask_teacher(
        given: Tensor, taps: Sequence[int], /, *, parameters: Mapping[str, Tensor] | None = None
    ) -> ModelOutputs:
        return ModelOutputs(*forward_taps(model(of.teacher.name), given, taps, parameters=parameters))

    before = Before(
        images()[rows],
        teacher,
        targets()[rows],
        torch.arange(IMAGES)[rows],
        ask_teacher,
        model(of.student.name),
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return loss.extra(before)


def views_of(of: Pair, loss: FeatureLossModule, views: Tensor, *, learning: bool) -> ModelOutputs:
    """What the student says of the views."""
    with torch.no_grad():
        logits, maps = model(of.student.name).forward_taps(views.flatten(0, 1), loss.view_taps)
    return asked(ModelOutputs(logits, maps), loss.view_taps, learning=learning)


@dataclass(frozen=True)
class GivenLessons:
    """Lessons of the pair's own outputs, in batches of eight."""

    pair: Pair
    labels: Tensor | None = None

    def teacher(
        self, taps: Sequence[int], *, change: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Lesson]:
        if change is None:
            yield from self._of(self.pair.teacher.name, taps)
            return
        for indices in torch.split(torch.arange(IMAGES), BATCH):
            with torch.no_grad():
                found = model(self.pair.teacher.name).forward_taps(change(images()[indices]), taps)
            yield ModelOutputs(*found), targets()[indices], indices

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


def changed(outputs: ModelOutputs, change: Callable[[Tensor], Tensor]) -> ModelOutputs:
    """Logits and maps, each changed."""
    return ModelOutputs(change(outputs.logits), {tap: change(each) for tap, each in outputs.maps.items()})


def student_changed(of: Seen, change: Callable[[Tensor], Tensor]) -> Seen:
    """The same step with a student that says something else, of the views too."""
    views = None if of.views is None else changed(of.views, change)
    return replace(of, student=changed(of.student, change), views=views)


def teacher_changed(of: Seen, change: Callable[[Tensor], Tensor]) -> Seen:
    """The same step with a teacher that says something else, in what the loss asked of it too."""
    tensors = {
        name: change(value) if value.is_floating_point() else value
        for name, value in of.extra.tensors.items()
    }
    return replace(of, teacher=changed(of.teacher, change), extra=Extra(of.extra.views, tensors))


def learned_parts(of: Seen) -> list[Tensor]:
    """All that the student gives in it."""
    views = [] if of.views is None else [of.views.logits, *of.views.maps.values()]
    return [of.student.logits, *of.student.maps.values(), *views]
