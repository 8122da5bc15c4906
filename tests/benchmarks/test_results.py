"""Figures, goals, time: what all benchmarks print in the same way."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import Goal, Result, Spread, parse_line, repeated, report


@pytest.mark.parametrize(
    "line",
    [
        "RESULT throughput_cached_share 0.93 ratio goal >= 0.9",
        "RESULT cifar10_gain_lower 1.25 points goal > 1",
        "RESULT search_step_overhead_k4 0.61 ratio goal <= 0.65",
        "RESULT cifar10_schedule_points -0.4 points",
    ],
)
def test_a_line_is_read_as_it_was_printed(line: str) -> None:
    assert parse_line(line).line() == line


@pytest.mark.parametrize("line", ["RESULT two 1", "RESULT a 1 ratio goal = 1", "result a 1 ratio", ""])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a RESULT line"):
        parse_line(line)


@given(value=st.floats(-1e6, 1e6), number=st.floats(-1e6, 1e6))
def test_goals_compare_as_they_read(value: float, number: float) -> None:
    assert Goal(">=", number).is_met(value) == (value >= number)
    assert Goal("<", number).is_met(value) == (value < number)
    assert Goal(">", number).is_met(value) != Goal("<=", number).is_met(value)


def test_a_figure_that_is_no_number_meets_no_goal_and_is_null_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Result("lost", math.nan, "points", Goal(">", -1e9))
    report([result], tmp_path / "deep" / "figures.json", details={"seeds": [0, 1]})
    document = json.loads((tmp_path / "deep" / "figures.json").read_text())
    assert document["results"][0]["value"] is None
    assert document["results"][0]["is_met"] is False
    assert document["seeds"] == [0, 1]
    assert document["machine"]["cores"] >= 1
    assert math.isnan(parse_line(capsys.readouterr().out).value)


def test_only_the_repeats_are_timed() -> None:
    calls: list[float] = []

    def slow_at_first() -> None:
        calls.append(0.05 if len(calls) < 2 else 0.0)
        time.sleep(calls[-1])

    seconds = repeated(slow_at_first, warm_up=2, repeats=3)
    assert len(calls) == 5
    assert len(seconds) == 3
    assert max(seconds) < 0.05


def test_spread() -> None:
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (spread.median, spread.least, spread.interquartile_range) == (3.0, 1.0, 2.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 0.0)
