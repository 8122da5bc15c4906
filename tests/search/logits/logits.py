"""Logits and labels that the tests of logit losses share."""

from __future__ import annotations

import torch
from pydantic import JsonValue
from torch import Tensor

from search.logits import build_logit_loss

IMAGES, CLASSES = 16, 10
TWO = torch.tensor(2.0)


def logits_of(seed: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(IMAGES, CLASSES, generator=generator, dtype=dtype)


def targets() -> Tensor:
    return torch.arange(IMAGES) % CLASSES


def loss_of(
    name: str,
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float | tuple[float, float] = 2.0,
    **config: JsonValue,
) -> Tensor:
    """The loss of these logits, temperatures (teacher, student) and settings."""
    pair = temperature if isinstance(temperature, tuple) else (temperature, temperature)
    of_teacher, of_student = (torch.tensor(value, dtype=student.dtype) for value in pair)
    value: Tensor = build_logit_loss(name, config)(
        student,
        teacher,
        teacher_temperature=of_teacher,
        student_temperature=of_student,
        targets=targets()[: len(student)],
    )
    return value
