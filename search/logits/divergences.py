"""Distributions over classes and their divergences, in the forms that the logit losses share."""

from __future__ import annotations

import torch
from torch import Tensor


def log_softened(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """log softmax(z / tau), (B, K)."""
    return torch.log_softmax(logits / temperature, dim=1)


def divergence(log_target: Tensor, log_other: Tensor) -> Tensor:
    """KL(target || other) of each row, (B,), of log-probabilities (B, K)."""
    return (log_target.exp() * (log_target - log_other)).sum(dim=1)


def entropy(log_probabilities: Tensor) -> Tensor:
    """Of each row, (B,), in nats."""
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def of_target(values: Tensor, targets: Tensor) -> Tensor:
    """The target class's entry of each row, (B,)."""
    return values.gather(1, targets[:, None])[:, 0]


def without_target(values: Tensor, targets: Tensor) -> Tensor:
    """The other classes' entries of each row, in order, (B, K - 1)."""
    places = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, places + (places >= targets[:, None]).long())


def detached_factor(teacher_temperature: Tensor, student_temperature: Tensor) -> Tensor:
    """tau_t * tau_s, which keeps a loss's gradient at one size as temperatures change.

    Without a gradient: a learned temperature would else shrink the loss by shrinking the factor, and run to
    its lower bound.
    """
    return (teacher_temperature * student_temperature).detach()


LEAST_VARIATION = 0.01
"""Of a row's deviation from its mean as a share of that mean: below, a correlation is damped. Where a head
starts at zero all probabilities are equal, and a correlation's first gradient would be without bound."""

LEAST_SQUARE = 1e-12
"""Of a row's length: its inverse's second derivatives still fit float32."""


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each row, (B,), of values that are not negative; 0 where a row is constant."""
    return (_direction(one) * _direction(other)).sum(dim=1)


def _direction(values: Tensor) -> Tensor:
    """Each row less its mean, at length 1 (less where it hardly varies)."""
    mean = values.mean(dim=1, keepdim=True)
    centred = values - mean
    squared = centred.square().sum(dim=1, keepdim=True)
    least = values.shape[1] * (LEAST_VARIATION * mean.detach()).square()
    least = least.clamp(min=LEAST_SQUARE)
    return centred * torch.maximum(squared, least).rsqrt()
