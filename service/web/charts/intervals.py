"""A chart of rows, each with a value, an interval around it and the single values behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.web.charts.scales import Tick, linear

WIDTH = 640.0
RIGHT, TOP, BOTTOM = 16.0, 8.0, 44.0
LETTER = 7.3
ROW = 34.0


@dataclass(frozen=True)
class Interval:
    """One row: `middle` with `low` and `high` around it, and `dots`. `winner` draws it stronger."""

    label: str
    middle: float
    low: float | None = None
    high: float | None = None
    dots: Sequence[float] = field(default_factory=tuple)
    winner: bool = False
    text: str = ""


@dataclass(frozen=True)
class Row:
    """A drawn row. Positions are in SVG units; `bar_start` and `bar_end` are None without an interval."""

    label: str
    text: str
    y: float
    middle: float
    bar_start: float | None
    bar_end: float | None
    dots: list[float]
    winner: bool


@dataclass(frozen=True)
class IntervalChart:
    """All that is needed to draw; `zero` is where nothing would have changed, if that is in the picture."""

    title: str
    x_label: str
    rows: list[Row]
    x_ticks: list[Tick]
    zero: float | None
    height: float
    left: float
    width: float = WIDTH
    right: float = WIDTH - RIGHT
    top: float = TOP

    @property
    def bottom(self) -> float:
        """Where the axis lies."""
        return self.height - BOTTOM


def interval_chart(
    intervals: Sequence[Interval], *, title: str, x_label: str, with_zero: bool = False
) -> IntervalChart | None:
    """The chart, or None without rows."""
    if not intervals:
        return None
    values = [value for one in intervals for value in _values(one)] + ([0.0] if with_zero else [])
    left = 24.0 + LETTER * max(len(one.label) for one in intervals)
    scale = linear(values, start=left, end=WIDTH - RIGHT, ticks=6)
    rows = [
        Row(
            label=one.label,
            text=one.text,
            y=TOP + ROW * (index + 0.5),
            middle=scale.position(one.middle),
            bar_start=None if one.low is None else scale.position(one.low),
            bar_end=None if one.high is None else scale.position(one.high),
            dots=[scale.position(dot) for dot in one.dots],
            winner=one.winner,
        )
        for index, one in enumerate(intervals)
    ]
    height = TOP + ROW * len(rows) + BOTTOM
    zero = scale.position(0.0) if with_zero else None
    return IntervalChart(title, x_label, rows, scale.ticks, zero, height, left)


def _values(interval: Interval) -> list[float]:
    ends = [value for value in (interval.low, interval.high) if value is not None]
    return [interval.middle, *ends, *interval.dots]
