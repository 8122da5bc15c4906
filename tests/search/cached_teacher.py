"""A small teacher, its images, and a cache of what it says, for the tests of the teacher's cache."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from search.data import ImageSet
from search.models import TappedModel, build_model
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import Outputs, TeacherPass
from tests.search.synthetic import blobs

COUNT = 300
EVERY = torch.arange(COUNT)


def teacher(seed: int = 0) -> TappedModel:
    return build_model(
        "test_resnet", classes=10, channels=1, input_size=32, seed=seed, data_mean=(0.3,), data_std=(0.3,)
    )


def images() -> ImageSet:
    return blobs(COUNT, seed=1)


def cache(directory: Path, **changes: Any) -> TeacherCache:
    """With `changes` of what the pass is made of, or of what the cache is to keep."""
    made_of: dict[str, Any] = {"teacher": teacher(), "images": images(), "policy": "shift", "seed": 7}
    names = {field.name for field in fields(TeacherPass)}
    made_of |= {name: value for name, value in changes.items() if name in names}
    kept = {name: value for name, value in changes.items() if name not in names}
    return TeacherCache(directory, TeacherPass(**made_of), **kept)


def computed(
    view: int,
    stages: tuple[int, ...] = (),
    *,
    model: TappedModel | None = None,
    channels_last: bool = False,
) -> Outputs:
    """What the teacher says of all images of a view, nothing rounded."""
    parts: list[Outputs] = []
    whole = TeacherPass(model or teacher(), images(), "shift", 7, channels_last=channels_last)
    whole.over_view(view, stages, parts.append)
    maps = {stage: torch.cat([part[1][stage] for part in parts]) for stage in stages}
    return torch.cat([part[0] for part in parts]), maps


def stored(directory: Path) -> list[str]:
    """Names of the files of all sets, without their directories."""
    return sorted(path.name for path in (directory / "teacher_outputs").glob("*/*"))
