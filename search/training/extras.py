"""What losses make for themselves of a batch before the student's pass, and the pass over further views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from search.features import Before, Extra, FeatureLossModule, ModelOutputs
from search.models import TappedModel
from search.randomness import Seeded, mix
from search.training.batches import Batch, Batches, Teaching
from search.training.losses import DistillationLosses
from search.training.precision import Precision, forward_taps


class StudentOutputs(NamedTuple):
    """Of a batch: logits (B, K), maps (B, C, H, W) by stage, and what was said of losses' own views."""

    logits: Tensor
    maps: Mapping[int, Tensor]
    views: Mapping[int, ModelOutputs]


class Extras:
    """Completes batches with what their losses make of them; nothing for losses that ask for nothing."""

    def __init__(
        self, losses: DistillationLosses, batches: Batches, student: TappedModel, *, seed: int
    ) -> None:
        self._asking = {
            place: module
            for place, module in enumerate(losses.pathways)
            if isinstance(module, FeatureLossModule) and module.needs_extra
        }
        self._losses, self._batches, self._student, self._seed = losses, batches, student, seed

    def completed(
        self,
        batch: Batch,
        step: int,
        active: Sequence[int] | None,
        *,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Batch:
        """The batch with the extras of the active losses (by default of all).

        A function of the student's parameters, or of those that are given by the student's names, and of the
        seed: buffers of statistics have no say, so that a step can be made again.
        """
        asking = [place for place in self._asking if active is None or place in active]
        if not asking:
            return batch
        return replace(batch, extras={place: self._extra(place, batch, step, parameters) for place in asking})

    def _extra(self, place: int, batch: Batch, step: int, parameters: Mapping[str, Tensor] | None) -> Extra:
        # In the parts in which the student learns, which fit into memory.
        parts = batch.parts(self._batches.training.accumulate_parts)
        ask = self._student_asker(parameters)
        with Seeded(mix(self._seed, 5, step, place), self._batches.device), torch.no_grad():
            return Extra.joined([self._asking[place].extra(self._before(part, ask)) for part in parts])

    def _before(self, batch: Batch, ask_student: Callable[[Tensor], Tensor]) -> Before:
        assert batch.teacher_logits is not None
        assert batch.indices is not None
        return Before(
            batch.images,
            ModelOutputs(batch.teacher_logits, batch.teacher_maps),
            batch.targets.argmax(dim=1) if batch.targets.dim() > 1 else batch.targets,
            batch.indices,
            ask_teacher=self._ask_teacher,
            ask_student=ask_student,
        )

    def _ask_teacher(
        self, images: Tensor, taps: Sequence[int], /, *, parameters: Mapping[str, Tensor] | None = None
    ) -> ModelOutputs:
        teaching = Teaching(taps, logits=True, taps=self._losses.process.taps)
        return ModelOutputs(*self._batches.asked(images, teaching, parameters=parameters))

    def _student_asker(self, parameters: Mapping[str, Tensor] | None) -> Callable[[Tensor], Tensor]:
        def ask(images: Tensor) -> Tensor:
            precision = self._batches.training.precision
            logits, _ = forward_taps(
                self._student, images, [], precision=precision, parameters=parameters, keep_buffers=True
            )
            return logits

        return ask


def view_outputs(
    student: TappedModel,
    losses: DistillationLosses,
    batch: Batch,
    *,
    precision: Precision = "float32",
    parameters: Mapping[str, Tensor] | None = None,
    exact_tangents: bool = False,
) -> dict[int, ModelOutputs]:
    """What the student says of the views that losses made, by the loss's place; (B x V) rows each.

    A pass of its own for each loss, so that the plain images' pass is what it is without views; BatchNorm's
    running statistics do not see them.
    """
    found = {}
    for place, extra in batch.extras.items():
        module = losses.pathways[place]
        assert isinstance(module, FeatureLossModule)
        if extra.views is not None:
            logits, maps = forward_taps(
                student,
                extra.views.flatten(0, 1),
                module.view_taps,
                taps=losses.process.taps,
                precision=precision,
                parameters=parameters,
                keep_buffers=True,
                exact_tangents=exact_tangents,
            )
            found[place] = ModelOutputs(logits, maps)
    return found
