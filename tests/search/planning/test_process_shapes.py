"""Edits of a process that arms and candidates are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from search.planning.process_shapes import held, pruned, scaled, shuffled, stays_near
from search.planning.process_table import ProcessTable
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


def test_scaled_is_every_weight_and_no_temperature() -> None:
    process = process_of([[1.0, 2.0], [4.0, 5.0]])
    last = process.points[1].model_copy(update={"cross_entropy_weight": 0.25})
    found = scaled(process.model_copy(update={"points": [process.points[0], last]}), 4)
    assert ProcessTable(found).rows.tolist() == [
        [4.0, 4.0, 4.0, 8.0, 2.0, 2.0],
        [1.0, 16.0, 16.0, 20.0, 5.0, 2.0],
    ]
    assert Process.model_validate(found.model_dump()) == found


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
    one, again, other = (shuffled(process, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
