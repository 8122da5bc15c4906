"""The batches of a run: pure functions of (seed, step), with what the teacher says of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from search.augment import views
from search.data import ImageSet, as_float
from search.devices import free_bytes, sent
from search.features import Extra, ModelOutputs
from search.models import TappedModel
from search.models.tapped import Taps
from search.problems import SearchProblem
from search.randomness import mix, permutation
from search.registry import Kind, UnknownMethodError, get
from search.spec import Training
from search.training.losses import Beside
from search.training.mixing import Mixing, soft_targets
from search.training.precision import forward_taps

RESIDENT_BYTES = 2 * 1024**3
"""Larger sets stay in main memory: trials share a GPU, and each has its own copy."""


@dataclass(frozen=True)
class Batch:
    """One training batch with all that the losses need of it."""

    images: Tensor  # (B, C, H, W), in [0, 1]
    targets: Tensor  # (B,), or (B, K) where images are mixed
    teacher_logits: Tensor | None  # (B, K)
    teacher_maps: Mapping[int, Tensor]  # stage index -> (B, C, H, W)
    indices: Tensor | None = None  # (B,), of the images within the training images
    extras: Mapping[int, Extra] = field(default_factory=dict)  # by the loss's place among the pathways

    def parts(self, count: int) -> list[Batch]:
        """The batch in equal parts, in order, without copying; the step's loss is the mean of theirs.

        Each part goes through the student alone, with `search.training.learning.training_seed` of its own.
        """
        if count == 1:
            return [self]
        count = min(count, len(self.images))
        size = len(self.images) // count
        return [self._slice(slice(start, start + size)) for start in range(0, size * count, size)]

    def _slice(self, rows: slice) -> Batch:
        return Batch(
            self.images[rows],
            self.targets[rows],
            None if self.teacher_logits is None else self.teacher_logits[rows],
            {stage: value[rows] for stage, value in self.teacher_maps.items()},
            None if self.indices is None else self.indices[rows],
            {place: extra.rows(rows) for place, extra in self.extras.items()},
        )

    def beside(self, student_logits: Tensor, views: Mapping[int, ModelOutputs]) -> Beside:
        """What feature losses are given beside maps."""
        return Beside(student_logits, self.teacher_logits, self.targets, self.indices, self.extras, views)


class TeacherOutputs(Protocol):
    """What the teacher says of augmented training images, kept: it stands in for its forward pass."""

    @property
    def stages(self) -> Collection[int]:
        """The stages whose maps are kept, tapped as the run taps; logits always are."""
        ...

    def read(self, indices: Tensor, view: int, stages: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits (B, K) and maps (B, C, H, W) by stage, on the run's device, of these images' view."""
        ...


@dataclass(frozen=True)
class Teaching:
    """What a step needs of the teacher."""

    stages: Sequence[int] = ()
    logits: bool = False
    taps: Taps = "output"


