"""The divergence between maps read as shares of channels, place by place."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from search.method_card import Card, MethodConfig, Need, searched
from search.registry import Kind, register


class DivergenceConfig(MethodConfig):
    """Settings of the divergence."""

    temperature: float = searched(
        1.0, low=0.5, high=4.0, ge=0.25, le=16.0, description="What both maps are divided by."
    )


USUAL = DivergenceConfig()


@register(
    Kind.DISTANCE,
    "kl",
    source="DetKDS, Li et al. 2024, released code's distance kl",
    card=Card(
        needs=frozenset({Need.STAGE_MAPS}),
        zero_at_equality=True,
        differences="The softmax is part of the distance; released code leaves it to the operators before. "
        "Scaled to be 1 between independent maps.",
        config=DivergenceConfig,
    ),
)
def divergence(student_map: Tensor, teacher_map: Tensor, *, config: DivergenceConfig = USUAL) -> Tensor:
    """KL(softmax teacher || softmax student) over a place's channels, mean over places; 1 by chance.

    It ignores what is added to all channels of a place, and so `log_softmax_channels` before it. The mean is
    divided by what it is between independent maps of so many channels. Maps of one channel say nothing: their
    distance is zero.
    """
    student = torch.log_softmax(student_map / config.temperature, dim=1)
    teacher = torch.log_softmax(teacher_map / config.temperature, dim=1)
    by_place = (teacher.exp() * (teacher - student)).sum(dim=1)
    return by_place.mean() / _by_chance(student_map.shape[1], config.temperature)


@cache
def _by_chance(channels: int, temperature: float) -> float:
    """Expected divergence between independent normal maps of unit variance.

    With z of N(0, s^2), s = 1 / temperature, and p = softmax(z) it is E[sum p z], which by Stein's lemma is
    s^2 (1 - E[sum p^2]).
    """
    if channels == 1:
        return 1.0
    return (1 - _squared_shares(channels, 1 / temperature)) / temperature**2


def _squared_shares(channels: int, deviation: float) -> float:
    """E[sum p^2] for the softmax p of so many normal values.

    1 / S^2 is the integral of t exp(-t S) over t > 0, so that with S the sum of exponentials the expectation
    falls apart into one of each channel: C int t E[e^2z exp(-t e^z)] E[exp(-t e^z)]^(C - 1) dt, by trapezoids
    over log t, from where S is surely smaller than 1 / t to where it is surely larger.
    """
    spread = 8 * deviation + 12
    steps = [-math.log(channels) + spread * (place / 200 - 1) for place in range(401)]
    total = 0.0
    for log_t in steps:
        alone, rest = _moments(log_t, deviation)
        total += math.exp(2 * log_t) * alone * rest ** (channels - 1)
    return channels * total * spread / 200


def _moments(log_t: float, deviation: float) -> tuple[float, float]:
    """E[e^2z exp(-t e^z)] and E[exp(-t e^z)] for z of N(0, deviation^2), by trapezoids."""
    alone = rest = weights = 0.0
    for place in range(-80, 81):
        weight = math.exp(-((place / 10) ** 2) / 2)
        z = deviation * place / 10
        kept = weight * math.exp(-math.exp(min(log_t + z, 700.0)))
        alone, rest, weights = alone + kept * math.exp(2 * z), rest + kept, weights + weight
    return alone / weights, rest / weights
