"""A teacher's logits on every augmented view, computed once per node and shared by all trials and jobs.

Augmented images are pure functions of (seed, index, view), so a teacher's answers to them can be kept.
Feature maps are not kept: they are hundreds of times larger, and pathways compute them live.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from search.augment import views
from search.data import ImageSet
from search.evaluate import predict
from search.models import TappedModel, weights_sha256

BUILD_BATCH = 256


@dataclass(frozen=True)
class CacheKey:
    """All that the bits of the logits depend on; `view` is added per file.

    Batches are formed in the images' own order, so that the batch of a training step has no say.
    """

    teacher_sha256: str
    preprocessing: str
    images_sha256: str
    policy: str
    seed: int
    dtype: str
    device: str
    threads: int
    versions: tuple[str, str]

    def file_name(self, view: int) -> str:
        """The name under which a view is kept."""
        text = json.dumps({**asdict(self), "view": view, "batch": BUILD_BATCH}, sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()}.npy"


class TeacherCache:
    """The teacher's logits on one set of training images, by view.

    A view is computed when it is first asked for, by one process per node; the others wait for it and then
    map the same file. The logits of an image do not depend on who asked, nor in which batch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        teacher: TappedModel,
        images: ImageSet,
        policy: str,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._directory = directory / "teacher_logits"
        self._teacher, self._images, self._device = teacher, images, torch.device(device)
        self.key = CacheKey(
            teacher_sha256=weights_sha256(teacher),
            preprocessing=str(teacher.preprocessing),
            images_sha256=_sha256(images.images),
            policy=policy,
            seed=seed,
            dtype=str(next(teacher.parameters()).dtype),
            device=self._device.type,
            threads=torch.get_num_threads() if self._device.type == "cpu" else 0,
            versions=(torch.__version__, version("timm")),
        )
        self._opened: dict[int, np.ndarray] = {}

    @property
    def stages(self) -> tuple[int, ...]:
        """No maps are kept."""
        return ()

    def read(self, indices: Tensor, view: int, stages: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """See `search.batches.TeacherOutputs`."""
        return self.logits(indices, view), {}

    def logits(self, indices: Tensor, view: int) -> Tensor:
        """Logits float32 (B, K) of these images' version in this view, on the CPU."""
        if self.key.policy == "none":
            view = 0  # all views are the images themselves
        if view not in self._opened:
            self._opened[view] = self._open(view)
        return torch.from_numpy(self._opened[view][indices.cpu().numpy()])

    def _open(self, view: int) -> np.ndarray:
        path = self._directory / self.key.file_name(view)
        self._directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    self._build(path, view)
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return found

    def _build(self, path: Path, view: int) -> None:
        """Compute and store a view; for the lock's holder. What a builder that died has left is
        overwritten.
        """
        logits = direct_logits(
            self._teacher,
            self._images,
            view=view,
            policy=self.key.policy,
            seed=self.key.seed,
            device=self._device,
        )
        temporary = path.with_suffix(".building")
        with temporary.open("wb") as file:
            np.save(file, logits.cpu().numpy())
        temporary.replace(path)


def direct_logits(
    teacher: TappedModel,
    images: ImageSet,
    *,
    view: int,
    policy: str,
    seed: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """What the cache holds, computed: logits float32 (N, K) of all images in one view."""
    with _on(teacher, torch.device(device)):
        parts = []
        for start in range(0, len(images), BUILD_BATCH):
            raw = images.images[start : start + BUILD_BATCH].to(device)
            indices = torch.arange(start, start + len(raw), device=device)
            seen = views(raw, indices=indices, seed=seed, view=view, policy=policy)
            parts.append(predict(teacher, seen, batch_size=BUILD_BATCH, device=device))
    return torch.cat(parts)


@contextmanager
def _on(model: TappedModel, device: torch.device) -> Iterator[None]:
    """The model on a device, and back where it was."""
    before = next(model.parameters()).device
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


def _sha256(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy().data).hexdigest()
