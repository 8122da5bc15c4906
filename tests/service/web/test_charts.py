"""Geometry of the charts, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.recipe import LogitLoss, Pathway, Point, Process, TemperatureRule
from service.web.charts.heat_map import LEVELS, heat_map
from service.web.charts.intervals import Interval, interval_chart
from service.web.charts.lines import COLOURS, Series, line_chart
from service.web.charts.scales import linear, logarithmic, tick_label
from service.web.process_view import process_view

finite = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
positive = st.floats(min_value=1e-6, max_value=1e6)


class TestScales:
    def test_linear(self) -> None:
        scale = linear([0.13, 0.87], start=100, end=200, ticks=5)

        assert scale.ticks_at == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        assert (scale.position(0.0), scale.position(0.25), scale.position(1.0)) == (100, 125, 200)

    def test_logarithmic(self) -> None:
        scale = logarithmic([0.001, 0.02, 1.0], start=300, end=0)

        assert scale.ticks_at == pytest.approx((0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
        assert (scale.position(0.001), scale.position(1.0)) == (300, 0)
        assert scale.position(math.sqrt(0.001)) == pytest.approx(150)

    def test_zero_has_a_place_on_a_logarithmic_scale(self) -> None:
        assert logarithmic([0.0, 1.0, 0.1], start=300, end=0).position(0.0) == 300

    @given(st.lists(finite, min_size=1, max_size=20))
    def test_every_value_lies_between_start_and_end(self, values: list[float]) -> None:
        scale = linear(values, start=50, end=600)

        rounding = 1e-8 * (scale.high - scale.low)
        assert scale.low - rounding <= min(values)
        assert max(values) <= scale.high + rounding
        assert all(50 <= scale.position(value) <= 600 for value in values)
        assert 2 <= len(scale.ticks_at) <= 12
        assert len({tick.label for tick in scale.ticks}) >= 1

    @given(st.lists(positive, min_size=1, max_size=20))
    def test_the_largest_values_lie_inside_a_logarithmic_scale(self, values: list[float]) -> None:
        scale = logarithmic(values, start=300, end=0)
        positions = [scale.position(value) for value in sorted(values)]

        assert positions == sorted(positions, reverse=True)
        assert scale.low > 0
        assert scale.high >= max(values) * (1 - 1e-6)
        assert len(scale.ticks_at) >= 2

    @pytest.mark.parametrize(
        ("value", "label"), [(0.0, "0"), (0.25, "0.25"), (12.0, "12"), (0.0001, "1e-4"), (250_000.0, "2e5")]
    )
    def test_labels(self, value: float, label: str) -> None:
        assert tick_label(value) == label


class TestLines:
    def test_no_points_no_chart(self) -> None:
        assert line_chart([Series("a", [])], title="t", x_label="x", y_label="y") is None

    def test_more_lines_than_colours_are_told_apart_by_dashes(self) -> None:
        series = [Series(str(i), [(0, i), (1, i + 1)]) for i in range(COLOURS + 1)]
        chart = line_chart(series, title="t", x_label="x", y_label="y")

        assert chart is not None
        assert [(line.colour, line.dashed) for line in chart.lines][-2:] == [(COLOURS - 1, False), (0, True)]

    def test_what_is_emphasised_lies_on_top_and_what_is_faint_below(self) -> None:
        series = [
            Series("loud", [(0, 1)], emphasis=True),
            Series("plain", [(0, 1)]),
            Series("faint", [(0, 1)], faint=True),
        ]
        chart = line_chart(series, title="t", x_label="x", y_label="y")

        assert chart is not None
        assert [line.label for line in chart.lines] == ["faint", "plain", "loud"]


class TestIntervals:
    def test_zero_is_in_the_picture(self) -> None:
        chart = interval_chart(
            [Interval("a", 2.0, low=1.0, high=3.0)], title="t", x_label="x", with_zero=True
        )

        assert chart is not None
        (row,) = chart.rows
        assert chart.zero is not None
        assert row.bar_start is not None
        assert row.bar_end is not None
        assert chart.left <= chart.zero < row.bar_start < row.middle < row.bar_end <= chart.right


class TestHeatMap:
    def test_cells_fill_the_width_and_levels_follow_the_logarithm(self) -> None:
        chart = heat_map(
            [("a", [0.001, 1.0]), ("b", [0.03, 0.0])], moments=[0.0, 1.0], title="t", x_label="x"
        )

        assert chart is not None
        first, second = chart.rows
        assert [cell.level for cell in first.cells] == [0, LEVELS - 1]
        assert [cell.level for cell in second.cells] == [int(LEVELS * math.log(30) / math.log(1000)), 0]
        assert first.cells[0].x == chart.left
        assert first.cells[-1].x + first.cells[-1].width == pytest.approx(chart.right, abs=0.5)


class TestProcess:
    def process(self, pathways: int, points: int) -> Process:
        return Process(
            logit_losses=[LogitLoss()],
            pathways=[
                Pathway(teacher_stage=i, student_stage=i, transform="projection", distance="mse")
                for i in range(pathways)
            ],
            points=[
                Point(
                    progress=p / max(points - 1, 1),
                    logit_weights=[1.0],
                    pathway_weights=[0.1 * (i + 1) for i in range(pathways)],
                    teacher_temperatures=[2.0 + p],
                    student_temperatures=[2.0],
                )
                for p in range(points)
            ],
        )

    def test_a_constant_process_is_a_flat_line_over_all_training(self) -> None:
        view = process_view(self.process(2, 1).model_dump(mode="json"))

        assert view is not None
        assert view.is_constant
        assert view.map is None
        assert view.weights is not None
        line = view.weights.lines[0]
        start, end = (point.split() for point in line.path.removeprefix("M").split(" L"))
        assert start[1] == end[1]
        assert (float(start[0]), float(end[0])) == (view.weights.left, view.weights.right)

    def test_every_loss_and_temperature_is_there_in_figures(self) -> None:
        view = process_view(self.process(3, 5).model_dump(mode="json"))

        assert view is not None
        assert view.map is not None
        assert [row.label for row in view.losses] == [
            "logits · kd",
            "t0 → s0 · projection · mse",
            "t1 → s1 · projection · mse",
            "t2 → s2 · projection · mse",
        ]
        assert [(row.start, row.end) for row in view.temperature_rows] == [(2.0, 6.0), (2.0, 2.0)]

    def test_temperatures_name_the_rule_that_made_them(self) -> None:
        process = self.process(1, 5)
        ruled = [LogitLoss(temperature_rule=TemperatureRule(name="dts"))]
        views = [
            process_view(each.model_dump(mode="json"))
            for each in (process, process.model_copy(update={"logit_losses": ruled}))
        ]

        assert [[row.label for row in view.temperature_rows] for view in views if view] == [
            ["teacher · kd", "student · kd"],
            ["teacher · kd · dts", "student · kd · dts"],
        ]

    def test_with_many_pathways_those_that_weigh_most_keep_a_colour(self) -> None:
        view = process_view(self.process(40, 5).model_dump(mode="json"))

        assert view is not None
        assert view.weights is not None
        coloured = {line.label for line in view.weights.lines if line.colour is not None}
        assert len(coloured) == COLOURS
        assert "t39 → s39 · projection · mse" in coloured
        assert "t0 → s0 · projection · mse" not in coloured
        assert len(view.weights.lines) == 41

    def test_none_and_an_unknown_schema_have_no_view(self) -> None:
        assert process_view(None) is None
        assert process_view({"points": []}) is None
