"""What a feature loss is told of its models, and what it sees of a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from search.models import TappedModel
from search.models.embedding import EMBEDDING
from search.models.head import LinearHead, linear_head, pools_last_map
from search.models.part import StudentPart
from search.models.tapped import Taps
from search.pathway_rules import connected
from search.recipe import Stage


class UnfitError(ValueError):
    """These models cannot have this loss; the message says why, and what to do."""


@dataclass(frozen=True)
class Side:
    """One of the two models. `embedding` is its width, or None where it was not found."""

    stages: Sequence[Stage]
    embedding: int | None
    name: str
    model: TappedModel | None = field(default=None, compare=False)

    @cached_property
    def head(self) -> LinearHead | None:
        """Its classifier, where that is linear in the embedding."""
        return None if self.model is None else linear_head(self.model)

    @cached_property
    def pools_last_map(self) -> bool:
        """Whether its embedding is the mean over places of its last map."""
        return self.model is not None and pools_last_map(self.model)

    def width(self, role: str) -> int:
        """Of the embedding. Raises UnfitError."""
        if self.embedding is None:
            raise UnfitError(
                f"the embedding of the {role} {self.name} is not found; choose a loss on stage maps or logits"
            )
        return self.embedding

    def last(self, role: str) -> Stage:
        """The last stage. Raises UnfitError."""
        if not self.stages:
            raise UnfitError(
                f"the {role} {self.name} has no stages to tap; choose a loss on embeddings or logits"
            )
        return self.stages[-1]


@dataclass(frozen=True)
class Pair:
    """The models, the classes they tell apart, the number of training images, and where stages are tapped."""

    student: Side
    teacher: Side
    classes: int
    images: int
    taps: Taps = "output"

    def embeddings(self) -> tuple[int, int]:
        """Widths of student and teacher. Raises UnfitError."""
        return self.student.width("student"), self.teacher.width("teacher")

    def last_stages(self) -> tuple[Stage, Stage]:
        """Of student and teacher. Raises UnfitError."""
        return self.student.last("student"), self.teacher.last("teacher")

    def matched_stages(self) -> list[tuple[Stage, Stage]]:
        """(student, teacher): to each stage of the student the teacher's nearest in relative depth.

        Raises UnfitError.
        """
        self.last_stages()
        pairs = connected("same_depth", self.teacher.stages, self.student.stages)
        return [(student, teacher) for teacher, student in pairs]


@dataclass(frozen=True)
class ModelOutputs:
    """What one model said of a batch, as far as it was asked."""

    logits: Tensor  # (B, K)
    maps: Mapping[int, Tensor]  # stage index -> (B, C, H, W)

    @property
    def embedding(self) -> Tensor:
        """(B, D)."""
        return self.maps[EMBEDDING].flatten(1)


class AskTeacher(Protocol):
    """What the teacher says of images that are not the batch's own, or with other weights."""

    def __call__(
        self, images: Tensor, taps: Sequence[int], /, *, parameters: Mapping[str, Tensor] | None = None
    ) -> ModelOutputs:
        """Of images (N, C, H, W) in [0, 1], with the maps of these taps; without a gradient.

        `parameters` by the names of `Pair.teacher.model` stand in the place of its own.
        """
        ...


@dataclass(frozen=True)
class Before:
    """What is at hand of a batch, or of a part of it, before the student's pass over it."""

    images: Tensor  # (B, C, H, W), in [0, 1], augmented
    teacher: ModelOutputs  # of these images, as far as the loss asks for it
    targets: Tensor  # (B,)
    indices: Tensor  # (B,)
    ask_teacher: AskTeacher
    ask_student: Callable[[Tensor], Tensor]
    """Its logits of images as it is before the step; its buffers stay as they are. Differentiable in the
    images."""


@dataclass(frozen=True)
class Extra:
    """What a loss makes for itself of a batch before the student's pass; constants of the step."""

    views: Tensor | None = None  # (B, V, C, H, W): further images in [0, 1] that the student is shown
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # (B, ...) each

    def rows(self, rows: slice) -> Extra:
        """That of these images."""
        views = None if self.views is None else self.views[rows]
        return Extra(views, {name: value[rows] for name, value in self.tensors.items()})

    @staticmethod
    def joined(parts: Sequence[Extra]) -> Extra:
        """That of all images, from those of its parts in order."""
        if len(parts) == 1:
            return parts[0]
        views = [part.views for part in parts if part.views is not None]
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
        return Extra(torch.cat(views) if views else None, tensors)


@dataclass(frozen=True)
class Seen:
    """A training step as a feature loss sees it."""

    student: ModelOutputs
    teacher: ModelOutputs
    targets: Tensor  # (B,): of mixed images the class that has most
    indices: Tensor  # (B,): of the images within the training images
    extra: Extra = field(default_factory=Extra)
    views: ModelOutputs | None = None
    """What the student says of the views: B x V rows, those of an image one after the other."""


Lesson = tuple[ModelOutputs, Tensor, Tensor]
"""Outputs, targets (B,) and indices (B,) of a batch."""


class Lessons(Protocol):
    """What the models say of the training images, each once, in their order, as they are in the first view.

    Nothing has a gradient. The student is as it is at that moment, in evaluation mode.
    """

    def teacher(
        self, taps: Sequence[int], *, change: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Lesson]:
        """Batches, with the maps of these taps; of what `change` makes of the images (B, C, H, W), where
        given: (N, C, H, W)."""
        ...

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        """Batches, with the maps of these taps."""
        ...


class FeatureLossModule(nn.Module, ABC):
    """Base of all feature losses."""

    student_part: StudentPart | None = None
    """What the student is given before its logits for as long as it is trained with this loss; it belongs to
    the student, and is none of the loss's modules (`without_owning`)."""

    student_taps: Sequence[int] = ()
    """Stages of the student whose maps are needed; EMBEDDING for its embedding."""
    teacher_taps: Sequence[int] = ()
    needs_lessons: bool = False
    """Whether `prepare` is to be called before the first step."""
    lessons_every_epochs: int | None = None
    """Where `prepare` is to be called again and again: after every so many epochs."""
    needs_extra: bool = False
    """Whether `extra` is to be called before each step."""
    view_taps: Sequence[int] = ()
    """Stages of the student (and EMBEDDING) whose maps of the extra views are needed."""

    @abstractmethod
    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""

    def prepare(self, lessons: Lessons, *, seed: int) -> None:
        """Make of what the models say what the loss keeps in its buffers; a function of both arguments."""

    def extra(self, before: Before) -> Extra:
        """What the loss makes of a batch before the student's pass: further views, another teacher's answer.

        Not part of what is differentiated. A function of its argument, of buffers, and of torch's generators.
        """
        return Extra()

    def share(self) -> None:
        """What `student_part` takes over from the loss after each step of the optimiser."""

    def without_owning(self, part: StudentPart) -> None:
        """Make it `student_part`."""
        object.__setattr__(self, "student_part", part)

    def keep(self, name: str, value: Tensor) -> None:
        """Write into a buffer, outside of any gradient."""
        with torch.no_grad():
            self.get_buffer(name).copy_(value)


def pair_of(student: TappedModel, teacher: TappedModel, *, images: int, taps: Taps = "output") -> Pair:
    """As a feature loss is told of them."""
    return Pair(_side(student), _side(teacher), classes=_classes(student), images=images, taps=taps)


def _side(model: TappedModel) -> Side:
    return Side(model.stages, model.embedding_width, model.name, model)


def _classes(model: TappedModel) -> int:
    classes: object = model.network.num_classes
    assert isinstance(classes, int)
    return classes
