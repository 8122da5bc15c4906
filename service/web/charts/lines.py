"""A chart of lines over a common x-axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.web.charts.scales import Scale, Tick, linear, logarithmic

COLOURS = 8
WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 46.0


@dataclass(frozen=True)
class Series:
    """One line: points (x, y) in the order of x. `emphasis` draws it stronger, `faint` in the background."""

    label: str
    points: Sequence[tuple[float, float]]
    ended_early: bool = False
    emphasis: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Line:
    """A drawn line. `colour` is a place in the palette, None for lines in the background."""

    label: str
    path: str
    colour: int | None
    first: float
    last: float
    end: tuple[float, float]
    ended_early: bool
    emphasis: bool
    dashed: bool


@dataclass(frozen=True)
class LineChart:
    """All that is needed to draw: lines, ticks, and the borders of the plot."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    logarithmic: bool
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log: bool = False,
    x_bounds: tuple[float, float] | None = None,
    y_bounds: tuple[float, float] | None = None,
) -> LineChart | None:
    """The chart, or None when there is no point to draw. A series of one point is drawn as a dot."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    x_scale = linear([*xs, *(x_bounds or ())], start=LEFT, end=WIDTH - RIGHT, ticks=8, bounds=x_bounds)
    low, high = HEIGHT - BOTTOM, TOP
    y_scale = (
        logarithmic(ys, start=low, end=high) if log else linear(ys, start=low, end=high, bounds=y_bounds)
    )
    colours = _colours(drawn)
    lines = [_line(one, colour, x_scale, y_scale) for one, colour in zip(drawn, colours, strict=True)]
    # What is drawn last lies on top: the background first, the emphasised line last.
    lines.sort(key=lambda line: (line.colour is not None, line.emphasis))
    return LineChart(title, x_label, y_label, lines, x_scale.ticks, y_scale.ticks, log)


def _colours(series: Sequence[Series]) -> list[int | None]:
    colours: list[int | None] = []
    used = 0
    for one in series:
        colours.append(None if one.faint else used)
        used += not one.faint
    return colours


def _line(series: Series, colour: int | None, x_scale: Scale, y_scale: Scale) -> Line:
    places = [(x_scale.position(x), y_scale.position(y)) for x, y in series.points]
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in places)
    values = [y for _, y in series.points]
    return Line(
        label=series.label,
        path=path,
        colour=None if colour is None else colour % COLOURS,
        first=values[0],
        last=values[-1],
        end=places[-1],
        ended_early=series.ended_early,
        emphasis=series.emphasis,
        dashed=colour is not None and colour >= COLOURS,
    )
