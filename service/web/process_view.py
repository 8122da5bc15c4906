"""The learned process as a page shows it: weights and temperatures over training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from search.recipe import FeatureLoss, LogitLoss, Pathway, Point, Process
from service.web.charts.heat_map import HeatMap, heat_map
from service.web.charts.lines import COLOURS, LineChart, Series, line_chart

X_LABEL = "training progress"
MAP_FROM_PATHWAYS = 3
MAP_MOMENTS = 48


@dataclass(frozen=True)
class LossRow:
    """One loss of the process: what it weighs at the start, at its most, and at the end."""

    label: str
    start: float
    largest: float
    end: float


@dataclass(frozen=True)
class ProcessView:
    """The process, drawn and in figures. `is_constant`: nothing changes over training."""

    weights: LineChart | None
    temperatures: LineChart | None
    map: HeatMap | None
    losses: list[LossRow]
    temperature_rows: list[LossRow]
    is_constant: bool
    unit_scaled: bool


def process_view(document: dict[str, Any] | None) -> ProcessView | None:
    """The view of a process as JSON; None without one, or for one of a schema that is not known."""
    if document is None:
        return None
    try:
        process = Process.model_validate(document)
    except ValidationError:
        return None
    pathways = _pathway_series(process)
    weights = [*_logit_series(process), *pathways]
    temperatures = _temperature_series(process)
    return ProcessView(
        weights=line_chart(
            _most_important(weights),
            title="Weight of every loss over training",
            x_label=X_LABEL,
            y_label="weight",
            log=True,
            x_bounds=(0.0, 1.0),
        ),
        temperatures=line_chart(
            temperatures,
            title="Temperatures over training",
            x_label=X_LABEL,
            y_label="temperature",
            x_bounds=(0.0, 1.0),
        ),
        map=_map(process, pathways),
        losses=[_row(series) for series in weights],
        temperature_rows=[_row(series) for series in temperatures],
        is_constant=process.is_constant,
        unit_scaled=process.unit_scaled,
    )


def pathway_label(pathway: Pathway | FeatureLoss) -> str:
    """In words that fit beside a line: `t2 → s1 · projection · mse`, `feature · rkd`."""
    if isinstance(pathway, FeatureLoss):
        return f"feature · {pathway.name}"
    teacher = f"t{pathway.teacher}." if pathway.teacher else "t"
    stages = f"{teacher}{pathway.teacher_stage} → s{pathway.student_stage}"
    return f"{stages} · {pathway.transform_name} · {pathway.distance_name}"


def _over_training(points: Sequence[Point], values: Sequence[float]) -> list[tuple[float, float]]:
    # A process of one point holds it from the first step to the last.
    if len(points) == 1:
        return [(0.0, values[0]), (1.0, values[0])]
    return [(point.progress, value) for point, value in zip(points, values, strict=True)]


def _of_teacher(loss: LogitLoss) -> str:
    return f"{loss.name} of teacher {loss.teacher}" if loss.teacher else loss.name


def _logit_series(process: Process) -> list[Series]:
    return [
        Series(
            f"logits · {_of_teacher(loss)}",
            _over_training(process.points, [point.logit_weights[index] for point in process.points]),
            emphasis=True,
        )
        for index, loss in enumerate(process.logit_losses)
    ]


def _pathway_series(process: Process) -> list[Series]:
    return [
        Series(
            pathway_label(pathway),
            _over_training(process.points, [point.pathway_weights[index] for point in process.points]),
        )
        for index, pathway in enumerate(process.pathways)
    ]


def _temperature_series(process: Process) -> list[Series]:
    series = []
    for index, loss in enumerate(process.logit_losses):
        rule = f" · {loss.temperature_rule.name}" if loss.temperature_rule else ""
        for side in ("teacher", "student"):
            values = [getattr(point, f"{side}_temperatures")[index] for point in process.points]
            label = f"{side} · {_of_teacher(loss)}{rule}"
            series.append(Series(label, _over_training(process.points, values)))
    return series


def _most_important(series: Sequence[Series]) -> list[Series]:
    """More lines than colours: those that ever weigh most keep theirs, the others go into the background."""
    ranked = sorted(series, key=lambda one: -max(value for _, value in one.points))
    kept = {one.label for one in ranked[:COLOURS]}
    return [one if one.label in kept else Series(one.label, one.points, faint=True) for one in series]


def _map(process: Process, pathways: Sequence[Series]) -> HeatMap | None:
    if len(pathways) < MAP_FROM_PATHWAYS or process.is_constant:
        return None
    stride = max(1, -(-len(process.points) // MAP_MOMENTS))
    moments = [point.progress for point in process.points[::stride]]
    rows = [(one.label, [value for _, value in one.points[::stride]]) for one in pathways]
    return heat_map(rows, moments=moments, title="Weight of every pathway over training", x_label=X_LABEL)


def _row(series: Series) -> LossRow:
    values = [value for _, value in series.points]
    return LossRow(series.label, values[0], max(values), values[-1])
