"""Edits of a process, against integrals and interpolations computed by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.process_shapes import at, averaged, held, pruned, shuffled, stays_near
from search.recipe import Process


def process_of(weights: list[list[float]], progress: list[float] | None = None) -> Process:
    """A process with one logit loss and a pathway per column; its logit weight is the first column."""
    moments = progress or np.linspace(0, 1, len(weights)).tolist()
    pathways = [
        {"teacher_stage": index, "student_stage": index, "transform": "projection", "distance": "mse"}
        for index in range(len(weights[0]))
    ]
    points: list[dict[str, Any]] = [
        {
            "progress": moment,
            "logit_weights": [row[0]],
            "pathway_weights": row,
            "teacher_temperatures": [1 + row[0]],
            "student_temperatures": [2.0],
        }
        for moment, row in zip(moments, weights, strict=True)
    ]
    return Process.model_validate({"logit_losses": [{}], "pathways": pathways, "points": points})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.floats(0, 100), min_size=2, max_size=2), min_size=1, max_size=7),
    last=st.floats(0.05, 1.0),
)
def test_the_mean_of_the_last_part_is_the_integral_of_the_interpolation(
    rows: list[list[float]], last: float
) -> None:
    process = process_of(rows)
    (point,) = averaged(process, last=last).points
    moments = [one.progress for one in process.points]
    knots = np.unique([1 - last, *(m for m in moments if m > 1 - last), 1.0])
    for column, found in enumerate(point.pathway_weights):
        values = np.interp(knots, moments, [row[column] for row in rows])
        assert found == pytest.approx(np.trapezoid(values, knots) / last, rel=1e-9, abs=1e-9)
    assert point.student_temperatures == pytest.approx([2.0])
    assert point.teacher_temperatures[0] == pytest.approx(1 + point.logit_weights[0])


@settings(max_examples=60, deadline=None)
@given(
    moments=st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True),
    progress=st.floats(0, 1),
)
def test_a_moment_is_interpolated_as_numpy_does(moments: list[float], progress: float) -> None:
    moments = sorted(moments)
    process = process_of([[float(7 * index % 5)] for index in range(len(moments))], moments)
    weights = [point.pathway_weights[0] for point in process.points]
    found = at(process, progress)
    assert found.progress == progress
    assert found.pathway_weights[0] == pytest.approx(np.interp(progress, moments, weights), abs=1e-9)


def test_held_is_the_end() -> None:
    process = process_of([[1.0], [2.0], [5.0]])
    assert held(process).points[0].pathway_weights == [5.0]
    assert held(process).is_constant
    assert held(process).points[0].progress == 0.0


def test_pruned_keeps_names_and_weights_together() -> None:
    process = process_of([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    kept = pruned(process, [2, 0])
    assert [pathway.teacher_stage for pathway in kept.pathways] == [0, 2]
    assert [point.pathway_weights for point in kept.points] == [[1.0, 3.0], [4.0, 6.0]]
    assert [point.logit_weights for point in kept.points] == [[1.0], [4.0]]
    assert Process.model_validate(kept.model_dump()) == kept
    assert pruned(process, range(3)) == process
    assert not pruned(process, []).pathways


def test_nearness_is_relative_and_looks_at_every_moment() -> None:
    flat = process_of([[1.0], [1.0], [1.0]])
    assert stays_near(flat, held(flat), within=0.0)
    assert stays_near(flat, process_of([[1.0], [1.04], [1.0]]), within=0.05)
    assert not stays_near(flat, process_of([[1.0], [1.06], [1.0]]), within=0.05)
    assert not stays_near(held(flat), process_of([[1.0], [1.2], [1.0]]), within=0.05)


def test_a_shuffle_is_a_permutation_and_never_none() -> None:
    process = process_of([[float(index)] for index in range(4)])
    for seed in range(30):
        points = shuffled(process, seed=seed).points
        assert [point.progress for point in points] == [point.progress for point in process.points]
        order = [point.pathway_weights[0] for point in points]
        assert sorted(order) == [0.0, 1.0, 2.0, 3.0] != order
