"""Scales of an axis: from values to positions, and where the ticks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, and what it says."""

    position: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] in SVG units, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    ticks_at: tuple[float, ...]
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Where the value lies; values outside are put on the border."""
        value = min(max(value, self.low), self.high)
        share = _share(value, self.low, self.high, logarithmic=self.logarithmic)
        return round(self.start + share * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[Tick]:
        """The marks, labelled with as few digits as tell them apart."""
        return [Tick(self.position(value), tick_label(value)) for value in self.ticks_at]


def linear(
    values: Sequence[float],
    *,
    start: float,
    end: float,
    ticks: int = 5,
    bounds: tuple[float, float] | None = None,
) -> Scale:
    """A linear scale over the values, widened to round numbers; `bounds` are never left by the widening."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(high), 1.0):
        margin = max(abs(high) * 0.05, 0.01)
        low, high = low - margin, high + margin
    step = _round_step((high - low) / ticks)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    first = math.ceil(low / step - 1e-9)
    count = math.floor((high - low) / step + 1e-9) + 1
    at = tuple(round((first + index) * step, 12) for index in range(count))
    return Scale(low, high, start, end, at)


def logarithmic(values: Sequence[float], *, start: float, end: float, decades: float = 4.0) -> Scale:
    """A logarithmic scale over the positive values, at most so many decades below the largest."""
    positive = [value for value in values if value > 0] or [1.0]
    high = max(positive)
    low = max(min(positive), high / 10**decades)
    bottom, top = _one_two_five_below(low), _one_two_five_above(high)
    if top / bottom < 4:
        bottom, top = _one_two_five_below(bottom / 2), _one_two_five_above(top * 2)
    return Scale(bottom, top, start, end, _log_ticks(bottom, top), logarithmic=True)


def tick_label(value: float) -> str:
    """Short and exact enough: `0`, `0.25`, `12`, `1e-4`."""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e5:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.4g}"


def _share(value: float, low: float, high: float, *, logarithmic: bool) -> float:
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(step * magnitude for step in _STEPS if step * magnitude >= rough * (1 - 1e-9))


def _one_two_five_below(value: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(value) + 1e-9)
    candidates = (factor * magnitude for factor in (1.0, 2.0, 5.0))
    return max(candidate for candidate in candidates if candidate <= value * (1 + 1e-9))


def _one_two_five_above(value: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return min(
        factor * magnitude for factor in (1.0, 2.0, 5.0, 10.0) if factor * magnitude >= value * (1 - 1e-9)
    )


def _log_ticks(bottom: float, top: float) -> tuple[float, ...]:
    decades = math.log10(top / bottom)
    factors = (1.0, 2.0, 5.0) if decades <= 2.01 else (1.0, 3.0) if decades <= 3.01 else (1.0,)
    first, last = math.floor(math.log10(bottom)) - 1, math.ceil(math.log10(top)) + 1
    candidates = (factor * 10.0**power for power in range(first, last + 1) for factor in factors)
    return tuple(value for value in candidates if bottom * (1 - 1e-9) <= value <= top * (1 + 1e-9))
