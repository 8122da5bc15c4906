"""When feature losses look at all training images, and what they are shown then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from search.devices import sent
from search.features import Lesson, ModelOutputs
from search.models import TappedModel
from search.models.tapped import Taps, evaluating
from search.randomness import Seeded, mix
from search.spec import Training
from search.training.batches import Batches, Teaching
from search.training.losses import DistillationLosses
from search.training.precision import forward_taps


class LessonPlan:
    """Gives lessons to the losses that ask for them: before the first step, and at epochs' beginnings.

    A function of the seed and of the state before the step, so that a continued run gives the same.
    """

    def __init__(
        self,
        losses: DistillationLosses,
        batches: Batches,
        student: TappedModel,
        training: Training,
        *,
        seed: int,
    ) -> None:
        self._asking = [
            (place, loss) for place, loss in enumerate(losses.feature_losses()) if loss.needs_lessons
        ]
        self._batches, self._seed = batches, seed
        self._lessons = _Lessons(batches, student, training, losses.process.taps)

    def give(self, step: int) -> None:
        """The lessons that are due before this step."""
        epoch, position = divmod(step, self._batches.steps_per_epoch)
        if position:
            return
        for place, loss in self._asking:
            every = loss.lessons_every_epochs
            if epoch == 0 or (every is not None and epoch % every == 0):
                seed = mix(self._seed, 4, step, place)
                with Seeded(seed, self._batches.device):
                    loss.prepare(self._lessons, seed=seed)


class _Lessons:
    """The models' answers to all training images (`search.features.Lessons`)."""

    def __init__(self, batches: Batches, student: TappedModel, training: Training, taps: Taps) -> None:
        self._batches, self._student, self._training, self._taps = batches, student, training, taps

    def teacher(
        self, taps: Sequence[int], *, change: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[Lesson]:
        teaching = Teaching(taps, logits=True, taps=self._taps)
        for images, targets, indices in self._batches.in_order():
            if change is None:
                logits, maps = self._batches.taught(images, indices, teaching)
            else:
                logits, maps = self._batches.asked(change(images), teaching)
            assert logits is not None
            yield ModelOutputs(logits, maps), targets, sent(indices, targets.device)

    def student(self, taps: Sequence[int]) -> Iterator[Lesson]:
        for images, targets, indices in self._batches.in_order():
            with torch.no_grad(), evaluating(self._student):
                logits, maps = forward_taps(
                    self._student, images, taps, taps=self._taps, precision=self._training.precision
                )
            yield ModelOutputs(logits, maps), targets, sent(indices, targets.device)
