"""A teacher's outputs on every augmented view, computed once per node and shared by all trials and jobs.

Augmented images are pure functions of (seed, index, view), so a teacher's answers to them can be kept: its
logits as they are, its maps in float16 (`teacher_pass.rounded`). A map is hundreds of times larger than
logits, so only those stages are kept that a run asks for and that fit a limit.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from search.devices import device_name, free_bytes, sent
from search.models import weights_sha256
from search.teacher_cache.files import LOGITS, CacheKey, OutputFiles, map_name
from search.teacher_cache.teacher_pass import (
    DoesNotFitHalfError,
    Outputs,
    TeacherPass,
    rounded,
    stages_that_fit,
)

MAP_BYTES = 8 * 1024**3
"""So much the maps of one set of images may take on disk, over all views. A run reads one view at a time, so
that an eighth of it (by default) is what memory should hold."""
VERSIONED = ("limbeck", "torch", "torchvision", "timm", "kornia")

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _View:
    """A view's rows: logits (N, K), maps by stage as they are stored (`TeacherPass.stored`)."""

    logits: Tensor
    maps: dict[int, Tensor]

    def resident(self, device: torch.device) -> _View:
        """The rows on a GPU where they take little room; else where they are."""
        return _View(
            _resident(self.logits, device),
            {stage: _resident(rows, device) for stage, rows in self.maps.items()},
        )

    def read(self, indices: Tensor, stages: Sequence[int], teacher_pass: TeacherPass) -> Outputs:
        def chosen(rows: Tensor) -> Tensor:
            # index_select copies whole rows: 0.2 ms for 128 maps of 128x8x8, conversion included.
            return sent(rows.index_select(0, sent(indices, rows.device)), teacher_pass.device)

        maps = {stage: teacher_pass.from_stored(chosen(self.maps[stage])) for stage in stages}
        return chosen(self.logits), {stage: value.to(teacher_pass.dtype) for stage, value in maps.items()}


