"""What a recipe tells of the search that found it."""

from __future__ import annotations

from typing import Any

import pytest

from search.planning.arms import kd
from search.planning.given import GivenProcess
from search.recipe import Provenance, Recipe, Task, TaskModel
from search.spec import Training
from tests.search.planning.simulated_job import make_spec

PROCESS = kd(temperature=2.0, weight=3.0)


def recipe_with(evidence: dict[str, Any]) -> Recipe:
    model = TaskModel(model="test_resnet", parameters=1, stages=[])
    task = Task(
        teachers=[model],
        student=model,
        data="digits",
        data_sha256="0",
        classes=10,
        input_channels=1,
        input_size=32,
        split_sizes={},
    )
    provenance = Provenance(
        created_at="2026-01-01T00:00:00Z",
        versions={},
        device="cpu",
        threads=1,
        search_seed=0,
        proof_seeds=[],
    )
    return Recipe(
        arm="searched",
        task=task,
        process=PROCESS,
        epochs=1,
        training=Training(),
        spec=make_spec(),
        evidence=evidence,
        provenance=provenance,
    )


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (
            {
                "device_seconds": {"search": 2.0},
                "arms": [
                    {"arm": "tuned_kd", "search_device_seconds": 30.0},
                    {"arm": "searched", "search_device_seconds": 34.5},
                ],
            },
            34.5,
        ),
        (
            {
                "trials": [
                    {"key": "teacher-teacher-0-0", "device_seconds": 9.0},
                    {"key": "search-searched-0-0", "device_seconds": 20.0},
                    {"key": "search-constant-0-0", "device_seconds": 5.5},
                ]
            },
            25.5,
        ),
        ({}, 0.0),
        ({"arms": [{"arm": "searched", "search_device_seconds": None}]}, 0.0),
        ({"arms": "none", "trials": [3, {"device_seconds": 4.0}]}, 0.0),
    ],
)
def test_the_cost_of_the_search_is_read_from_the_evidence(evidence: dict[str, Any], expected: float) -> None:
    given = GivenProcess.of(recipe_with(evidence))
    assert given.process == PROCESS
    assert given.search_device_seconds == pytest.approx(expected)