class Batches:
    """Training batches by step, and meta batches.

    Each epoch takes the training images in a seeded order and leaves out the last incomplete batch. Meta
    images are augmented alike, but never mixed.
    """

    def __init__(
        self,
        train: ImageSet,
        meta: ImageSet | None,
        training: Training,
        *,
        seed: int,
        augmentation_seed: int,
        device: torch.device,
        dtype: torch.dtype,
        classes: int,
        teacher: TappedModel | None = None,
        teacher_outputs: TeacherOutputs | None = None,
    ) -> None:
        require_known_augmentation(training.augmentation)
        self.train, self.meta = resident(train, device), resident(meta, device) if meta else None
        self.training, self.classes = training, classes
        # All runs of a job see the same views, so that teacher outputs on them can be shared.
        self.seed, self.augmentation_seed = seed, augmentation_seed
        self.device, self.dtype = device, dtype
        self.mixing = Mixing.of(training)
        # What was kept of a teacher says nothing of mixed images.
        self.teacher, self.teacher_outputs = teacher, None if self.mixing else teacher_outputs
        size = min(training.batch_size, len(train.labels))
        self.size = size - size % min(training.accumulate_parts, size)
        self.steps_per_epoch = len(train.labels) // self.size
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def at(self, step: int, teaching: Teaching) -> Batch:
        """The training batch of a step."""
        indices, view = self._chosen(step)
        images = self._images(self.train, indices, view)
        targets = self._labels(self.train, indices)
        if self.mixing is not None:
            images, targets = self._mixed(self.mixing, images, targets, indices=indices, view=view)
        logits, maps = self._teach(images, indices, view, teaching)
        return Batch(images, targets, logits, maps, sent(indices, self.device))

    def in_order(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """All training images in the first view, a batch at a time: images, labels, indices on the CPU."""
        for indices in torch.split(torch.arange(len(self.train.labels)), self.size):
            yield self._images(self.train, indices, 0), self._labels(self.train, indices), indices

    def taught(
        self, images: Tensor, indices: Tensor, teaching: Teaching
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        """What the teacher says of images in the first view."""
        return self._teach(images, indices, 0, teaching)

    def asked(
        self, images: Tensor, teaching: Teaching, *, parameters: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What the teacher says of any images (N, C, H, W) in [0, 1]; with these parameters, by name, in the
        place of its own."""
        assert self.teacher is not None
        return self._asked(self.teacher, images, teaching, parameters)

    def meta_at(self, step: int, size: int | None) -> tuple[Tensor, Tensor]:
        """A seeded sample of the meta split, augmented like the training images, and its labels."""
        meta = self.meta
        assert meta is not None
        count = min(size or self.size, len(meta.labels))
        indices = permutation(len(meta.labels), mix(self.seed, 1, step))[:count]
        return self._images(meta, indices, self._view(step)), self._labels(meta, indices)

    def _chosen(self, step: int) -> tuple[Tensor, int]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, permutation(len(self.train.labels), mix(self.seed, 0, epoch)))
        return self._order[1][position * self.size : (position + 1) * self.size], self._view(step)

    def _view(self, step: int) -> int:
        return (step // self.steps_per_epoch) % self.training.views

    def _images(self, images: ImageSet, indices: Tensor, view: int) -> Tensor:
        # index_select copies whole images; indexing by a tensor, element by element, takes 20 times as long.
        raw = images.images.index_select(0, sent(indices, images.images.device))
        augmented = views(
            sent(raw, self.device),
            indices=sent(indices, self.device),
            seed=self.augmentation_seed,
            view=view,
            policy=self.training.augmentation,
        )
        as_floats = as_float(augmented, dtype=self.dtype)
        return as_floats.to(memory_format=torch.channels_last) if self.training.channels_last else as_floats

    def _labels(self, images: ImageSet, indices: Tensor) -> Tensor:
        return sent(images.labels.index_select(0, sent(indices, images.labels.device)), self.device)

    def _mixed(
        self, mixing: Mixing, images: Tensor, labels: Tensor, *, indices: Tensor, view: int
    ) -> tuple[Tensor, Tensor]:
        """Images mixed with other training images in the same view, and their labels' probabilities."""
        words = mixing.words(sent(indices, self.device), seed=self.augmentation_seed, view=view)
        partners = mixing.partners(words, images=len(self.train.labels))
        mixed, share = mixing.mixed(images, self._images(self.train, partners, view), words)
        if not self.train.is_labelled:
            return mixed, labels
        others = self._labels(self.train, partners)
        return mixed, soft_targets(labels, others, share, classes=self.classes).to(self.dtype)

    def _teach(
        self, images: Tensor, indices: Tensor, view: int, teaching: Teaching
    ) -> tuple[Tensor | None, dict[int, Tensor]]:
        if self.teacher is None or not (teaching.logits or teaching.stages):
            return None, {}
        kept = self.teacher_outputs
        if kept is not None and set(teaching.stages) <= set(kept.stages):
            logits, maps = kept.read(indices, view, teaching.stages)
            return logits.to(self.device), {stage: value.to(self.device) for stage, value in maps.items()}
        return self._asked(self.teacher, images, teaching)

    def _asked(
        self,
        teacher: TappedModel,
        images: Tensor,
        teaching: Teaching,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The teacher's outputs, computed in the parts in which the student sees the images."""
        parts = []
        with torch.no_grad():
            for part in images.tensor_split(min(self.training.accumulate_parts, len(images))):
                parts.append(
                    forward_taps(
                        teacher,
                        part,
                        teaching.stages,
                        taps=teaching.taps,
                        precision=self.training.precision,
                        parameters=parameters,
                    )
                )
        if len(parts) == 1:
            return parts[0]
        logits = torch.cat([logits for logits, _ in parts])
        return logits, {
            stage: torch.cat([maps[stage] for _, maps in parts]) for stage in dict.fromkeys(teaching.stages)
        }


def require_known_augmentation(name: str) -> None:
    """Raise SearchProblem unless there is an augmentation policy of that name."""
    try:
        get(Kind.AUGMENTATION, name)
    except UnknownMethodError as error:
        raise SearchProblem(f"training.augmentation: {error}", code="unknown_method") from error


def resident(images: ImageSet, device: torch.device) -> ImageSet:
    """The images on the device, where it is a GPU on which they take little room; else where they are."""
    if device.type != "cuda" or images.images.nbytes > RESIDENT_BYTES:
        return images
    return images.to(device) if images.images.nbytes < free_bytes(device) / 8 else images
