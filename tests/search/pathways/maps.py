"""Feature maps of real models' stages, for tests of transforms and distances."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from search.models import build_model
from search.recipe import Stage
from search.registry import Kind, get

PAIRS = {
    "cnn": ("resnet10t", "test_resnet"),
    "vit": ("test_vit3", "test_vit"),
    "mixed": ("test_vit3", "test_convnext"),
}
STAGES = {"last": (-1, -1), "up": (1, 2), "down": (-2, 0)}
"""Teacher and student stages of which the student's map is of the same size, smaller or larger."""
CASES = [f"{pair}-{stages}" for pair in PAIRS for stages in STAGES]


@dataclass(frozen=True)
class Case:
    """A teacher stage and a student stage with their maps (B, C, H, W) of the same images, float64."""

    teacher: Stage
    student: Stage
    teacher_map: Tensor
    student_map: Tensor

    @property
    def teacher_shape(self) -> tuple[int, int, int]:
        return tuple(self.teacher_map.shape[1:])  # type: ignore[return-value]


@lru_cache
def maps_of(name: str) -> tuple[list[Stage], dict[int, Tensor]]:
    model = build_model(
        name, classes=10, channels=1, input_size=64, seed=0, data_mean=(0.3,), data_std=(0.3,)
    )
    images = torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = model.eval().forward_taps(images, range(len(model.stages)))[1]
    return model.stages, {index: value.double() for index, value in maps.items()}


def case_of(name: str) -> Case:
    pair, chosen = name.split("-")
    sides = [maps_of(model) for model in PAIRS[pair]]
    stages = [index % len(side[0]) for index, side in zip(STAGES[chosen], sides, strict=True)]
    (teacher, teacher_maps), (student, student_maps) = sides
    return Case(teacher[stages[0]], student[stages[1]], teacher_maps[stages[0]], student_maps[stages[1]])


def transform_of(name: str, *, student: Stage, teacher: Stage, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    module: torch.nn.Module = get(Kind.TRANSFORM, name).factory(student, teacher)
    return module.double()


def stage(channels: int) -> Stage:
    return Stage(index=0, channels=channels, reduction=1, depth=0)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
