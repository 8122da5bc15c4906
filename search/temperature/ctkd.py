"""Curriculum temperature: it works against the student, and so makes its task harder and harder."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from search.logits.divergences import divergence, log_softened
from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register
from search.temperature.contract import TemperatureRuleModule, Temperatures

LARGEST_THETA = 6.0
"""Of either sign. Beyond, the sigmoid is so flat that a single large step would end all learning."""


class CurriculumConfig(MethodConfig):
    """The range of the temperature, where it starts, and how fast it moves."""

    initial_theta: float = Field(
        default=1.0, ge=-LARGEST_THETA, le=LARGEST_THETA, description="From which theta starts."
    )
    lowest_temperature: float = Field(default=1.0, gt=0, le=1e3, description="Which is never reached.")
    temperature_span: float = searched(
        20.0, low=4.0, high=20.0, gt=0, le=1e3, description="From the lowest to the highest temperature."
    )
    learning_rate: float = searched(
        0.05, low=0.005, high=0.5, ge=0, le=1e3, description="Of theta's gradient ascent."
    )
    ramp_share: float = Field(
        default=0.04,
        gt=0,
        le=1,
        description="Of the training, over which the ascent's factor grows from 0 to 1; the paper's is 10 "
        "epochs of 240.",
    )


@register(
    Kind.TEMPERATURE_RULE,
    "ctkd",
    source="Li et al. 2023, arXiv 2211.16231",
    card=Card(
        systems=("ctkd",),
        needs=frozenset({Need.TEACHER_LOGITS}),
        config=CurriculumConfig,
        differences="The global temperature; the one that a network predicts for each image is left out. "
        "Theta follows KD's loss of the batch, whichever logit loss it serves, by SGD at a learning rate of "
        "its own without momentum and decay, and stays within -6 and 6. The ramp is a share of the training.",
    ),
)
class CurriculumTemperature(TemperatureRuleModule):
    """One temperature that works against the student, harder and harder: it ascends KD's loss.

    T = T_low + span sigmoid(theta). After each step theta <- theta - lr lambda dL/dtheta, where
    L = T^2 KL(softmax(z_t / T) || softmax(z_s / T)) is the mean over the batch; lambda falls from 0 to -1
    along a cosine: the gradient is reversed, theta ascends.
    """

    follows_training = True
    theta: Tensor

    def __init__(self, config: CurriculumConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("theta", torch.tensor(config.initial_theta, dtype=torch.float64))

    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """What theta says, whatever the process says."""
        temperature = self.temperature(self.theta)
        return temperature, temperature.clone()

    def temperature(self, theta: Tensor) -> Tensor:
        """T of theta, differentiable."""
        return self.config.lowest_temperature + self.config.temperature_span * theta.sigmoid()

    def reversal(self, progress: float) -> float:
        """lambda, from 0 to -1."""
        share = min(1.0, progress / self.config.ramp_share)
        return 0.5 * (math.cos(math.pi * share) - 1.0)

    def observe(
        self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, progress: float
    ) -> None:
        """One step of theta on this batch."""
        theta = self.theta.clone().requires_grad_(True)
        with torch.enable_grad():
            temperature = self.temperature(theta).to(student_logits.device, torch.float32)
            loss = _distillation(student_logits.float(), teacher_logits.float(), temperature)
        (slope,) = torch.autograd.grad(loss, theta)
        moved = self.theta - self.config.learning_rate * self.reversal(progress) * slope
        self.keep("theta", moved.clamp(-LARGEST_THETA, LARGEST_THETA))


def _distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    """T^2 KL, 0-dim; here the factor has its gradient, as in the paper's code."""
    log_teacher = log_softened(teacher_logits, temperature)
    return divergence(log_teacher, log_softened(student_logits, temperature)).mean() * temperature.square()
