"""A replay: linear interpolation of a record, and what no record may be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from search.process import ReplayedProcess
from search.recipe import Point, Process
from tests.search.process.processes import PATHWAYS, START, point, process, processes


def cross_entropy_weight(recorded: Process, at: Point) -> float:
    own = at.cross_entropy_weight
    return recorded.cross_entropy_weight if own is None else own


def test_a_replay_interpolates_linearly() -> None:
    recorded = process(
        START,
        point(0.5, logit=2.0, pathways=[0.1, 0.1, 0.1]),
        point(1.0, logit=0.0, pathways=[0.0, 0.5, 1.0]),
    )
    replayed = ReplayedProcess(recorded)
    for progress in np.linspace(0, 1, 11):
        expected = np.interp(progress, [0, 0.5, 1], [1.0, 2.0, 0.0])
        assert float(replayed.at(progress).logit_weights[0]) == pytest.approx(expected)
    assert replayed.at(0.75).pathway_weights.tolist() == pytest.approx([0.05, 0.3, 0.55])
    assert replayed.at(0.5).student_temperatures.tolist() == [4.0]


@given(recorded=processes(), progress=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_any_process_at_any_moment_is_what_numpy_interpolates(recorded: Process, progress: float) -> None:
    found = ReplayedProcess(recorded).at(progress)
    at = [p.progress for p in recorded.points]
    entropy = np.interp(progress, at, [cross_entropy_weight(recorded, p) for p in recorded.points])
    assert found.cross_entropy_weight == pytest.approx(entropy, rel=1e-9, abs=1e-9)
    for name in ("logit_weights", "pathway_weights", "teacher_temperatures", "student_temperatures"):
        columns = zip(*(getattr(p, name) for p in recorded.points), strict=True)
        expected = [np.interp(progress, at, column) for column in columns]
        assert getattr(found, name).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(recorded=processes())
@settings(max_examples=30, deadline=None)
def test_at_its_points_a_process_is_what_was_recorded(recorded: Process) -> None:
    replayed = ReplayedProcess(recorded)
    expected = [
        p.model_copy(update={"cross_entropy_weight": cross_entropy_weight(recorded, p)})
        for p in recorded.points
    ]
    assert [replayed.at(p.progress).point(p.progress) for p in recorded.points] == expected


def test_one_point_is_constant() -> None:
    replayed = ReplayedProcess(process(START))
    assert replayed.process.is_constant
    assert replayed.at(0.9).pathway_weights.tolist() == [0.05, 0.2, 0.4]


def test_what_is_negligible_is_not_active() -> None:
    effective = ReplayedProcess(process(START)).at(0.0)
    assert effective.active(0.0) == (0, 1, 2)
    assert effective.active(0.05) == (0, 1, 2)
    assert effective.active(0.0500001) == (1, 2)
    assert effective.active(1.0) == ()


def test_json_gives_the_same_process() -> None:
    recorded = process(START, point(1.0, logit=1 / 3, pathways=[1e-7, 0.1, 123.456]))
    assert Process.model_validate_json(recorded.model_dump_json()) == recorded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"points": []}, "at least 1 item"),
        ({"points": [START, START]}, "increasing order"),
        ({"pathways": PATHWAYS[:2]}, "expected"),
        ({"points": [START.model_copy(update={"logit_weights": [float("nan")]})]}, "finite"),
        ({"points": [START.model_copy(update={"logit_weights": [-1.0]})]}, "greater than or equal to 0"),
    ],
)
def test_a_process_that_makes_no_sense_is_refused(change: dict, reason: str) -> None:
    document = process(START).model_dump()
    for name, value in change.items():
        document[name] = [item.model_dump() for item in value]
    with pytest.raises(ValidationError, match=reason):
        Process.model_validate(document)
