"""One pass of a teacher over all images of a view, and how its maps are rounded to be stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from search.augment import views
from search.data import ImageSet, as_float
from search.evaluate import batch_size_for
from search.models import TappedModel
from search.models.tapped import Taps
from search.training.precision import Precision, forward_taps

CPU = torch.device("cpu")
LARGEST_HALF = 65504.0
SMALLEST_HALF = 2.0**-14
"""The magnitudes between which float16 has its full precision."""

Outputs = tuple[Tensor, dict[int, Tensor]]
"""Logits (B, K) and maps (B, C, H, W) by stage, on the CPU."""


@dataclass(frozen=True)
class TeacherPass:
    """What a teacher says of images in a view: a pure function of these.

    `policy` and `seed` are the augmentation's. The teacher is in evaluation mode and on the device meanwhile,
    and put back as it was.
    """

    teacher: TappedModel
    images: ImageSet
    policy: str
    seed: int
    device: torch.device = CPU
    taps: Taps = "output"
    precision: Precision = "float32"
    channels_last: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the teacher's parameters, and of what it says."""
        return next(self.teacher.parameters()).dtype

    @property
    def batch_size(self) -> int:
        """Images at once: has a say in the last bits."""
        return batch_size_for(self.device, size=self.images.images.shape[-1])

    def stored(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) in the order of axes in which the student has its own: losses between maps that
        lie differently in memory take up to three times as long."""
        return maps.permute(0, 2, 3, 1).contiguous() if self.channels_last else maps

    def from_stored(self, rows: Tensor) -> Tensor:
        """The maps (B, C, H, W) again, without copying."""
        return rows.permute(0, 3, 1, 2) if self.channels_last else rows

    def over_view(self, view: int, stages: Sequence[int], keep: Callable[[Outputs], None]) -> None:
        """Hand over the outputs for all images, in their own order, a batch at a time."""
        with _evaluating(self.teacher, self.device):
            for start in range(0, len(self.images), self.batch_size):
                keep(self._outputs(slice(start, start + self.batch_size), view, stages))

    def shapes(self, stages: Sequence[int]) -> tuple[torch.Size, dict[int, torch.Size]]:
        """Of one image's outputs: (K,), and (C, H, W) by stage."""
        with _evaluating(self.teacher, self.device):
            logits, maps = self._outputs(slice(0, 1), 0, stages)
        return logits.shape[1:], {stage: value.shape[1:] for stage, value in maps.items()}

    @torch.inference_mode()
    def _outputs(self, rows: slice, view: int, stages: Sequence[int]) -> Outputs:
        raw = self.images.images[rows].to(self.device)
        indices = torch.arange(rows.start, rows.start + len(raw), device=self.device)
        seen = views(raw, indices=indices, seed=self.seed, view=view, policy=self.policy)
        given = as_float(seen, dtype=self.dtype)
        if self.channels_last:
            given = given.to(memory_format=torch.channels_last)
        logits, maps = forward_taps(self.teacher, given, stages, taps=self.taps, precision=self.precision)
        return logits.float().cpu(), {stage: value.cpu() for stage, value in maps.items()}


class DoesNotFitHalfError(Exception):
    """A stage's values are too large or too small for float16."""

    def __init__(self, stage: int) -> None:
        super().__init__(f"the values of stage {stage} do not fit float16")
        self.stage = stage


def rounded(maps: Tensor, *, stage: int, is_wide: bool) -> Tensor:
    """Maps as they are stored: float16, or float32 where `is_wide`.

    In float16 a value is off by at most 2^-11 of itself, or by 2^-25 where that is more. Raises
    DoesNotFitHalfError unless the largest value of a batch lies where that is little.
    """
    if is_wide:
        return maps.float()
    peak = float(maps.abs().max())
    if peak != 0 and not SMALLEST_HALF <= peak <= LARGEST_HALF:
        raise DoesNotFitHalfError(stage)
    return maps.half()


def stages_that_fit(bytes_by_stage: dict[int, int], *, limit_bytes: int) -> tuple[int, ...]:
    """The stages whose bytes together stay within the limit, smallest first; of equal ones the deepest."""
    kept, total = [], 0
    for stage in sorted(bytes_by_stage, key=lambda stage: (bytes_by_stage[stage], -stage)):
        total += bytes_by_stage[stage]
        if total > limit_bytes:
            break
        kept.append(stage)
    return tuple(sorted(kept))


@contextmanager
def _evaluating(model: TappedModel, device: torch.device) -> Iterator[None]:
    """The model on a device in evaluation mode, and back as it was."""
    was_training, before = model.training, next(model.parameters()).device
    model.to(device).eval()
    try:
        yield
    finally:
        model.to(before).train(was_training)