class TeacherCache:
    """The teacher's outputs on one set of training images, by view (a `TeacherOutputs` of the batches).

    A view is computed when it is first asked for, logits and maps in one pass, by one process per node; the
    others wait for it and then map the same files. What is said of an image does not depend on who asked, nor
    in which batch, nor on whether there was room for files: without, each process computes the view it is at
    into its own memory. `stages` are those asked for whose maps on `views` views fit `limit_bytes` (in
    float16); which they are depends on these figures alone, so that a run continued elsewhere finds the same.
    """

    def __init__(
        self,
        directory: Path,
        teacher_pass: TeacherPass,
        *,
        stages: Sequence[int] = (),
        views: int = 1,
        limit_bytes: int = MAP_BYTES,
    ) -> None:
        self._pass = teacher_pass
        self.key = _key_of(teacher_pass)
        self._files = OutputFiles(directory / "teacher_outputs", self.key, images=len(teacher_pass.images))
        self._asked = tuple(sorted(set(stages)))
        self._views = 1 if teacher_pass.policy == "none" else views
        self._limit_bytes = limit_bytes
        self._opened: tuple[int, _View] | None = None
        self.seconds = 0.0
        """Spent on opening views: on computing them, or on waiting for who does."""

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """The stages whose maps are kept."""
        per_image = 2 * len(self._pass.images) * self._views
        sizes = {stage: shape.numel() * per_image for stage, shape in self._shapes[1].items()}
        return stages_that_fit(sizes, limit_bytes=self._limit_bytes)

    @cached_property
    def _shapes(self) -> tuple[torch.Size, dict[int, torch.Size]]:
        return self._pass.shapes(self._asked)

    def read(self, indices: Tensor, view: int, stages: Sequence[int]) -> Outputs:
        """Logits (B, K) and maps (B, C, H, W) of these images' version in a view, on the pass's device."""
        return self._view(view).read(indices, stages, self._pass)

    def logits(self, indices: Tensor, view: int) -> Tensor:
        """Logits float32 (B, K) of these images' version in this view."""
        return self.read(indices, view, ())[0]

    def _view(self, view: int) -> _View:
        if self.key.policy == "none":
            view = 0  # all views are the images themselves
        if self._opened is None or self._opened[0] != view:
            started = time.perf_counter()
            self._opened = None  # memory has room for one view
            self._opened = view, self._open(view).resident(self._pass.device)
            self.seconds += time.perf_counter() - started
        return self._opened[1]

    def _open(self, view: int) -> _View:
        try:
            return self._mapped(view) or self._built(view)
        except OSError as error:
            _log.warning("the teacher's outputs are computed into memory, by each run for itself: %s", error)
            return _until_it_fits(lambda wide: self._computed(view, wide))

    def _mapped(self, view: int) -> _View | None:
        """The view from its files, if they are all there."""
        logits = self._files.load(view, LOGITS)
        maps = {stage: self._files.load(view, self._name(stage)) for stage in self.stages}
        found = {stage: value for stage, value in maps.items() if value is not None}
        return _View(logits, found) if logits is not None and len(found) == len(maps) else None

    def _built(self, view: int) -> _View:
        """Compute and store what is missing, unless another process has done so meanwhile."""
        with self._files.builder(view):
            found = self._mapped(view)
            if found is None:
                _until_it_fits(lambda wide: self._write(view, wide))
                found = self._mapped(view)
        if found is None:
            raise OSError(f"files in {self._files.directory} cannot be read back")
        return found

    def _write(self, view: int, wide: set[int]) -> None:
        missing = [stage for stage in self.stages if self._files.load(view, self._name(stage)) is None]
        rows = {self._name(stage): self._row(stage, is_wide=stage in wide) for stage in missing}
        if self._files.load(view, LOGITS) is None:
            rows[LOGITS] = torch.zeros(self._shapes[0])
        with self._files.writing(view, rows) as append:

            def keep(outputs: Outputs) -> None:
                if LOGITS in rows:
                    append(LOGITS, outputs[0])
                for stage in missing:
                    append(self._name(stage), self._stored(outputs, stage, wide))

            self._pass.over_view(view, missing, keep)

    def _computed(self, view: int, wide: set[int]) -> _View:
        """The view in this process's memory, the same to the bit."""
        logits: list[Tensor] = []
        maps: dict[int, list[Tensor]] = {stage: [] for stage in self.stages}

        def keep(outputs: Outputs) -> None:
            logits.append(outputs[0])
            for stage, parts in maps.items():
                parts.append(self._stored(outputs, stage, wide))

        self._pass.over_view(view, self.stages, keep)
        return _View(torch.cat(logits), {stage: torch.cat(parts) for stage, parts in maps.items()})

    def _name(self, stage: int) -> str:
        return map_name(stage, self._pass.taps, channels_last=self._pass.channels_last)

    def _stored(self, outputs: Outputs, stage: int, wide: set[int]) -> Tensor:
        return self._pass.stored(rounded(outputs[1][stage], stage=stage, is_wide=stage in wide))

    def _row(self, stage: int, *, is_wide: bool) -> Tensor:
        dtype = torch.float32 if is_wide else torch.float16
        return self._pass.stored(torch.zeros(1, *self._shapes[1][stage], dtype=dtype))[0]


def _until_it_fits(attempt: Callable[[set[int]], T]) -> T:
    """Once more, with float32, where float16 cannot hold a stage's values in this view."""
    wide: set[int] = set()
    while True:
        try:
            return attempt(wide)
        except DoesNotFitHalfError as error:
            wide.add(error.stage)


def _resident(rows: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return rows
    return rows.to(device) if rows.nbytes < free_bytes(device) / 8 else rows


def _key_of(teacher_pass: TeacherPass) -> CacheKey:
    device = teacher_pass.device
    return CacheKey(
        teacher=teacher_pass.teacher.name,
        teacher_sha256=weights_sha256(teacher_pass.teacher),
        preprocessing=str(teacher_pass.teacher.preprocessing),
        images_sha256=images_sha256(teacher_pass.images.images),
        policy=teacher_pass.policy,
        seed=teacher_pass.seed,
        dtype=str(teacher_pass.dtype),
        precision=teacher_pass.precision,
        channels_last=teacher_pass.channels_last,
        device=device_name(device),
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
        batch_size=teacher_pass.batch_size,
        versions=tuple(version(name) for name in VERSIONED),
    )


def images_sha256(images: Tensor) -> str:
    """Hash of images uint8 (N, C, H, W)."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().data)
    return digest.hexdigest()
