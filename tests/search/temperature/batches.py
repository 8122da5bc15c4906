"""Batches of logits, and processes with a rule, that the tests of temperature rules share."""

from __future__ import annotations

import torch
from pydantic import JsonValue
from torch import Tensor

from search.recipe import LogitLoss, Point, Process, TemperatureRule
from search.registry import Kind, methods

RULES = methods(Kind.TEMPERATURE_RULE)
NAMES = [rule.name for rule in RULES]
BASE = (torch.tensor(2.5, dtype=torch.float64), torch.tensor(3.5, dtype=torch.float64))
IMAGES, CLASSES = 16, 10


def logits(seed: int, *, size: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(IMAGES, CLASSES, generator=generator)


def targets() -> Tensor:
    return torch.arange(IMAGES) % CLASSES


def sure(*, of: Tensor, by: float) -> Tensor:
    """Logits that put `by` on these classes, and 0 on the others."""
    return by * torch.nn.functional.one_hot(of, CLASSES).float()


def process(*rules: str | None, temperature: float = 2.0, **config: JsonValue) -> Process:
    """A KD loss for each rule, all with these settings; without a rule where it is None."""
    named = [None if name is None else TemperatureRule(name=name, config=config) for name in rules]
    count = len(rules)
    return Process(
        logit_losses=[LogitLoss(temperature_rule=rule) for rule in named],
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0] * count,
                teacher_temperatures=[temperature] * count,
                student_temperatures=[temperature] * count,
            )
        ],
    )
