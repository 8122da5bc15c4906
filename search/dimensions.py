"""The space of discrete choices as dimensions, and the contract that strategies keep. Imports no torch.

A strategy sees dimensions and observations, never specs, trials or pathways: so it can be written, swapped
and tested without knowing what is searched.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from search.records import TrialState

Choices = dict[str, JsonValue]
"""One value for each dimension, by the dimension's name."""


@dataclass(frozen=True)
class Options:
    """One of a few values; the first is the sensible one to begin with."""

    name: str
    values: tuple[JsonValue, ...]

    def start(self) -> JsonValue:
        """Where a search begins."""
        return self.values[0]

    def at(self, fraction: float) -> JsonValue:
        """The value at a fraction in [0, 1) of the list."""
        return self.values[min(int(fraction * len(self.values)), len(self.values) - 1)]

    def contains(self, value: JsonValue) -> bool:
        """Whether a recorded value belongs to this dimension."""
        return value in self.values


@dataclass(frozen=True)
class Interval:
    """A range of positive numbers, ends included; `log`: equal ratios are equally likely."""

    name: str
    low: float
    high: float
    log: bool = True

    def start(self) -> float:
        """Where a search begins: the middle, geometric on a log scale."""
        return self.at(0.5)

    def at(self, fraction: float) -> float:
        """The value at a fraction in [0, 1] of the way from low to high."""
        if self.log:
            value = math.exp(math.log(self.low) + fraction * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + fraction * (self.high - self.low)
        return min(max(value, self.low), self.high)

    def contains(self, value: JsonValue) -> bool:
        """Whether a recorded value belongs to this dimension."""
        return isinstance(value, int | float) and self.low <= value <= self.high


Dimension = Options | Interval


@dataclass(frozen=True)
class Observation:
    """What a strategy may know of an earlier proposal.

    `accuracy` is the final figure of a completed trial and None otherwise; `curve` holds (epoch, accuracy) of
    each validation. Proposed and running trials are observed too, so that parallel proposals can keep apart.
    """

    index: int
    choices: Choices
    state: TrialState
    accuracy: float | None = None
    curve: tuple[tuple[int, float], ...] = ()


class Strategy(Protocol):
    """Proposes choices. A pure function: same arguments, same choices, in whatever order observations come.

    `index` numbers the proposal, `seed` is the search's; both together seed all randomness. The choices hold
    one value inside each dimension. Observations are not changed; some may lie outside of the dimensions
    (they come from a job with another space) and are then passed over.
    """

    def __call__(
        self,
        dimensions: Sequence[Dimension],
        observations: Sequence[Observation],
        *,
        index: int,
        seed: int,
    ) -> Choices: ...


def number(value: object) -> float:
    """A choice that is a number. Raises TypeError."""
    if not isinstance(value, int | float):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def starting_choices(dimensions: Sequence[Dimension]) -> Choices:
    """The sensible point that every search tries first, whatever its strategy."""
    return {dimension.name: dimension.start() for dimension in dimensions}


def derived_seed(*parts: object) -> int:
    """A 32-bit seed that is a function of the parts alone, the same on every machine and Python."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def usable(dimensions: Sequence[Dimension], observations: Sequence[Observation]) -> list[Observation]:
    """The observations that lie inside the dimensions, in the order of their index."""
    names = {dimension.name for dimension in dimensions}
    inside = [
        observation
        for observation in observations
        if names <= observation.choices.keys()
        and all(dimension.contains(observation.choices[dimension.name]) for dimension in dimensions)
    ]
    return sorted(inside, key=lambda observation: observation.index)
