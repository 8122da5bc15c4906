"""Dynamic temperature scheduling: soft early and while the student is far behind, sharp towards the end."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field, model_validator
from torch import Tensor

from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.registry import Kind, register
from search.temperature.contract import TemperatureRuleModule, Temperatures


class ScheduleConfig(MethodConfig):
    """The bounds, and how fast the temperature follows."""

    initial_temperature: float = searched(
        8.0,
        low=4.0,
        high=16.0,
        gt=0,
        le=1e4,
        description="Of the first step, and what the cosine multiplies.",
    )
    lowest_temperature: float = Field(
        default=4.0, gt=0, le=1e4, description="Never below; 2 beside logit standardisation."
    )
    highest_temperature: float = Field(default=8.0, gt=0, le=1e4, description="Never above.")
    average_decay: float = Field(
        default=0.9, ge=0, lt=1, description="Of the running average that follows the schedule's target."
    )

    @model_validator(mode="after")
    def _ordered(self) -> ScheduleConfig:
        if self.lowest_temperature > self.highest_temperature:
            raise ValueError("lowest_temperature must not be above highest_temperature; raise the latter")
        return self


@register(
    Kind.TEMPERATURE_RULE,
    "dts",
    source="Islam et al. 2025, arXiv 2511.13767",
    card=Card(
        systems=("dts",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS, Need.LABELS}),
        config=ScheduleConfig,
        differences="Public copies of the rule disagree, and their factor d / (d + 1) of d = CE_t - CE_s has "
        "a pole at d = -1. Here the factor is 1 + g / (1 + g) of g = max(0, CE_s - CE_t): between 1 and 2, "
        "the larger the farther the student is behind. A step's temperature follows from the batches before.",
    ),
)
class DynamicTemperatureSchedule(TemperatureRuleModule):
    """One temperature that falls along a cosine, held higher while the student is far behind the teacher.

    After each step T <- d T + (1 - d) target, with the decay d, and the target
    T_0 (1 + cos(pi progress)) / 2 (1 + g / (1 + g)) within [T_min, T_max]; g is by how many nats the
    student's cross-entropy on the training batch is above the teacher's, or 0.
    """

    follows_training = True
    temperature: Tensor

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("temperature", self._bounded(_float64(config.initial_temperature)))

    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """The running average, whatever the process says."""
        return self.temperature.clone(), self.temperature.clone()

    def observe(
        self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, progress: float
    ) -> None:
        """Follow the target of this batch."""
        student, teacher = (
            F.cross_entropy(logits.float(), targets) for logits in (student_logits, teacher_logits)
        )
        target = self.target((student - teacher).cpu().double(), progress)
        decay = self.config.average_decay
        # Rounding must not lead beyond the bounds.
        self.keep("temperature", self._bounded(decay * self.temperature + (1.0 - decay) * target))

    def target(self, gap: Tensor, progress: float) -> Tensor:
        """What the temperature moves towards; 0-dim, of the gap CE_s - CE_t in nats."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        # 1 + g / (1 + g), written so that it has a limit at infinity.
        factor = 2.0 - 1.0 / (1.0 + gap.clamp(min=0.0))
        return self._bounded(self.config.initial_temperature * cosine * factor)

    def _bounded(self, temperature: Tensor) -> Tensor:
        return temperature.clamp(self.config.lowest_temperature, self.config.highest_temperature)


def _float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
