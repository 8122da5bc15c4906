"""A map of one coloured cell per row and moment: which pathway weighs how much, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.web.charts.scales import Tick, linear

LEVELS = 10
WIDTH, LEFT, RIGHT, TOP, BOTTOM, ROW = 640.0, 190.0, 16.0, 6.0, 44.0, 20.0


@dataclass(frozen=True)
class Cell:
    """A rectangle; `level` from 0 (least) to LEVELS - 1 (most)."""

    x: float
    width: float
    level: int
    value: float


@dataclass(frozen=True)
class MapRow:
    """One row of cells."""

    label: str
    y: float
    cells: list[Cell]


@dataclass(frozen=True)
class HeatMap:
    """All that is needed to draw."""

    title: str
    x_label: str
    rows: list[MapRow]
    x_ticks: list[Tick]
    lowest: float
    highest: float
    height: float
    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    row_height: float = ROW

    @property
    def bottom(self) -> float:
        """Where the axis lies."""
        return self.height - BOTTOM


def heat_map(
    rows: Sequence[tuple[str, Sequence[float]]],
    *,
    moments: Sequence[float],
    title: str,
    x_label: str,
    decades: float = 3.0,
) -> HeatMap | None:
    """Values per row at the moments, coloured by logarithm, at most so many decades below the largest.

    `moments` lie in [0, 1]; a cell reaches half-way to its neighbours.
    """
    values = [value for _, row in rows for value in row if value > 0]
    if not values or not moments:
        return None
    highest = max(values)
    lowest = max(min(values), highest / 10**decades)
    scale = linear([0.0, 1.0], start=LEFT, end=WIDTH - RIGHT, ticks=5)
    borders = [0.0, *((a + b) / 2 for a, b in itertools.pairwise(moments)), 1.0]
    edges = [scale.position(border) for border in borders]
    drawn = [
        MapRow(
            label,
            TOP + ROW * index,
            [
                Cell(start, round(end - start + 0.3, 2), _level(value, lowest, highest), value)
                for start, end, value in zip(edges, edges[1:], row, strict=False)
            ],
        )
        for index, (label, row) in enumerate(rows)
    ]
    height = TOP + ROW * len(drawn) + BOTTOM
    return HeatMap(title, x_label, drawn, scale.ticks, lowest, highest, height)


def _level(value: float, lowest: float, highest: float) -> int:
    if value <= lowest or highest <= lowest:
        return LEVELS - 1 if value >= highest else 0
    share = math.log(value / lowest) / math.log(highest / lowest)
    return min(int(share * LEVELS), LEVELS - 1)
