"""Low Temperature Distillation's temperatures: the teacher softened, the student as it is."""

from __future__ import annotations

import torch

from search.method_card import Card, Evidence, MethodConfig, Need, searched
from search.registry import Kind, register
from search.temperature.contract import TemperatureRuleModule, Temperatures


class LowTemperatureConfig(MethodConfig):
    """The teacher's temperature."""

    temperature: float = searched(
        2.0,
        low=1.0,
        high=5.0,
        gt=0,
        le=1e4,
        description="Of the teacher. Towards 0 its target becomes the class that it holds most likely.",
    )


@register(
    Kind.TEMPERATURE_RULE,
    "ltd",
    source="Chen and Lee 2021, arXiv 2111.02331",
    card=Card(
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS}),
        config=LowTemperatureConfig,
        differences="The rule alone, without adversarial images. The teacher's temperature was not read: 2 "
        "is ours. Inside `kd` the loss keeps its factor tau_t tau_s, here tau.",
    ),
)
class LowTemperature(TemperatureRuleModule):
    """The teacher at a temperature of its own, the student at 1 in training as when it is served."""

    def __init__(self, config: LowTemperatureConfig) -> None:
        super().__init__()
        self.temperature = config.temperature

    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """(tau, 1), whatever the process says."""
        return torch.tensor(self.temperature, dtype=torch.float64), torch.ones((), dtype=torch.float64)
